"""Frequencies of images: SciPy's DCT along colour axes, and sums over rings of it written out."""

import numpy as np
from scipy import fft


def coefficients(images, axes):
    """Of (..., H, W, C): the orthonormal 2-D DCT of every colour axis, one axis a row."""
    return fft.dctn(np.asarray(images, np.float64) @ np.asarray(axes).T, axes=(-3, -2), norm="ortho")


def standard_error(values):
    """Of the mean of some numbers."""
    mean = sum(values) / len(values)
    return np.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
