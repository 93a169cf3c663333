"""Devices: pmap and shard_map on many devices make the steps, samples and moments of one device."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.diffusion import losses, process, sampler, schedules, timesteps, variances
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.denoiser import Denoiser, make_denoiser
from ddpm_jax.evaluation import moments
from ddpm_jax.models import unet
from ddpm_jax.runtime import sharding
from ddpm_jax.runtime.sharding import MOST_CORES, PARALLEL, Layout, replicate
from ddpm_jax.training import checkpoints, step, timestep_sampling
from ddpm_jax.training.step import Recipe, TrainState
from tests.models.test_unet import LEAST, fresh
from tests.storing import store

SMALL = replace(LEAST, dropout=0.3)
SPREAD = [(8, "pmap"), pytest.param(8, "shard_map", marks=pytest.mark.slow)]
SPREAD += [pytest.param(devices, how, marks=pytest.mark.slow) for devices in (1, 4) for how in PARALLEL]
IMAGES = np.random.default_rng(0).integers(0, 17, (3, 16, 8, 8, 1)).astype(np.uint8)


def rescaled(params: jax.Array, x_t: jax.Array, t: jax.Array, keys: jax.Array) -> jax.Array:
    """A network with dropout that takes no time to compile: a number for every pixel, and one for the time."""
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 0.7, x_t.shape[1:]))(keys)
    return kept * jnp.tanh(params[..., None] * x_t) + params[0, 0] * jnp.cos(t).reshape(-1, 1, 1, 1)


NETWORKS = {"rescaled": rescaled, "unet": unet.network(SMALL)}


@cache
def recipe(name: str) -> Recipe:
    linear = schedules.linear()
    return Recipe(
        schedule=linear,
        chain=process.every_step(linear),
        denoiser=step.in_training(NETWORKS[name], linear, "eps"),
        objective=losses.simple("eps"),
        time_sampler=timestep_sampling.build("uniform"),
        optimizer=optax.sgd(0.5),
        ema_decay=(0.9,),
        levels=17,
        flip=True,
    )


def on(how: str, devices: int) -> Layout:
    return Layout(how, tuple(jax.local_devices()[:devices]))


def begin(name: str) -> TrainState:
    params = fresh(SMALL) if name == "unet" else jnp.linspace(0.2, 1.5, 64).reshape(8, 8)
    return step.initial_state(jax.random.key(1), params, recipe(name))


@cache
def steps_of(name: str, layout: Layout | None, **changes: object) -> Callable:
    """(state, batches) -> (state, metrics), compiled once for all tests."""
    steps = partial(step.train_steps, (recipe(name) if name in NETWORKS else on_seven_times(name))._replace(**changes))
    return jax.jit(steps) if layout is None else sharding.parallelise(steps, layout).run


def after_steps(
    name: str, state: TrainState, batches: Iterable, layout: Layout | None, **changes: object
) -> TrainState:
    state = state if layout is None else replicate(state, layout)
    for images in batches:
        state, metrics = steps_of(name, layout, **changes)(state, images[None])
        assert np.isfinite(metrics.loss).all()
    return state


def assert_same_parameters(got: TrainState, wanted: TrainState) -> None:
    # float32 sums differ in order
    for a, b in zip(jax.tree.leaves(got.params), jax.tree.leaves(wanted.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * max(1, float(np.abs(b).max())))


@cache
def alone(name: str) -> TrainState:
    """After three steps on one device; the parameters have moved by far more than is looked for."""
    before, after = begin(name), after_steps(name, begin(name), IMAGES, None)
    assert (
        max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before.params, after.params))) > 1e-3
    )
    return after


@pytest.mark.parametrize(
    ("name", "devices", "how"),
    [
        *(("rescaled", 8, how) for how in PARALLEL),
        *(pytest.param("rescaled", devices, how, marks=pytest.mark.slow) for devices in (1, 4) for how in PARALLEL),
        *(pytest.param("unet", devices, how, marks=pytest.mark.slow) for devices in (1, 4, 8) for how in PARALLEL),
    ],
)
def test_many_devices_make_the_step_of_one(name: str, devices: int, how: str) -> None:
    # plain SGD: a gradient summed over devices, or shared noise, would show at once
    assert_same_parameters(after_steps(name, begin(name), IMAGES, on(how, devices)), alone(name))


@pytest.mark.parametrize(
    ("devices", "microbatches", "how"),
    [
        (4, 2, "pmap"),
        (4, 2, "shard_map"),
        *(pytest.param(1, 4, how, marks=pytest.mark.slow) for how in PARALLEL),
    ],
)
@pytest.mark.parametrize("name", ["rescaled", pytest.param("unet", marks=pytest.mark.slow)])
def test_microbatches_make_the_step_of_the_whole_batch(name: str, devices: int, microbatches: int, how: str) -> None:
    got = after_steps(name, begin(name), IMAGES, on(how, devices), microbatches=microbatches)
    assert_same_parameters(got, alone(name))


@pytest.mark.parametrize("unroll", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["rescaled", pytest.param("unet", marks=pytest.mark.slow)])
def test_steps_of_one_call_are_the_steps_of_many(name: str, unroll: bool) -> None:
    """The second microbatch's loop is in them, too, written out as on CPUs and as a loop as elsewhere."""
    layout = on("pmap", 4)
    run = steps_of(name, layout, unroll=unroll, microbatches=2)
    state, metrics = run(replicate(begin(name), layout), IMAGES)
    assert_same_parameters(state, alone(name))
    assert metrics.loss.shape == (len(IMAGES),) and int(state.step) == len(IMAGES)


@pytest.mark.parametrize(("before", "after"), [(8, 1), (8, 4), (1, 8), (4, 8)])
@pytest.mark.parametrize("name", ["rescaled", pytest.param("unet", marks=pytest.mark.slow)])
def test_a_run_stored_on_some_devices_goes_on_on_others(name: str, tmp_path: Path, before: int, after: int) -> None:
    stored = after_steps(name, begin(name), IMAGES[:2], on("pmap", before))
    store(tmp_path, stored, {})
    restored = checkpoints.restore(tmp_path, begin(name))
    assert_same_parameters(after_steps(name, restored, IMAGES[2:], on("pmap", after)), alone(name))


# ---------------------------------------------------------------- time samplers


def linear_network(params: jax.Array, x_t: jax.Array, t: jax.Array, keys: jax.Array) -> jax.Array:
    return params * x_t


SEVEN_TIMES = process.steps(schedules.linear(), timesteps.even(1000, 7))


@cache
def on_seven_times(sampler_name: str) -> Recipe:
    """A cheap recipe whose chain has so few times that every one has its ten losses after some steps."""
    linear = schedules.linear()
    return Recipe(
        schedule=linear,
        chain=SEVEN_TIMES,
        denoiser=step.in_training(linear_network, linear, "eps"),
        objective=losses.simple("eps"),
        time_sampler=timestep_sampling.build(sampler_name),
        optimizer=optax.sgd(0.01),
        ema_decay=(0.9,),
        levels=17,
        flip=False,
    )


def many_steps(name: str, layout: Layout | None, steps: int = 20) -> TrainState:
    state = step.initial_state(jax.random.key(1), jnp.float32(0.3), on_seven_times(name))
    return after_steps(name, state, [IMAGES[i % 3] for i in range(steps)], layout)


@cache
def undivided(name: str) -> TrainState:
    return many_steps(name, None)


@pytest.mark.parametrize("how", PARALLEL)
@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 8])
@pytest.mark.parametrize(
    "name",
    [
        "loss_second_moment",
        pytest.param("antithetic", marks=pytest.mark.slow),
        pytest.param("uniform", marks=pytest.mark.slow),
    ],
)
def test_every_time_sampler_draws_and_remembers_the_same_on_any_devices(name: str, devices: int, how: str) -> None:
    """20 steps of 16: past the first 10 losses of every time, so that the draws depend on the history."""
    got, wanted = many_steps(name, on(how, devices)), undivided(name)
    np.testing.assert_array_equal(got.history.counts, wanted.history.counts)
    np.testing.assert_allclose(got.history.losses, wanted.history.losses, rtol=1e-5)
    np.testing.assert_allclose(got.params, wanted.params, rtol=1e-5)
    if name == "loss_second_moment":
        counts = np.asarray(got.history.counts)
        assert (counts >= timestep_sampling.KEPT).all()
        p = np.asarray(timestep_sampling.shares(got.history), float)
        assert p.max() > 1.5 * p.min()
    else:
        assert not np.asarray(got.history.losses).any()


@pytest.mark.parametrize("how", PARALLEL)
@pytest.mark.parametrize("devices", [1, 8])
def test_antithetic_times_are_spread_over_the_whole_batch(how: str, devices: int) -> None:
    """Each device holds two examples; all sixteen together hold every one of eight times twice."""
    tables = schedules.from_betas(np.full(8, 0.1))
    recipe = on_seven_times("antithetic")._replace(
        schedule=tables,
        chain=process.every_step(tables),
        objective=lambda drawn, denoiser: 10.0**drawn.k + 0 * denoiser(drawn.x_t, drawn.step.t).eps.mean((1, 2, 3)),
        denoiser=step.in_training(linear_network, tables, "eps"),
    )
    layout = on(how, devices)
    state = replicate(step.initial_state(jax.random.key(1), jnp.float32(0.3), recipe), layout)
    run = sharding.parallelise(partial(step.train_steps, recipe), layout).run
    for images in IMAGES:
        state, metrics = run(state, images[None])
        np.testing.assert_allclose(metrics.loss, 11111111 / 8, rtol=1e-6)


def test_the_history_goes_on_after_a_restore(tmp_path: Path) -> None:
    """Twelve steps on eight devices, stored, and eight on one: bit for bit what was stored, then the same draws."""
    name = "loss_second_moment"
    stored = many_steps(name, on("pmap", 8), steps=12)
    store(tmp_path, stored, {})
    restored = checkpoints.restore(
        tmp_path, step.initial_state(jax.random.key(1), jnp.float32(0.3), on_seven_times(name))
    )
    for got, wanted in zip(restored.history, stored.history, strict=True):
        np.testing.assert_array_equal(got, wanted)
        assert got.dtype == wanted.dtype
    last = after_steps(name, restored, [IMAGES[i % 3] for i in range(12, 20)], on("shard_map", 1))
    np.testing.assert_array_equal(last.history.counts, undivided(name).history.counts)
    np.testing.assert_allclose(last.history.losses, undivided(name).history.losses, rtol=1e-5)


# ---------------------------------------------------------------- what is frozen


@pytest.mark.parametrize("how", PARALLEL)
@pytest.mark.parametrize("devices", [1, 8])
def test_what_is_frozen_is_whole_on_every_device_and_no_parameter(how: str, devices: int) -> None:
    def step(
        state: jax.Array, batch: jax.Array, axis: str | None = None, frozen: dict | None = None
    ) -> tuple[jax.Array, jax.Array]:
        assert frozen is not None and frozen["weights"].shape == (5,)
        total = jax.lax.pmean(batch.mean() * frozen["weights"].sum(), axis)
        return state + total, total

    layout = on(how, devices)
    frozen = {"weights": jnp.arange(5.0)}
    run = sharding.parallelise(step, layout, frozen).run
    state, _ = run(replicate(jnp.float32(0), layout), jnp.full((1, 8, 1), 2.0))
    assert float(state) == 20.0


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    """A network whose output is not nearly zero, as that of a fresh one would be."""
    params = jax.tree.map(lambda leaf: leaf + 0.05 * np.sin(np.arange(leaf.size)).reshape(leaf.shape), fresh(SMALL))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    return make_denoiser(unet.network(SMALL), params, schedules.linear(), "eps")


def samples(denoiser: Denoiser, layout: Layout, n: int = 7) -> np.ndarray:
    linear = schedules.linear()
    steps = process.steps(linear, [1, 300, 600, 1000])
    shared, chains, static = sampler.prepare(
        jax.random.key(3), steps, denoiser, (variances.large(linear),), (n, 8, 8, 1), Rules("noise")
    )
    x_0, x_0_hat = sharding.over_examples(sampler.scan, shared, chains, layout, **static, record=True)
    return np.concatenate([x_0_hat.swapaxes(0, 1), x_0[None]])


def measured(denoiser: Denoiser, layout: Layout) -> moments.Moments:
    times = np.array([1, 30, 500, 1000])
    return moments.measure(
        jax.random.key(4), schedules.linear(), denoiser, IMAGES[0, :7], Rules(levels=17), times, layout
    )


@pytest.fixture(scope="module")
def one_device(denoiser: Denoiser) -> tuple[np.ndarray, moments.Moments]:
    layout = on("pmap", 1)
    return samples(denoiser, layout), measured(denoiser, layout)


@pytest.mark.parametrize(("devices", "how"), SPREAD)
def test_seven_images_on_any_devices_are_the_same_seven(
    denoiser: Denoiser, one_device: tuple[np.ndarray, moments.Moments], devices: int, how: str
) -> None:
    drawn, found = samples(denoiser, on(how, devices)), measured(denoiser, on(how, devices))
    assert drawn.shape == (5, 7, 8, 8, 1)
    assert len(np.unique(drawn[-1].reshape(7, -1), axis=0)) == 7
    assert np.abs(drawn - one_device[0]).max() < 1e-4 * np.abs(one_device[0]).max()
    for name in ("error", "excess", "decoder"):
        got, wanted = getattr(found, name), getattr(one_device[1], name)
        assert got.shape == (7, 1001)
        np.testing.assert_allclose(got, wanted, atol=1e-6 * np.nanmax(np.abs(wanted)))


@pytest.mark.parametrize("batch", [1, 2, 1024])
def test_blocks_lose_no_example_and_are_compiled_once(batch: int) -> None:
    shapes = []

    def double(shared: jax.Array, x: jax.Array, *, plus: int) -> jax.Array:
        shapes.append(x.shape)
        return shared * x + plus

    layout = on("pmap", 4)._replace(batch=batch)
    got = sharding.over_examples(double, jnp.float32(2), jnp.arange(7.0), layout, plus=1)
    np.testing.assert_array_equal(got, 2 * np.arange(7.0) + 1)
    assert len(set(shapes)) == 1


def test_the_step_is_compiled_once() -> None:
    traces = 0

    def step(state: jax.Array, batch: jax.Array, axis: str, frozen: None) -> tuple[jax.Array, jax.Array]:
        nonlocal traces
        traces += 1
        total = jax.lax.pmean(batch.sum(), axis)
        return state + total, total

    run = sharding.parallelise(step).run
    state = replicate(jnp.float32(0))
    for _ in range(3):
        state, _ = run(state, jnp.ones((1, 8, 1)))
    assert traces == 1
    assert float(state) == 3.0


@pytest.mark.parametrize(("devices", "gone"), [(1, True), (8, False)])
@pytest.mark.parametrize("how", PARALLEL)
def test_one_device_of_a_cpu_takes_the_memory_of_the_old_state(how: str, devices: int, gone: bool) -> None:
    layout = on(how, devices)
    run = sharding.parallelise(lambda state, batch, axis, frozen: (state + 1, state.sum()), layout).run
    old = replicate(jnp.zeros(5), layout)
    run(old, jnp.ones((1, 8, 1)))
    assert old.is_deleted() is gone


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown parallel 'pjit': choose one of pmap, shard_map"):
        sharding.parallelise(lambda *_: None, Layout("pjit"))
    with pytest.raises(ValueError, match="unknown parallel 'pjit'"):
        sharding.over_examples(lambda shared, x: x, None, jnp.ones(2), Layout("pjit"))
    eight = on("pmap", 8)
    with pytest.raises(ValueError, match="batch 9 does not split over 8 devices"):
        sharding.for_batch(9, 1, eight)
    with pytest.raises(ValueError, match=r"batch 24 .* 8 devices and 2 microbatches: choose a multiple of 16"):
        sharding.for_batch(24, 2, eight)
    assert sharding.for_batch(24, 3, eight) == eight
    with pytest.raises(ValueError, match=r"batch 9 .* 1 device and 2 microbatches: choose a multiple of 2"):
        sharding.for_batch(9, 2, Layout())


@pytest.mark.parametrize(
    ("batch", "microbatches", "count"), [(24, 1, 8), (9, 1, 3), (7, 1, 7), (11, 1, 1), (24, 2, 6), (24, 5, None)]
)
def test_of_the_cores_as_many_work_as_divide_the_batch(batch: int, microbatches: int, count: int | None) -> None:
    if count is None:
        with pytest.raises(ValueError, match="1 device and 5 microbatches"):
            sharding.for_batch(batch, microbatches, Layout())
        return
    assert sharding.for_batch(batch, microbatches, Layout("shard_map")) == on("shard_map", count)


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({}, "cores"),
        ({"JAX_NUM_CPU_DEVICES": "3"}, "3"),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, "5"),
    ],
)
def test_every_core_stands_as_a_device_unless_the_user_says_how_many(environment: dict[str, str], count: str) -> None:
    program = "import jax, ddpm_jax.runtime.sharding as s; s.use_cores(); print(jax.device_count()); s.use_cores()"
    clean = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert done.stdout.strip() == (str(min(here, MOST_CORES)) if count == "cores" else count)


@pytest.mark.parametrize(("capability", "generation"), [("9.0", 9), ("10.3", 10), ("gfx942", 0), (None, 0)])
def test_only_gpus_of_nvidia_have_a_generation(
    monkeypatch: pytest.MonkeyPatch, capability: str | None, generation: int
) -> None:
    found = SimpleNamespace(**({} if capability is None else {"compute_capability": capability}))
    monkeypatch.setattr(jax, "local_devices", lambda: [found])
    assert sharding.cuda_generation() == generation
