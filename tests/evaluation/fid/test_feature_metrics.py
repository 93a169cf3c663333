"""FID at infinity, KID, IS, precision and recall against closed forms and plain loops."""

import numpy as np
import pytest

from ddpm_jax.evaluation.fid import feature_metrics, frechet


def normal(seed: int, n: int, d: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)) + shift


def unit(d: int) -> frechet.Target:
    return frechet.target(frechet.Fit(np.zeros(d), np.eye(d)))


def test_fid_at_infinity_is_without_the_bias_of_few_images() -> None:
    """Of samples of the reference itself: 0, where 4,000 samples say about (tr S + ...)/n."""
    d, n = 10, 4000
    bias = frechet.finite_sample_bias(np.eye(d), n)
    found = [
        feature_metrics.fid_infinity(normal(seed, n, d), unit(d), range(200, n + 1, 200), seed) for seed in range(10)
    ]
    values = np.array([one.value for one in found])
    assert abs(values.mean()) < 4 * values.std(ddof=1) / np.sqrt(10) + 0.1 * bias
    fits = [frechet.gaussian_fit(normal(seed, n, d)) for seed in range(10)]
    plain = np.mean([frechet.frechet_distance(*fit, np.zeros(d), np.eye(d)) for fit in fits])
    assert plain == pytest.approx(bias, rel=0.2) and abs(values.mean()) < 0.5 * plain


def test_the_line_is_that_of_numpy() -> None:
    x, y = np.array([0.1, 0.2, 0.4, 0.9]), np.array([1.0, 1.3, 1.2, 2.0])
    (_, intercept), cov = np.polyfit(x, y, 1, cov=True)
    found = feature_metrics._intercept(x, y)
    assert found == pytest.approx((intercept, np.sqrt(cov[1, 1])))
    assert np.isnan(feature_metrics._intercept(x[:2], y[:2]).standard_error)


def test_kid_is_the_mean_over_pairs_of_its_kernel() -> None:
    a, b = normal(0, 7, 3), normal(1, 7, 3, shift=0.5)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 3 + 1) ** 3)

    pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
    within = [np.mean([kernel(side[i], side[j]) for i, j in pairs]) for side in (a, b)]
    across = np.mean([kernel(x, y) for x in a for y in b])
    found = feature_metrics.kid(a, b, subsets=3, size=7)
    assert found == pytest.approx((sum(within) - 2 * across, 0), abs=1e-12)


def test_kid_of_equal_distributions_is_zero_within_its_error() -> None:
    found = feature_metrics.kid(normal(0, 3000, 5), normal(1, 3000, 5), subsets=50, size=200)
    assert abs(found.value) < 5 * found.standard_error + 0.02 and found.standard_error > 0
    assert feature_metrics.kid(normal(0, 3000, 5), normal(1, 3000, 5, 1.0), subsets=50, size=200).value > 1


def test_the_inception_score_of_certain_and_balanced_classes_is_their_number() -> None:
    certain = 1000 * np.eye(5)[np.arange(100) % 5]
    assert feature_metrics.inception_score(certain, splits=4) == pytest.approx((5, 0), abs=1e-9)
    assert feature_metrics.inception_score(np.zeros((100, 5)), splits=4) == pytest.approx((1, 0), abs=1e-9)
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    mean = p.mean(axis=0)
    by_hand = np.exp(np.mean([sum(q * np.log(q / m) for q, m in zip(row, mean, strict=True)) for row in p]))
    assert feature_metrics._score(np.log(p)) == pytest.approx(by_hand)


def test_precision_and_recall_by_hand() -> None:
    """On a line: images at 0, 1, 2, 3 reach 1 each; samples at 1.5 and 2.4 are among them, 10 and 11 are not."""
    reference, samples = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([[1.5], [2.4], [10.0], [11.0]])
    # reach of the samples, their nearest: .9, .9, 1, 1; images within: 1 and 2 of 1.5 and 2.4, and 3 of 2.4
    assert feature_metrics.precision_recall(samples, reference, k=1) == (0.5, 0.75)
    far = np.array([[50.0], [60.0]])  # which no sample reaches: 3 of 6 images are recalled
    assert feature_metrics.precision_recall(samples, np.concatenate([reference, far]), k=1) == (0.5, 0.5)


def test_what_cannot_be_measured_is_refused() -> None:
    few = normal(0, 5, 2)
    with pytest.raises(ValueError, match=r"sizes \[5\]: two or more different ones from 2 to 5"):
        feature_metrics.fid_infinity(few, unit(2), [5])
    with pytest.raises(ValueError, match=r"size = 1000, subsets = 100: size lies in 2\.\.5"):
        feature_metrics.kid(few, few)
    with pytest.raises(ValueError, match="splits = 10: from 2 to 5"):
        feature_metrics.inception_score(few)
    with pytest.raises(ValueError, match="k = 5: neighbours from 1 to 4 exist"):
        feature_metrics.precision_recall(few, few, k=5)
