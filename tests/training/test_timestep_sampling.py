"""The time samplers: their laws, the weight that keeps the mean, the history, the same draws on many devices."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ddpm_jax.training import timestep_sampling
from ddpm_jax.training.timestep_sampling import TIME_SAMPLERS, History
from tests.oracle import time_samplers

K = 7
MEANS = np.array([8.0, 3.0, 1.0, 0.5, 0.2, 0.1, 0.002])  # of made-up losses: a few times matter, the last hardly


remember = jax.jit(timestep_sampling.remember)
shares = jax.jit(timestep_sampling.shares)


@cache
def filled() -> tuple[History, time_samplers.Memory]:
    """A history after 40 batches of 16 made-up losses, ours and the oracle's."""
    draw = np.random.default_rng(0)
    history, memory = timestep_sampling.empty(K), time_samplers.Memory(K)
    for _ in range(40):
        k = draw.integers(0, K, 16)
        losses = (MEANS[k] * draw.uniform(0.5, 1.5, 16)).astype(np.float32)
        history = remember(history, jnp.asarray(k, jnp.int32), jnp.asarray(losses))
        memory.see(k, losses.astype(float))
    return history, memory


@cache
def draws(name: str, K: int = K, batch: int = 4, full: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The indices and weights of 20,000 steps, (steps, batch), without or with losses to go by."""
    history = filled()[0] if full else TIME_SAMPLERS[name].init(K)

    def step(key):
        keys = jax.random.split(key, batch + 1)
        return TIME_SAMPLERS[name].draw(history, keys[0], keys[1:], jnp.arange(batch), batch)

    k, weight = jax.jit(jax.vmap(step))(jax.random.split(jax.random.key(1), 20_000))
    assert k.dtype == jnp.int32 and weight.dtype == jnp.float32
    return np.asarray(k), np.asarray(weight)


@pytest.mark.parametrize("name", TIME_SAMPLERS)
def test_every_example_of_an_unknown_history_has_the_uniform_law(name: str) -> None:
    k, weight = draws(name)
    np.testing.assert_allclose(weight, 1, rtol=1e-6)
    for place in k.T:  # one example of every step: these are independent
        assert stats.chisquare(np.bincount(place, minlength=K)).pvalue > 1e-4


def test_loss_second_moment_draws_by_the_root_mean_square_of_the_last_losses() -> None:
    k, _ = draws("loss_second_moment", full=True)
    p = np.array(filled()[1].probabilities())
    assert p.min() * k.size > 10  # draws of the rarest index, enough for chi-square
    assert stats.chisquare(np.bincount(k.ravel(), minlength=K), p * k.size).pvalue > 1e-4


def test_shares_are_the_oracles_probabilities_also_of_rare_indices() -> None:
    history, memory = filled()
    share = np.asarray(shares(history), float)
    # rounding to 2^-30 of p >= .001/7, and float32 roots
    np.testing.assert_allclose(share / share.sum(), memory.probabilities(), rtol=1e-5)


def test_the_smallest_probability_of_a_long_chain_is_kept() -> None:
    losses = jnp.zeros((4000, timestep_sampling.KEPT)).at[0].set(1.0)
    share = np.asarray(shares(History(losses, jnp.full(4000, 10, jnp.int32))), float)
    # .001/4000 of 2^30 is 268.4, so whole numbers err by at most 1/537
    np.testing.assert_allclose(share[1:] / share.sum(), 0.001 / 4000, rtol=1 / 500)


@pytest.mark.parametrize("name", TIME_SAMPLERS)
def test_the_weighted_loss_has_the_mean_over_all_times_as_its_expectation(name: str) -> None:
    k, weight = draws(name, full=TIME_SAMPLERS[name].update is not timestep_sampling.forget)
    means = (weight * MEANS[k]).mean(axis=1)  # of steps, which are independent
    assert abs(means.mean() - MEANS.mean()) < 5 * means.std() / np.sqrt(len(means))


def test_weights_are_1_over_K_p() -> None:
    k, weight = draws("loss_second_moment", full=True)
    np.testing.assert_allclose(weight, 1 / (K * np.array(filled()[1].probabilities()))[k], rtol=1e-5)


def test_loss_second_moment_is_less_noisy_than_uniform_draws() -> None:
    noise = {}
    for name, full in (("uniform", False), ("loss_second_moment", True)):
        k, weight = draws(name, full=full)
        noise[name] = np.std(weight * MEANS[k])
    # uniform: sd of MEANS is 2.7; a perfect p would leave 0, ten losses with 29 % spread leave about .1 of the mean 1.8
    assert noise["loss_second_moment"] < 0.2 * noise["uniform"]


@pytest.mark.parametrize(("K", "batch"), [(10, 5), (6, 18), (7, 4)])
def test_antithetic_hits_every_stratum_equally(K: int, batch: int) -> None:
    k, _ = draws("antithetic", K, batch)
    for step in k[:50]:
        counts = np.bincount(step, minlength=K)
        assert set(counts) <= {batch // K, -(-batch // K)}
        if K % batch == 0:  # a stratum is K/B indices long
            assert sorted(step * batch // K) == list(range(batch))


@pytest.mark.parametrize(("K", "batch"), [(7, 4), (6, 18)])
def test_antithetic_indices_are_those_of_one_uniform_number(K: int, batch: int) -> None:
    k, _ = draws("antithetic", K, batch)
    numbers = {tuple(time_samplers.low_discrepancy((r + 0.5) / (K * batch), K, batch)) for r in range(K * batch)}
    assert {tuple(step) for step in k} == numbers


@pytest.mark.parametrize("name", TIME_SAMPLERS)
def test_two_halves_of_a_batch_drawn_apart_are_the_whole(name: str) -> None:
    sampler, (history, _) = TIME_SAMPLERS[name], filled()
    root, keys, index = jax.random.key(3), jax.random.split(jax.random.key(4), 16), jnp.arange(16)
    draw = jax.jit(sampler.draw, static_argnums=4)
    whole = draw(history, root, keys, index, 16)
    halves = [draw(history, root, keys[part], index[part], 16) for part in (slice(0, 8), slice(8, 16))]
    for of_whole, *of_halves in zip(whole, *halves, strict=True):
        np.testing.assert_array_equal(of_whole, np.concatenate(of_halves))


def test_the_history_holds_the_last_ten_losses_of_every_index() -> None:
    # 40 batches of 16 over 7 indices: 91 draws of each, with repeats in every batch
    history, memory = filled()
    for ours, theirs in zip(np.asarray(history.losses), memory.losses, strict=True):
        assert sorted(ours) == sorted(np.float32(loss) for loss in theirs)


def test_an_index_drawn_more_than_ten_times_in_a_batch_keeps_the_last_ten() -> None:
    k = jnp.array([1] * 13 + [0] + [1] * 4, jnp.int32)
    history = remember(timestep_sampling.empty(2), k, jnp.arange(18.0))
    assert sorted(np.asarray(history.losses[1])) == [*range(7, 13), *range(14, 18)]
    assert list(np.asarray(history.losses[0])) == [13] + [0] * 9


def test_the_eleventh_loss_replaces_the_first_and_the_twelfth_the_second() -> None:
    history = timestep_sampling.empty(1)
    for loss in range(35):
        history = remember(history, jnp.zeros(1, jnp.int32), jnp.array([float(loss)]))
        assert sorted(np.asarray(history.losses[0]))[-min(loss + 1, 10) :] == list(range(max(0, loss - 9), loss + 1))
        assert min(int(history.counts[0]), 10) == min(loss + 1, 10)


def test_draws_are_uniform_until_every_index_has_ten_losses() -> None:
    history, memory = timestep_sampling.empty(2), time_samplers.Memory(2)
    for k, loss in [(0, 5.0)] * 12 + [(1, 1.0)] * 10:
        share = np.asarray(shares(history), float)
        np.testing.assert_allclose(share / share.sum(), memory.probabilities(), rtol=1e-5)
        history = remember(history, jnp.array([k], jnp.int32), jnp.array([loss]))
        memory.see([k], [loss])
    share = np.asarray(shares(history), float)
    np.testing.assert_allclose(share / share.sum(), [0.999 * 5 / 6 + 0.0005, 0.999 / 6 + 0.0005], rtol=1e-5)


def test_losses_that_are_all_zero_are_drawn_alike() -> None:
    history = History(jnp.zeros((4, timestep_sampling.KEPT)), jnp.full(4, 10, jnp.int32))
    assert len(set(np.asarray(shares(history)))) == 1


@pytest.mark.parametrize("name", ["uniform", "antithetic"])
def test_samplers_without_memory_leave_the_history_as_it_is(name: str) -> None:
    sampler = TIME_SAMPLERS[name]
    before = sampler.init(3)
    after = sampler.update(before, jnp.array([0, 2], jnp.int32), jnp.array([1.0, 2.0]))
    for left, right in zip(before, after, strict=True):
        np.testing.assert_array_equal(left, right)


def test_all_histories_have_one_layout() -> None:
    layouts = {tuple((leaf.shape, str(leaf.dtype)) for leaf in sampler.init(K)) for sampler in TIME_SAMPLERS.values()}
    assert layouts == {(((K, 10), "float32"), ((K,), "int32"))}


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown time sampler 'low': choose one of uniform"):
        timestep_sampling.build("low")
    with pytest.raises(ValueError, match="K = 0"):
        timestep_sampling.build("uniform").init(0)
    sampler = timestep_sampling.build("antithetic")
    keys = jax.random.split(jax.random.key(0), 1)
    with pytest.raises(ValueError, match=r"below 2\*\*30"):
        sampler.draw(sampler.init(1000), keys[0], keys, jnp.arange(1), 2**21)
