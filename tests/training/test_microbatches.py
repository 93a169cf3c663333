"""Microbatches: as many as were asked for, else as few as fit; what was compiled to know is what runs."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.runtime import sharding, xla
from ddpm_jax.runtime.sharding import Layout, ParallelSteps, replicate
from ddpm_jax.runtime.xla import SPENT, DoesNotFit
from ddpm_jax.training import loop, setup, step
from ddpm_jax.training.config import Config
from ddpm_jax.training.loop import SPARE
from ddpm_jax.training.setup import Run
from ddpm_jax.training.step import Recipe, TrainState
from tests.models.test_unet import LEAST

CONFIG = Config(batch=24, sample_every=0)


def wide(params: jax.Array, x_t: jax.Array, t: jax.Array, keys: jax.Array) -> jax.Array:
    """A network that compiles at once, and keeps more of an image for the gradient than it has parameters."""
    hidden = x_t * params[0]
    for _ in range(3):
        hidden = jnp.tanh(hidden @ params)
    return hidden.mean(-1, keepdims=True)


@pytest.fixture(scope="module")
def wanted() -> Run:
    run = setup.resolve(CONFIG, LEAST)
    return run._replace(recipe=run.recipe._replace(denoiser=step.in_training(wide, run.recipe.schedule, "eps")))


@pytest.fixture(scope="module")
def state(wanted: Run) -> TrainState:
    return step.initial_state(jax.random.key(0), jnp.eye(64), wanted.recipe)


def fitted(
    wanted: Run, state: TrainState, memory: int | None, monkeypatch: pytest.MonkeyPatch, how: str = "pmap", **more: int
) -> tuple[Recipe, ParallelSteps, TrainState]:
    """On two devices that have so many bytes each; and the state on them."""
    monkeypatch.setattr(sharding, "memory", lambda layout: memory)
    layout = Layout(how, tuple(jax.devices()[:2]))
    on_devices = replicate(state, layout)
    found = loop.fitted(wanted.recipe, None, replace(CONFIG, **more), on_devices, layout, wanted.data.train.images)
    return *found, on_devices


@pytest.fixture(scope="module")
def needed(wanted: Run, state: TrainState) -> dict[int, int]:
    """Bytes of a step, by microbatches."""
    batches = jax.ShapeDtypeStruct((1, 24, 8, 8, 1), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        steps = {count: fitted(wanted, state, None, patch, microbatches=count)[1] for count in (1, 3)}
    return {count: xla.memory(found.lower(state, batches).compile()) for count, found in steps.items()}


def test_parts_that_are_worked_through_one_after_another_need_less_memory(needed: dict[int, int]) -> None:
    """On CPUs, too, where XLA would work on all at once: the images of a device are 12, 4 of them a part."""
    assert needed[3] < 0.75 * needed[1]


@pytest.mark.parametrize("how", ["pmap", pytest.param("shard_map", marks=pytest.mark.slow)])
def test_the_fewest_parts_that_fit_are_found_and_compiled_once(
    how: str, wanted: Run, state: TrainState, needed: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 images a device in 2 parts do not fit, in 3 they do."""
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, seconds, **more: compiled.append(name))
    recipe, steps, on_devices = fitted(wanted, state, int(needed[3] / (1 - SPARE)) + 1, monkeypatch, how)
    assert recipe.microbatches == 3 and SPENT in compiled
    compiled.clear()
    new, metrics = steps.run(on_devices, wanted.data.train.images[None, :24])
    assert SPENT not in compiled
    assert int(new.step) == 1 and np.isfinite(metrics.loss).all()


def test_a_batch_that_fits_stays_whole_and_so_does_one_of_devices_that_do_not_tell(
    wanted: Run, state: TrainState, needed: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for memory in (int(needed[1] / (1 - SPARE)) + 1, None):
        assert fitted(wanted, state, memory, monkeypatch)[0].microbatches == 1


def test_what_is_asked_for_is_done(wanted: Run, state: TrainState, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fitted(wanted, state, 1, monkeypatch, microbatches=4)[0].microbatches == 4


def test_a_step_that_does_not_fit_image_by_image_is_refused(
    wanted: Run, state: TrainState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the device's memory, or by its compiler."""

    def refuse(lowered: object) -> None:
        raise DoesNotFit(3 * 2**30, 2**30)

    monkeypatch.setattr(xla, "executable", refuse)
    with pytest.raises(ValueError, match=r"needs 3\.00 GiB with one image .* has 1\.00 GiB: use --remat"):
        fitted(wanted, state, 2**30, monkeypatch)


def test_a_core_has_its_part_of_the_machines_memory_and_others_say_it(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (sharding.memory(Layout(devices=tuple(jax.devices()[:count]))) for count in (1, 2))
    assert one is not None and one > 2**28 and two == one // 2
    for stats, memory in (({"bytes_limit": 123}, 123), (None, None)):
        card = SimpleNamespace(platform="gpu", memory_stats=lambda stats=stats: stats)
        monkeypatch.setattr(sharding, "local", lambda layout, card=card: (card,))
        assert sharding.memory(Layout()) == memory
