"""Checkpoints: what is restored is what was saved, and what does not fit is refused with the reason."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddpm_jax.diffusion import losses, process, schedules
from ddpm_jax.training import checkpoints, optimizers, timestep_sampling
from ddpm_jax.training.checkpoints import Retention
from ddpm_jax.training.optimizers import Settings, pack
from ddpm_jax.training.step import Recipe, TrainState, in_training, initial_state
from tests.storing import store

OPTIMIZER = optimizers.build(Settings(learning_rate=1e-3, warmup=10))
SCHEDULE = schedules.linear(20)
RECIPE = Recipe(
    schedule=SCHEDULE,
    chain=process.every_step(SCHEDULE),
    denoiser=in_training(lambda params, x_t, t, keys: x_t, SCHEDULE, "eps"),
    objective=losses.simple("eps"),
    time_sampler=timestep_sampling.build("loss_second_moment"),
    optimizer=OPTIMIZER,
    ema_decay=(0.9,),
    levels=17,
    flip=False,
)


@partial(jax.jit, static_argnums=(1, 2))
def state_at(step: int | jax.Array, width: int = 3, dtype: str = "float32") -> TrainState:
    params = {"layer": {"kernel": jnp.full((2, width), step + 0.5, dtype), "bias": jnp.arange(width, dtype=dtype)}}
    state = initial_state(jax.random.key(step), params, RECIPE)._replace(step=jnp.int32(step))
    _, moments = OPTIMIZER.update(pack(params), state.opt_state, pack(params))  # none of them is zero
    history = timestep_sampling.remember(state.history, jnp.arange(30) % 19, step + jnp.arange(30.0))
    return state._replace(opt_state=moments, history=history)


def assert_equal(a: TrainState, b: TrainState) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    np.testing.assert_array_equal(jax.random.key_data(a.key), jax.random.key_data(b.key))
    for x, y in zip(jax.tree.leaves(a._replace(key=0)), jax.tree.leaves(b._replace(key=0)), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_state_is_restored_bit_for_bit(tmp_path: Path) -> None:
    store(tmp_path, state_at(7), {"config": {"seed": 3}})
    assert_equal(checkpoints.restore(tmp_path, jax.eval_shape(lambda: state_at(0))), state_at(7))
    assert checkpoints.describe(tmp_path)["config"] == {"seed": 3}


def test_the_history_of_the_time_sampler_is_restored_with_its_places(tmp_path: Path) -> None:
    """Eleven times drawn twice, eight once, one never; the next loss is written where it would have been."""
    stored = state_at(7)
    store(tmp_path, stored, {})
    restored = checkpoints.restore(tmp_path, jax.eval_shape(lambda: state_at(0)))
    assert np.asarray(restored.history.counts).tolist() == [2] * 11 + [1] * 8 + [0]
    assert float(restored.history.losses[3, 1]) == 7 + 22
    more = (timestep_sampling.remember(state.history, jnp.array([3]), jnp.array([1.5])) for state in (restored, stored))
    for a, b in zip(*more, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_chain_of_another_length_is_another_layout(tmp_path: Path) -> None:
    store(tmp_path, state_at(1), {})
    other = state_at(0)._replace(history=timestep_sampling.empty(19))
    with pytest.raises(ValueError, match=r"history\.counts is \[\[20\]"):
        checkpoints.restore(tmp_path, other)


def test_the_newest_is_restored_and_old_ones_go(tmp_path: Path) -> None:
    assert checkpoints.steps(tmp_path / "none") == []
    for step in (1, 2, 3):
        store(tmp_path, state_at(step), {})
    assert checkpoints.steps(tmp_path) == [3, 2]
    assert_equal(checkpoints.restore(tmp_path, state_at(0)), state_at(3))
    assert_equal(checkpoints.restore(tmp_path, state_at(0), step=2), state_at(2))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == ["2", "3"]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (lambda: state_at(0, 4), r"ema\.0\.layer\.bias is \[\[3\], .float32.\] there"),
        (lambda: state_at(0, 3, "bfloat16"), "float32"),
        (
            lambda: state_at(0)._replace(params={"other": jnp.zeros(2)}),
            r"params\.layer\.bias is .* there and absent here",
        ),
    ],
    ids=["shape", "dtype", "name"],
)
def test_another_layout_is_refused(tmp_path: Path, template: Callable[[], TrainState], reason: str) -> None:
    store(tmp_path, state_at(1), {})
    with pytest.raises(ValueError, match=reason):
        checkpoints.restore(tmp_path, template())


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no checkpoint in .*: train first"):
        checkpoints.restore(tmp_path, state_at(0))


# ---------------------------------------------------------------- which stay


def test_the_newest_every_third_and_the_best_stay(tmp_path: Path) -> None:
    losses = {1: 5.0, 2: 1.0, 3: 4.0, 4: 0.5, 5: 3.0, 6: 2.0, 7: 9.0, 8: 8.0, 9: 7.0, 10: 6.0, 11: None}
    for some in (range(1, 6), range(6, 12)):  # also where a run goes on
        with checkpoints.writing(tmp_path, Retention(newest=1, every=3, best=2)) as there:
            for step in some:
                checkpoints.save(there, state_at(step), {}, losses[step])
    assert checkpoints.steps(tmp_path) == [11, 9, 6, 4, 3, 2]
    assert_equal(checkpoints.restore(tmp_path, state_at(0), step=4), state_at(4))


def test_a_step_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    store(tmp_path, state_at(3), {})
    with pytest.raises(ValueError, match=r"no checkpoint of step 4 in .*, only of 3: train first"):
        checkpoints.restore(tmp_path, state_at(0), step=4)


def test_saving_goes_on_while_the_state_changes(tmp_path: Path) -> None:
    """What is stored is the state as it was; arrays may be reused as soon as `save` returns."""
    width = 200_000
    with checkpoints.writing(tmp_path) as there:
        for step in (1, 2):
            state = state_at(step, width)
            checkpoints.save(there, state, {})
            for leaf in jax.tree.leaves(state.params):
                leaf.delete()
    assert_equal(checkpoints.restore(tmp_path, state_at(0, width), step=1), state_at(1, width))
    assert_equal(checkpoints.restore(tmp_path, state_at(0, width)), state_at(2, width))


# ---------------------------------------------------------------- damage


def damage(path: Path, kind: str, draw: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    if kind == "deleted":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(content[: draw.integers(len(content))] if content else b"")
    else:
        for place in draw.integers(len(content), size=draw.integers(1, 4)) if content else ():
            content[place] ^= draw.integers(1, 256)
        path.write_bytes(content or b"x")


@pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning")  # of reads that orbax gives up
@pytest.mark.parametrize("kind", ["deleted", "cut", "flipped"])
def test_a_damaged_checkpoint_is_passed_over_and_never_restored_wrongly(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture
) -> None:
    """Every file of the newest of two checkpoints, one at a time, for each kind of damage."""
    draw, whole, outcomes = np.random.default_rng(7), tmp_path / "whole", []
    for step in (1, 2):
        store(whole, state_at(step, 300), {"config": {"seed": 3}})
    files = sorted(path.relative_to(whole) for path in (whole / "2").rglob("*") if path.is_file())
    for i, file in enumerate(files):
        folder = tmp_path / str(i)
        shutil.copytree(whole, folder)
        damage(folder / file, kind, draw)
        restored = checkpoints.restore(folder, state_at(0, 300))
        outcomes.append(int(restored.step))
        assert_equal(restored, state_at(outcomes[-1], 300))
        assert checkpoints.describe(folder, outcomes[-1])["config"] == {"seed": 3}
    assert 1 in outcomes  # some of it was serious
    capfd.readouterr()


def test_one_changed_bit_in_the_numbers_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whatever kind the storage is: what it hands over is compared with what was stored."""
    store(tmp_path, state_at(1), {})
    real = ocp.CheckpointManager.restore

    def changed(self: ocp.CheckpointManager, *args: Any, **options: Any) -> Any:
        found = real(self, *args, **options)
        if "state" in found:
            found["state"]["params.layer.kernel"] = found["state"]["params.layer.kernel"] + np.float32(1e-6)
        return found

    monkeypatch.setattr(ocp.CheckpointManager, "restore", changed)
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read"):
        checkpoints.restore(tmp_path, state_at(0))


# ---------------------------------------------------------------- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", place], capture_output=True)
    if made.returncode:
        pytest.skip("a file system can be mounted by root only")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning")  # of writes that orbax gives up
@pytest.mark.parametrize("looked", [True, False], ids=["seen before", "seen while writing"])
def test_a_full_disk_stops_with_one_line_and_earlier_checkpoints_restore(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, looked: bool
) -> None:
    """States that hardly compress. Without the look at the room, the writing itself has to fail well."""
    if not looked:
        monkeypatch.setattr(checkpoints, "check_room", lambda folder, arrays: None)
    noise = np.random.default_rng(0).standard_normal((20, 2, 60_000)).astype(np.float32)

    def noisy(step: int) -> TrainState:
        state = state_at(step, 60_000)
        return state._replace(params={"layer": {**state.params["layer"], "kernel": jnp.asarray(noise[step])}})

    stored = 0

    def fill() -> None:
        nonlocal stored
        with checkpoints.writing(small_disk / "run", Retention(newest=100)) as there:
            for step in range(1, 20):
                checkpoints.save(there, noisy(step), {})
                checkpoints.finish(there)
                stored = step

    with pytest.raises(OSError, match=r"No space left|cannot be read or written") as stop:
        fill()
    assert "\n" not in str(stop.value)
    assert "Traceback" not in capfd.readouterr().err
    assert stored >= 2
    for step in range(1, stored + 1):
        assert_equal(checkpoints.restore(small_disk / "run", state_at(0, 60_000), step), noisy(step))
    assert int(checkpoints.restore(small_disk / "run", state_at(0, 60_000)).step) == stored


def test_every_device_has_ended_its_step_before_the_processes_speak_of_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first device is ready at once and the second later; reading the state waits for the first alone."""
    first, second = jax.local_devices()[:2]
    later = jax.jit(lambda x: jax.lax.fori_loop(0, 200, lambda i, y: jnp.tanh(y @ y), x)[:2, :3])
    shards = [jax.device_put(jnp.ones((2, 3)), first), later(jax.device_put(jnp.ones((500, 500)), second))]
    everywhere = NamedSharding(Mesh(np.asarray([first, second]), ("devices",)), PartitionSpec())
    state = state_at(7)
    kernel = jax.make_array_from_single_device_arrays((2, 3), everywhere, shards)
    state = state._replace(params={"layer": {**state.params["layer"], "kernel": kernel}})
    assert not shards[1].is_ready()
    seen: list[bool] = []
    with checkpoints.writing(tmp_path) as there:
        monkeypatch.setattr(there, "save", lambda *args, **more: seen.append(shards[1].is_ready()))
        checkpoints.save(there, state, {})
    assert seen == [True]


# ---------------------------------------------------------------- formats


def test_what_is_stored_says_its_format(tmp_path: Path) -> None:
    store(tmp_path, state_at(1), {"config": {"seed": 3}})
    assert checkpoints.describe(tmp_path)["format"] == 2


def test_a_description_without_a_format_is_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def early(said: Any, write: Any = json.dumps, **options: Any) -> str:
        described = isinstance(said, dict) and "layout" in said
        return write({name: said[name] for name in said if name != "format"} if described else said, **options)

    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", early)
        store(tmp_path, state_at(7), {"config": {"seed": 3}})
    assert checkpoints.describe(tmp_path)["format"] == 1
    assert_equal(checkpoints.restore(tmp_path, state_at(0)), state_at(7))


def test_a_newer_format_is_refused_and_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older checkpoint beside it is not taken in its place."""
    store(tmp_path, state_at(1), {})
    monkeypatch.setattr(checkpoints, "FORMAT", 3)
    store(tmp_path, state_at(2), {})
    monkeypatch.undo()
    for read in (checkpoints.describe, lambda folder: checkpoints.restore(folder, state_at(0))):
        with pytest.raises(ValueError, match=r"/2 is of format 3 and this version reads up to 2: update ddpm_jax"):
            read(tmp_path)
