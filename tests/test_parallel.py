"""Devices: pmap and shard_map on many devices make the step of one device."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax import objective, parallel, schedule, train, unet
from ddpm_jax.train import Recipe, TrainState
from tests.test_unet import TINY, fresh

SMALL = replace(TINY, multipliers=(1,), attention_resolutions=(), dropout=0.3)
IMAGES = np.random.default_rng(0).integers(0, 17, (3, 16, 8, 8, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return Recipe(schedule.linear(), unet.network(SMALL), "eps", objective.simple("eps"), optax.sgd(0.5), 0.9, 17, True)


def after_three_steps(recipe: Recipe, how: str | None, devices: int) -> TrainState:
    state = train.init(jax.random.key(1), fresh(SMALL), recipe.optimizer)
    step = partial(train.train_step, recipe)
    if how is None:
        run = jax.jit(step)
    else:
        chosen = jax.local_devices()[:devices]
        run, state = parallel.parallelise(step, how, 16, chosen), parallel.replicate(state, chosen)
    for images in IMAGES:
        state, metrics = run(state, jnp.asarray(images))
        assert np.isfinite(metrics.loss)
    return state


@pytest.fixture(scope="module")
def alone(recipe: Recipe) -> TrainState:
    return after_three_steps(recipe, None, 1)


@pytest.mark.parametrize(("how", "devices"), [("pmap", 1), ("pmap", 8), ("shard_map", 1), ("shard_map", 8)])
def test_many_devices_make_the_step_of_one(recipe: Recipe, alone: TrainState, how: str, devices: int) -> None:
    # plain SGD: a gradient summed over devices, or shared noise, would show at once. Float32 sums differ in order.
    state = after_three_steps(recipe, how, devices)
    for got, wanted in zip(jax.tree.leaves(state.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6 * max(1, float(np.abs(wanted).max())))


def test_the_step_is_compiled_once() -> None:
    traces = 0

    def step(state: jax.Array, batch: jax.Array, axis: str) -> tuple[jax.Array, jax.Array]:
        nonlocal traces
        traces += 1
        total = jax.lax.pmean(batch.sum(), axis)
        return state + total, total

    run = parallel.parallelise(step, "pmap", 8)
    state = parallel.replicate(jnp.float32(0))
    for _ in range(3):
        state, _ = run(state, jnp.ones((8, 1)))
    assert traces == 1
    assert float(state) == 3.0


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown parallel 'pjit': choose one of pmap, shard_map"):
        parallel.parallelise(lambda *_: None, "pjit", 8)
    with pytest.raises(ValueError, match="batch 9 does not split over 8 devices"):
        parallel.parallelise(lambda *_: None, "pmap", 9)
