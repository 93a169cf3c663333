"""Which times a chain visits; the dynamic programme against trying every trajectory."""

import numpy as np
import pytest

from ddpm_jax.diffusion import process, timesteps, variances
from tests.oracle import trajectories


def test_golden_even_trajectory():
    assert list(timesteps.even(1000, 10)) == [1, 112, 223, 334, 445, 556, 667, 778, 889, 1000]


@pytest.mark.parametrize("K", [1, 2, 3, 7, 10, 99, 333, 999, 1000])
def test_even_is_the_rounded_formula(K):
    assert list(timesteps.even(1000, K)) == trajectories.even(1000, K)


def test_as_many_steps_as_times_visits_them_all():
    for name, times in timesteps.TRAJECTORIES.items():
        assert list(times(17, 17)) == list(range(1, 18)), name


@pytest.mark.parametrize("name", sorted(timesteps.TRAJECTORIES))
@pytest.mark.parametrize("T", [1, 4, 50, 1000])
def test_named_trajectories_ascend_from_1_to_T(name, T):
    for K in {1, 2, 3, T // 3, T // 2, T - 1, T} & set(range(1, T + 1)):
        times = timesteps.TRAJECTORIES[name](T, K)
        assert len(times) == K and times[-1] == T and (np.diff(times) > 0).all() and times[0] >= 1
        assert K == 1 or times[0] == 1


def test_quadratic_is_denser_near_the_data():
    gaps = np.diff(timesteps.quadratic(1000, 10))
    assert (np.diff(gaps) > 0).all()
    np.testing.assert_allclose(np.sqrt(timesteps.quadratic(1000, 10)), np.linspace(1, np.sqrt(1000), 10), atol=0.3)


def test_explicit_times_are_kept():
    assert list(timesteps.explicit(10, [1, 5, 10])) == [1, 5, 10]


@pytest.mark.parametrize("times", [[5, 1, 10], [1, 5, 5, 10], [0, 10], [1, 11], [-3, 10]])
def test_unsorted_repeated_or_outlying_times_are_refused(times):
    with pytest.raises(ValueError, match="|".join(str(t) for t in times)):
        timesteps.explicit(10, times)


@pytest.mark.parametrize("K", [0, -2, 11])
@pytest.mark.parametrize("name", sorted(timesteps.TRAJECTORIES))
def test_too_many_or_too_few_steps_are_refused_with_the_value(name, K):
    with pytest.raises(ValueError, match=str(K)):
        timesteps.TRAJECTORIES[name](10, K)


@pytest.mark.parametrize("K", [0, -2, 11])
def test_an_optimal_trajectory_of_impossible_length_is_refused_with_the_value(K):
    with pytest.raises(ValueError, match=str(K)):
        timesteps.optimal(np.ones((11, 11)), K)


# ---------------------------------------------------------------- the optimal trajectory


@pytest.mark.parametrize("K", range(1, 11))
@pytest.mark.parametrize("seed", range(5))
def test_optimal_equals_brute_force_on_random_costs(seed, K):
    cost = np.random.default_rng(seed).exponential(size=(11, 11))
    least, times = trajectories.cheapest(cost, K)
    found = [int(t) for t in timesteps.optimal(cost, K)]
    assert tuple(found) == times
    assert trajectories.path_cost(cost, found) == pytest.approx(least, rel=1e-12)


def test_entries_that_are_no_steps_are_not_read():
    cost = np.random.default_rng(0).exponential(size=(11, 11))
    spoiled = np.where(np.triu(np.ones((11, 11), bool), 1), cost, np.nan)
    assert list(timesteps.optimal(spoiled, 4)) == list(timesteps.optimal(cost, 4))


@pytest.mark.parametrize("seed", range(3))
def test_steps_that_are_not_allowed_are_not_taken(seed):
    rng = np.random.default_rng(seed)
    cost = rng.exponential(size=(11, 11))
    cost[0, 2:] = np.inf
    for K in range(2, 11):
        least, times = trajectories.cheapest(cost, K)
        assert times[0] == 1 and np.isfinite(least)
        assert tuple(int(t) for t in timesteps.optimal(cost, K)) == times


def test_no_allowed_path_is_refused():
    cost = np.ones((11, 11))
    cost[0, 2:] = np.inf
    with pytest.raises(ValueError, match="1"):
        timesteps.optimal(cost, 1)


def test_one_programme_gives_the_paths_of_every_length():
    cost = np.random.default_rng(7).exponential(size=(11, 11))
    paths = timesteps.cheapest_paths(cost, [2, 5, 10])
    assert sorted(paths) == [2, 5, 10]
    for K, times in paths.items():
        assert list(times) == list(timesteps.optimal(cost, K))


def test_a_chain_of_any_trajectory_can_be_built(linear):
    for times in (timesteps.even(1000, 10), timesteps.quadratic(1000, 10), timesteps.explicit(1000, [3, 1000])):
        steps = process.steps(linear, times)
        assert np.isfinite(variances.table(variances.large(linear), steps)).all()
