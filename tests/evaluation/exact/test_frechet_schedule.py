"""The convex program: against grids, small changes, and what convexity promises."""

import numpy as np
import pytest

from ddpm_jax.diffusion import process, timesteps
from ddpm_jax.evaluation.exact import frechet_schedule, gaussian_chain
from tests.oracle import gaussian_paths, pairs

SHORT = [0.1, 0.3, 0.5, 0.7]
C = np.array([0.05, 0.25, 1.0, 4.0, 30.0])
MANY = np.geomspace(1e-3, 100.0, 60)  # more directions than steps: they cannot all be met


def distance(tables, steps, sigma2, c=C):
    with np.errstate(divide="ignore"):
        return gaussian_chain.frechet(gaussian_chain.final(tables, steps, np.log(sigma2), c), c)


@pytest.mark.parametrize("times", [[2, 4], [1, 4], [3, 4]])
@pytest.mark.parametrize("c", [C, C[:3], np.array([0.5, 0.6])])
def test_two_variances_are_those_a_grid_finds(short, times, c):
    steps = process.steps(short, times)
    found = frechet_schedule.optimum(short, steps, c)
    oracle = pairs.chain(SHORT, times)
    least, point = gaussian_paths.best_two(oracle, c, [8.0, 8.0])
    assert found.distance <= least * (1 + 1e-9) + 1e-12
    assert found.distance == pytest.approx(least, rel=1e-5, abs=1e-7)
    np.testing.assert_allclose(found.variance, point, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("floored", [False, True])
@pytest.mark.parametrize("K", [3, 10, 25])
def test_no_small_change_is_better(linear, K, floored):
    steps = process.steps(linear, timesteps.even(1000, K))
    floor = steps.tb if floored else np.zeros(K)
    found = frechet_schedule.optimum(linear, steps, MANY, floor)
    assert (found.variance >= floor).all()
    assert found.distance == pytest.approx(distance(linear, steps, found.variance, MANY), rel=1e-9)
    random = np.random.default_rng(1)
    for size in (1e-4, 1e-2, 0.3):
        for _ in range(20):
            other = np.maximum(found.variance * (1 + size * random.standard_normal(K)), floor)
            other += size * 1e-3 * random.uniform(0, 1, K)
            assert distance(linear, steps, other, MANY) >= found.distance * (1 - 1e-9)


@pytest.mark.parametrize("K", [2, 10, 50])
def test_the_conditions_of_an_optimum_hold(linear, K):
    """No gradient where a variance is free, none downwards where it is at its floor."""
    steps = process.steps(linear, timesteps.even(1000, K))
    found = frechet_schedule.optimum(linear, steps, MANY)
    assert 0 <= found.gap <= 1e-7 * found.distance
    assert found.least_gradient >= -1e-8
    offset, weights = gaussian_chain.affine(linear, steps, MANY)
    gradient = weights @ (1 - np.sqrt(MANY / (offset + found.variance @ weights)))
    free = found.variance > 1e-9
    q = np.exp(gaussian_chain.true_log_var(linear, steps, MANY)).mean(axis=1)
    assert np.abs(gradient * q)[free].max() <= 1e-6
    assert (gradient * q)[~free].min(initial=0) >= -1e-6


def test_one_direction_can_be_met_exactly(linear):
    for c in (0.25, 4.0):
        steps = process.steps(linear, timesteps.even(1000, 5))
        found = frechet_schedule.optimum(linear, steps, np.array([c]))
        assert found.distance < 1e-12
        end = gaussian_chain.final(linear, steps, np.log(found.variance + 1e-300), np.array([c]))
        assert end.variance[0] == pytest.approx(c, rel=1e-5)


def test_either_optimum_wins_in_its_own_score(linear):
    """The mean of Q over directions is the least isotropic path KL, and not the least Frechet distance."""
    steps = process.steps(linear, timesteps.even(1000, 10))
    likely = np.exp(gaussian_chain.true_log_var(linear, steps, MANY)).mean(axis=1)
    near = frechet_schedule.optimum(linear, steps, MANY, steps.tb)
    free = frechet_schedule.optimum(linear, steps, MANY)
    assert free.distance <= near.distance < 0.5 * distance(linear, steps, likely, MANY)
    paths = [gaussian_chain.path_kl(linear, steps, np.log(x + 1e-300), MANY).sum() for x in (likely, near.variance)]
    assert paths[0] < paths[1]


def test_the_shape_of_the_data_does_not_matter(linear):
    steps = process.steps(linear, timesteps.even(1000, 5))
    flat = frechet_schedule.optimum(linear, steps, np.repeat(C[:4], 2))
    image = frechet_schedule.optimum(linear, steps, np.repeat(C[:4], 2).reshape(2, 4, 1))
    assert flat.distance == pytest.approx(image.distance, rel=1e-12)


def test_data_that_do_not_vary_are_refused(short):
    with pytest.raises(ValueError, match="variance 0"):
        frechet_schedule.optimum(short, process.steps(short, [1, 4]), np.array([0.0, 1.0]))


def test_a_program_that_does_not_converge_says_so(short, monkeypatch):
    monkeypatch.setattr(frechet_schedule, "MOST_ITERATIONS", 1)
    with pytest.raises(ArithmeticError, match="no convergence in 1 steps"):
        frechet_schedule.optimum(short, process.steps(short, [1, 2, 4]), C)
