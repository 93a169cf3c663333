"""The Frechet distance against a general matrix square root, closed forms and simulation."""

import numpy as np
import pytest

from ddpm_jax.evaluation.fid import frechet
from tests.oracle import frechet as oracle_frechet


def random_cov(seed, d=6, rank=None):
    root = np.random.default_rng(seed).normal(size=(d, rank or 2 * d))
    return root @ root.T / root.shape[1]


@pytest.mark.parametrize("seed", range(4))
def test_the_distance_equals_the_general_matrix_square_root(seed):
    mean_a, mean_b = np.random.default_rng(100 + seed).normal(size=(2, 6))
    a, b = random_cov(seed), 2 * random_cov(50 + seed)
    assert frechet.frechet_distance(mean_a, a, mean_b, b) == pytest.approx(
        oracle_frechet.distance(mean_a, a, mean_b, b), rel=1e-9
    )


def test_diagonal_covariances_have_a_closed_form():
    """sum (sqrt p - sqrt c)^2 + ||difference of means||^2."""
    rng = np.random.default_rng(0)
    p, c, gap = rng.uniform(0.1, 4, 8), rng.uniform(0.1, 4, 8), rng.normal(size=8)
    expected = np.sum((np.sqrt(p) - np.sqrt(c)) ** 2) + gap @ gap
    assert frechet.frechet_distance(np.zeros(8), np.diag(p), gap, np.diag(c)) == pytest.approx(expected, rel=1e-10)


def test_singular_covariances_are_no_special_case():
    """Rank 2 of 6 in the same directions: the closed form on the common eigenvectors, no NaN and no imaginary part."""
    vectors = np.linalg.qr(np.random.default_rng(3).normal(size=(6, 6)))[0][:, :2]
    a, b = (vectors * scales @ vectors.T for scales in ([4.0, 1.0], [1.0, 9.0]))
    # Square roots of rounding errors of 1e-16 are 1e-8.
    assert frechet.frechet_distance(np.zeros(6), a, np.zeros(6), b) == pytest.approx(1 + 4, abs=1e-6)
    assert frechet.frechet_distance(np.zeros(6), np.zeros((6, 6)), np.ones(6), a) == pytest.approx(5 + 6, abs=1e-6)


def test_fewer_features_than_dimensions_give_a_finite_distance():
    rng = np.random.default_rng(4)
    a, b = (frechet.gaussian_fit(rng.normal(size=(5, 12))) for _ in range(2))
    assert np.isfinite(frechet.frechet_distance(*a, *b)) and frechet.frechet_distance(*a, *b) > 0


def test_a_distance_to_itself_is_zero_and_both_orders_agree():
    a, b, mean = random_cov(0), random_cov(1), np.random.default_rng(5).normal(size=6)
    assert frechet.frechet_distance(mean, a, mean, a) == pytest.approx(0, abs=1e-7)
    forth, back = frechet.frechet_distance(mean, a, -mean, b), frechet.frechet_distance(-mean, b, mean, a)
    assert forth == pytest.approx(back, rel=1e-9)


def test_the_fit_is_the_mean_and_the_unbiased_covariance():
    x = np.random.default_rng(6).normal(size=(40, 5))
    mean, cov = frechet.gaussian_fit(x)
    np.testing.assert_allclose(mean, x.sum(0) / 40, rtol=1e-12)
    np.testing.assert_allclose(cov, sum(np.outer(row, row) for row in x - mean) / 39, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("n", [100, 50_000])
def test_the_bias_is_the_double_sum(n):
    assert frechet.finite_sample_bias(random_cov(0), n) == pytest.approx(
        oracle_frechet.bias(random_cov(0), n), rel=1e-9
    )


def test_the_bias_is_the_mean_distance_of_matching_samples():
    """400 samples of n = 1000 from a Gaussian against its own mean and covariance.

    The formula is the first order in 1/n; the next is smaller by about d/n < 1 %.
    """
    n, runs, rng = 1000, 400, np.random.default_rng(7)
    eigenvalues = np.array([4.0, 1.0, 0.5, 0.1])
    cov = np.diag(eigenvalues)
    distances = []
    for _ in range(runs):
        fit = frechet.gaussian_fit(rng.normal(size=(n, 4)) * np.sqrt(eigenvalues))
        distances.append(frechet.frechet_distance(*fit, np.zeros(4), cov))
    error = np.std(distances, ddof=1) / np.sqrt(runs)
    expected = frechet.finite_sample_bias(cov, n)
    assert np.mean(distances) == pytest.approx(expected, abs=4 * error + 0.01 * expected)


@pytest.mark.parametrize("n", [250, 1000, 4000])
def test_the_distance_of_two_gaussians_converges_to_the_closed_form_with_the_predicted_bias(n):
    """E distance = distance + [tr P + 1/2 sum_ij r_i r_j (1 + d_ij)/(r_i + r_j)]/n, r = sqrt(p c).

    The second order of tr (P C)^(1/2) in the error of the estimated P, whose entries vary by p_i p_j (1 + d_ij)/n.
    """
    runs, rng = 400, np.random.default_rng(9)
    p, c, gap = np.array([3.0, 1.0, 0.4, 0.2]), np.array([1.0, 2.0, 0.3, 0.1]), np.array([0.5, 0.0, -0.2, 0.1])
    root = np.sqrt(p * c)
    pairs = sum(a * b * (1 + (i == j)) / (a + b) for i, a in enumerate(root) for j, b in enumerate(root))
    bias = (p.sum() + pairs / 2) / n
    exact = np.sum((np.sqrt(p) - np.sqrt(c)) ** 2) + gap @ gap
    fits = (frechet.gaussian_fit(gap + rng.normal(size=(n, 4)) * np.sqrt(p)) for _ in range(runs))
    distances = [frechet.frechet_distance(*fit, np.zeros(4), np.diag(c)) for fit in fits]
    error = np.std(distances, ddof=1) / np.sqrt(runs)
    assert np.mean(distances) == pytest.approx(exact + bias, abs=4 * error + 4 / n * bias)


def test_directions_without_variance_add_no_bias():
    padded = np.zeros((5, 5))
    padded[:3, :3] = random_cov(1, 3)
    assert frechet.finite_sample_bias(padded, 100) == pytest.approx(
        frechet.finite_sample_bias(random_cov(1, 3), 100), rel=1e-9
    )


@pytest.mark.parametrize("cuts", [[1], [3, 20, 39], list(range(1, 40))])
def test_sums_of_parts_are_those_of_the_whole(cuts):
    """Also far from 0, where a difference of squares would lose everything."""
    x = 1e6 + np.random.default_rng(8).normal(size=(40, 5))
    parts = [frechet.sums(part) for part in np.split(x, cuts)]
    whole = parts[0]
    for part in parts[1:]:
        whole = frechet.added(whole, part)
    mean, cov = frechet.fit(whole)
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-15)
    np.testing.assert_allclose(cov, np.cov(x - 1e6, rowvar=False), rtol=1e-6)
    with pytest.raises(ValueError, match="1 features: a covariance needs at least 2"):
        frechet.fit(frechet.sums(x[:1]))
