"""The Frechet distance by a general matrix square root, and its bias for finite samples by a double loop."""

import numpy as np
from scipy.linalg import sqrtm


def distance(mean_a, cov_a, mean_b, cov_b):
    """||mean_a - mean_b||^2 + tr(A + B - 2 sqrt(AB))."""
    root = sqrtm(np.asarray(cov_a, float) @ np.asarray(cov_b, float))
    return float(np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(root).real)


def bias(cov, n):
    """[tr S + 1/2 sum_ij l_i l_j (1 + d_ij)/(l_i + l_j)]/n."""
    eigenvalues = np.linalg.eigvalsh(cov)
    total = sum(eigenvalues)
    for i, x in enumerate(eigenvalues):
        for j, y in enumerate(eigenvalues):
            total += 0.5 * x * y * (1 + (i == j)) / (x + y)
    return total / n
