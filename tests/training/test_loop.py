"""The loop: a run that is stopped and resumed is the run that was not, and mistakes are refused before work is done."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ddpm_jax.data import datasets
from ddpm_jax.diffusion import losses
from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.diffusion.losses import NoisyBatch
from ddpm_jax.models import unet
from ddpm_jax.runtime import distributed
from ddpm_jax.training import checkpoints, loop, metrics, model, setup, step
from ddpm_jax.training.config import Config, Stopped
from ddpm_jax.training.model import Stored
from tests.models.test_unet import LEAST

CONFIG = Config(preset="tiny", T=50, steps=6, batch=8, log_every=2, save_every=3, sample_every=0)


@contextmanager
def tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(unet.PRESETS, "tiny", replace(LEAST, dropout=0.1))
        yield


@pytest.fixture(autouse=True)
def tiny_preset() -> Iterator[None]:
    with tiny():
        yield


class Trained(NamedTuple):
    """A training that several tests look at; they copy its workdir before they go on in it."""

    stored: Stored
    workdir: Path


def train_of(config: Config, factory: pytest.TempPathFactory) -> Trained:
    workdir = factory.mktemp("trained")
    with tiny():
        return Trained(loop.fit(config, workdir), workdir)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_of(CONFIG, tmp_path_factory)


@pytest.fixture(scope="module")
def first_half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_of(replace(CONFIG, steps=3), tmp_path_factory).workdir


@pytest.fixture
def half(first_half: Path, tmp_path: Path) -> Path:
    """A workdir in which three of the six steps are done."""
    return shutil.copytree(first_half, tmp_path / "half")


def arrays(workdir: Path, *parts: str, step: int | None = None) -> dict[str, np.ndarray]:
    """Of a checkpoint, by name: all, or those of these parts of the state."""
    folder = workdir / checkpoints.CHECKPOINTS
    found = checkpoints.read_arrays(folder, checkpoints.steps(folder)[0] if step is None else step)
    return {name: array for name, array in found.items() if not parts or name.partition(".")[0] in parts}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys() != set()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_k_and_k_steps_with_a_restore_between_equal_2k_steps_bit_for_bit(whole: Trained, half: Path) -> None:
    """And the log has every step once, also after an interruption."""
    with (half / metrics.METRICS).open("a", encoding="utf-8") as log:  # written after the checkpoint, then killed
        log.write(json.dumps({"step": 4, "loss": 9.0}) + "\n")
    assert loop.fit(CONFIG, half).step == whole.stored.step == 6
    assert_same(arrays(whole.workdir), arrays(half))
    lines = [json.loads(line) for line in (half / metrics.METRICS).read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [2, 3, 4, 6]
    assert all(line["loss"] < 5 and line["images_per_second"] > 0 for line in lines)
    assert list((half / "tensorboard").glob("events.*"))


def test_a_finished_run_is_read_and_not_trained_again(whole: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, workdir = whole
    again = model.read(workdir)
    assert again.config == trained.config == replace(CONFIG, data="digits") and again.network == trained.network
    x_t, t = jax.random.normal(jax.random.key(0), (2, 8, 8, 1)), jnp.array([1, 50])
    before, after = (jax.jit(lambda x_t, t, of=one.model.denoiser: of(x_t, t).eps)(x_t, t) for one in (trained, again))
    np.testing.assert_array_equal(before, after)
    monkeypatch.setattr(loop, "_advance", None)
    assert again.step == loop.fit(CONFIG, workdir).step == 6


def test_a_model_is_the_same_just_trained_and_read_back(whole: Trained) -> None:
    """But for where it comes from: results that were computed in the same process are found again."""
    trained, again = whole.stored.model, model.load(whole.workdir)
    assert (trained.source, trained.name) == ("trained", "tiny") and again.source == "checkpoint"
    for name in set(trained._fields) - {"source", "name", "denoiser", "schedule"}:
        assert getattr(trained, name) == getattr(again, name), name


@pytest.mark.slow
def test_samples_are_made_from_the_averaged_parameters(whole: Trained) -> None:
    trained, workdir = whole
    x_t, t = jax.random.normal(jax.random.key(0), (2, 8, 8, 1)), jnp.array([1, 50])
    stored = arrays(workdir, "params", "ema")
    averaged = checkpoints.named_leaves(trained.params)
    for name, leaf in averaged.items():
        np.testing.assert_array_equal(leaf, stored[f"ema.0.{name}"])
    assert any((leaf != stored[f"params.{name}"]).any() for name, leaf in averaged.items())
    expected = unet.network(trained.network)(trained.params, x_t, t)
    np.testing.assert_array_equal(trained.model.denoiser(x_t, t).eps, expected)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = losses.simple("eps")

    def breaks_at_17(drawn: NoisyBatch, denoiser: Denoiser) -> jax.Array:
        return jnp.where(drawn.step.t == 17, jnp.nan, real(drawn, denoiser))

    monkeypatch.setitem(losses.OBJECTIVES, "simple", lambda parts: breaks_at_17)
    with pytest.raises(FloatingPointError, match=r"loss nan at step \d+, t = 17; loss by t/T .*0\.4: nan, ") as stop:
        loop.fit(replace(CONFIG, steps=200, log_every=200, save_every=1), tmp_path)
    broken = int(re.findall(r"step (\d+)", str(stop.value))[0])
    assert model.read(tmp_path).step == broken - 1
    assert all(np.isfinite(leaf).all() for leaf in arrays(tmp_path, "params").values())


def test_a_loss_that_is_not_finite_is_seen_between_two_lines_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan = lambda drawn, denoiser: jnp.full(len(drawn.x_0), jnp.nan)  # noqa: E731
    monkeypatch.setitem(losses.OBJECTIVES, "simple", lambda parts: nan)
    with pytest.raises(FloatingPointError, match="loss nan at step 1, t = "):
        loop.fit(replace(CONFIG, log_every=6, save_every=6), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            {"objective": "hybrid", "variance": "learned_range", "time_sampler": "loss_second_moment"},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"objective": "vlb", "variance": "learned", "time_sampler": "antithetic", "prediction": "mu"},
            marks=pytest.mark.slow,
        ),
        pytest.param({"objective": "vlb", "variance": "small"}, marks=pytest.mark.slow),
        pytest.param({"objective": "mu_mse", "prediction": "x_0"}, marks=pytest.mark.slow),
        pytest.param({"weighting": "min_snr", "prediction": "v", "schedule": "jsd"}, marks=pytest.mark.slow),
        pytest.param(
            {"objective": "vlb", "variance": "large", "prediction": "x_0", "schedule": "cosine_zero_terminal"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda change: "-".join(change.values()),
)
def test_every_kind_of_run_trains_stops_and_goes_on(tmp_path: Path, change: dict) -> None:
    """Six steps at once and three and three: the same parameters and the same history, with finite losses."""
    config = replace(CONFIG, log_every=1, **change)
    whole = loop.fit(config, tmp_path / "whole")
    loop.fit(replace(config, steps=3), tmp_path / "halves")
    loop.fit(config, tmp_path / "halves")
    assert_same(arrays(tmp_path / "whole"), arrays(tmp_path / "halves"))
    lines = (tmp_path / "whole" / metrics.METRICS).read_text(encoding="utf-8").splitlines()
    assert len(lines) == 6 and all(np.isfinite(json.loads(line)["loss"]) for line in lines)
    drawn = int(arrays(tmp_path / "whole", "history")["history.counts"].sum())
    assert drawn == (48 if config.time_sampler == "loss_second_moment" else 0)
    again = model.load(tmp_path / "halves")
    said = again.denoiser(jax.random.normal(jax.random.key(0), (2, 8, 8, 1)), jnp.array([1, 50]))
    wanted = setup.in_loss(config, whole.model.schedule).heads
    assert tuple(said.heads or ()) == again.heads == wanted
    assert np.isfinite(said.x_0).all()


@pytest.mark.slow
def test_a_run_goes_on_with_blocks_made_again_for_the_gradient(
    whole: Trained, half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, network = [], unet.network
    monkeypatch.setattr(unet, "network", lambda *of: made.append(of[1:]) or network(*of))
    loop.fit(replace(CONFIG, remat=True), half)
    assert made == [(True,), ()]  # in training, and not where it is measured and sampled
    once, again = (arrays(workdir, "params") for workdir in (whole.workdir, half))
    assert once.keys() == again.keys()
    for name in once:
        np.testing.assert_allclose(once[name], again[name], atol=2e-4)


def test_a_folder_of_another_run_is_refused(half: Path) -> None:
    with pytest.raises(ValueError, match="holds a run with seed = 0, not 1: choose another --workdir"):
        loop.fit(replace(CONFIG, seed=1), half)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "digit"}, "unknown data set 'digit': choose one of digits"),
        ({"preset": "huge"}, "unknown preset 'huge': choose one of cifar10"),
        ({"preset": "cifar10", "data": "digits"}, "preset 'cifar10' is for 3-channel images and digits has 1"),
        ({"schedule": "lin"}, "unknown schedule 'lin': choose one of linear"),
        ({"schedule": "jsd"}, "prediction 'eps' needs alpha_bar_T > 0"),
        ({"variance": "learn"}, "unknown variance 'learn': choose one of small"),
        ({"variance": "analytic"}, "variance 'analytic' is fixed after training: leave it out of the loss"),
        ({"variance": "spectral", "objective": "vlb"}, "variance 'spectral' is fixed after training"),
        ({"variance": "learned_range"}, "objective 'simple' does not train the head of the variance"),
        ({"objective": "hybrid"}, "objective 'hybrid' trains the head of a variance and this one has none"),
        ({"objective": "vlb", "variance": "zero"}, "no likelihood bound"),
        ({"objective": "vlb", "weighting": "min_snr"}, "weighting 'min_snr' has no effect"),
        ({"weighting": "p2"}, "unknown weighting 'p2': choose one of uniform"),
        ({"time_sampler": "importance"}, "unknown time sampler 'importance': choose one of uniform"),
        ({"prediction": "score"}, "unknown prediction 'score': choose one of eps"),
        ({"objective": "elbo"}, "unknown objective 'elbo': choose one of simple"),
        ({"parallel": "pjit"}, "unknown parallel 'pjit': choose one of pmap"),
        ({"T": 0}, "T = 0"),
        ({"steps": 0}, "steps = 0: it is at least 1"),
        ({"batch": 0}, "batch = 0: it is at least 1"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loop.fit(replace(CONFIG, **change), tmp_path / "new")
    assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------- which checkpoint, which average


@pytest.mark.slow
def test_any_stored_step_and_average_can_be_read(tmp_path: Path) -> None:
    loop.fit(replace(CONFIG, ema_decay=(0.5, 0.0), keep=3, save_every=2), tmp_path)
    for chosen, of in (({}, 6), ({"step": 4}, 4), ({"step": 2, "ema_decay": 0.5}, 2)):
        found, stored = model.read(tmp_path, **chosen), arrays(tmp_path, "ema", step=of)
        assert found.step == of
        for name, leaf in checkpoints.named_leaves(found.params).items():
            np.testing.assert_array_equal(leaf, stored[f"ema.0.{name}"])
    raw = model.read(tmp_path, ema_decay=0.0)  # an average that forgets at once is the parameters themselves
    stored = arrays(tmp_path, "params")
    for name, leaf in checkpoints.named_leaves(raw.params).items():
        np.testing.assert_allclose(leaf, stored[f"params.{name}"], atol=1e-6)
    prints = [model.load(tmp_path, **chosen).fingerprint for chosen in ({}, {"step": 4}, {"ema_decay": 0.0})]
    assert len(set(prints)) == 3
    for load in (model.read, model.load):
        with pytest.raises(ValueError, match=r"ema_decay = 0\.9: the run has averages of 0\.5, 0"):
            load(tmp_path, ema_decay=0.9)
        with pytest.raises(ValueError, match="no checkpoint of step 5"):
            load(tmp_path, step=5)


@pytest.mark.slow
def test_checkpoints_may_lie_elsewhere(tmp_path: Path) -> None:
    """Another workdir goes on from them; the workdir remembers where they are."""
    config = replace(CONFIG, checkpoints=str(tmp_path / "elsewhere"))
    loop.fit(replace(config, steps=3), tmp_path / "first")
    assert not (tmp_path / "first" / checkpoints.CHECKPOINTS).exists()
    assert model.read(tmp_path / "first").step == 3
    assert loop.fit(config, tmp_path / "second").step == 6
    assert metrics.read(tmp_path / "second" / metrics.STARTS)[0]["step"] == 3


@pytest.mark.slow
def test_a_finished_run_is_opened_from_a_new_workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which then knows where the checkpoints are, from any folder."""
    monkeypatch.chdir(tmp_path)
    config = replace(CONFIG, checkpoints="elsewhere")
    trained = loop.fit(config, Path("first"))
    loop.fit(config, Path("second"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    again = model.read(tmp_path / "second")
    assert again.step == trained.step == 6
    for a, b in zip(jax.tree.leaves(trained.params), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_two_workdirs_do_not_write_to_one_folder_of_checkpoints(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    with loop.locked(shared), pytest.raises(ValueError, match=r"another process works in .*shared"):
        loop.fit(replace(CONFIG, checkpoints=str(shared)), tmp_path / "run")


def grey_png(path: Path, level: int) -> None:
    Image.fromarray(np.full((8, 8), level, np.uint8)).save(path)


@pytest.fixture(scope="module")
def of_images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config, Trained]:
    """Forty grey images, and a run that was trained on them."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(40):
        grey_png(folder / f"{i:02d}.png", 6 * i)
    config = replace(CONFIG, data=str(folder), steps=3)
    return folder, config, train_of(config, tmp_path_factory)


@contextmanager
def changed(path: Path, level: int) -> Iterator[None]:
    """An image that is added or replaced meanwhile, as a new process would find it."""
    before = path.read_bytes() if path.exists() else None
    grey_png(path, level)
    datasets._of_path.cache_clear()
    try:
        yield
    finally:
        path.unlink() if before is None else path.write_bytes(before)
        datasets._of_path.cache_clear()


@pytest.mark.slow
def test_images_that_were_added_since_are_noticed(of_images: tuple[Path, Config, Trained]) -> None:
    """They would move others from test to training."""
    folder, config, (trained, workdir) = of_images
    with changed(folder / "40.png", 0):
        for read in (lambda: loop.fit(replace(config, steps=6), workdir), lambda: model.load_data(trained.model)):
            with pytest.raises(ValueError, match=r"with images \[32, 4, 4\] and it now has \[33, 4, 4\]: use the data"):
                read()


@pytest.mark.slow
def test_images_that_were_changed_since_are_told(
    of_images: tuple[Path, Config, Trained], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """But not refused: another machine's JPEG decoder may differ in a bit."""
    folder, config, (trained, workdir) = of_images
    model.load_data(trained.model)
    assert "warning" not in capsys.readouterr().err
    with changed(folder / "00.png", 7):
        for name, again in (("tiny", trained.model), (workdir.name, model.load(workdir))):
            model.load_data(again)
            assert f"{name} was trained on other images than" in capsys.readouterr().err
        loop.fit(replace(config, steps=4), shutil.copytree(workdir, tmp_path / "goes on"))
    assert "goes on was trained on other images than" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_whose_checkpoints_lie_elsewhere_does_not_begin_anew(tmp_path: Path) -> None:
    loop.fit(replace(CONFIG, steps=3, checkpoints=str(tmp_path / "elsewhere")), tmp_path / "run")
    before = (tmp_path / "run" / metrics.METRICS).read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"whose checkpoints are in .*elsewhere, not .*: give --checkpoints"):
        loop.fit(CONFIG, tmp_path / "run")
    assert (tmp_path / "run" / metrics.METRICS).read_text(encoding="utf-8") == before


@pytest.mark.slow
def test_bfloat16_activations_train_and_are_judged_in_float32(whole: Trained, tmp_path: Path) -> None:
    """Close to float32 in the loss; parameters and averages stay float32, and so does the denoiser."""
    assert CONFIG.activations == "float32"
    losses, trained = {}, loop.fit(replace(CONFIG, activations="bfloat16"), tmp_path)
    for activations, one, workdir in (("float32", *whole), ("bfloat16", trained, tmp_path)):
        leaves = (*arrays(workdir, "params", "ema").values(), *jax.tree.leaves(one.params))
        assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
        lines = metrics.read(workdir / metrics.METRICS)
        losses[activations] = np.array([line["loss"] for line in lines if "loss" in line])
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.03)
    assert (losses["bfloat16"] != losses["float32"]).any()
    x_t, t = jax.random.normal(jax.random.key(0), (2, 8, 8, 1)), jnp.array([1, 50])
    exact = unet.network(replace(trained.network, activations="float32"))(trained.params, x_t, t)
    np.testing.assert_array_equal(trained.model.denoiser(x_t, t).eps, exact)


@pytest.mark.slow
def test_sigterm_stores_the_state_and_the_same_command_goes_on(whole: Trained, tmp_path: Path) -> None:
    """Stopped at step 4, between two checkpoints, and finished: bit for bit the run that was not."""
    asked = iter([False, False, False, True])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "stop_request", lambda: nullcontext(lambda start, end: next(asked)))
        with pytest.raises(Stopped, match="step 4 is stored, the same command goes on from there"):
            loop.fit(CONFIG, tmp_path / "stopped")
    assert checkpoints.steps(tmp_path / "stopped" / checkpoints.CHECKPOINTS)[0] == 4
    loop.fit(CONFIG, tmp_path / "stopped")
    assert_same(arrays(whole.workdir), arrays(tmp_path / "stopped"))
    workdirs = {"whole": whole.workdir, "stopped": tmp_path / "stopped"}
    lines = {name: metrics.read(workdir / metrics.METRICS) for name, workdir in workdirs.items()}
    without_rates = {
        name: [{key: line[key] for key in line if key not in ("images_per_second", "memory_gib")} for line in found]
        for name, found in lines.items()
    }
    assert without_rates["whole"] == without_rates["stopped"]


@pytest.mark.slow
def test_a_trace_of_steps_within_calls_of_several(tmp_path: Path) -> None:
    config = replace(CONFIG, steps_per_call=3, profile=(2, 4))
    loop.fit(config, tmp_path)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.slow
def test_bfloat16_activations_lose_nothing_on_digits(tmp_path: Path) -> None:
    """The same trainings in both precisions, of two seeds: the held-out loss is the same to 1 %.

    Every calibration image with eight noises: with one each, which is what a training logs, two networks of the same
    quality differed by 1 %. In processes of their own, as a user trains: with what the tests ask of XLA they would take
    twice as long.
    """
    plain = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    steps = ["--steps", "600", "--save-every", "600", "--sample-every", "0"]

    def held_out_loss(activations: str, seed: int) -> float:
        workdir = tmp_path / f"{activations}-{seed}"
        own = ["--activations", activations, "--seed", str(seed), "--workdir", str(workdir)]
        subprocess.run([sys.executable, "-m", "ddpm_jax", "train", *steps, *own], env=plain, check=True)
        trained = model.read(workdir)
        run = setup.resolve(trained.config, trained.network)
        recipe, images = run.recipe, np.tile(run.data.calibration.images, (8, 1, 1, 1))
        index = np.arange(len(images))
        shared, examples = (jax.random.key(0), trained.params, None), (index * recipe.chain.K // len(index), index)
        return float(jax.jit(partial(step.held_out_loss, recipe))(shared, (*examples, images)).mean())

    exact, rounded = ([held_out_loss(kind, seed) for seed in range(2)] for kind in ("float32", "bfloat16"))
    assert max(exact) < 0.09  # they have learnt
    np.testing.assert_allclose(np.mean(rounded), np.mean(exact), rtol=0.01)


@pytest.mark.slow
def test_the_best_checkpoint_outlives_a_restart(tmp_path: Path) -> None:
    """The least of six losses is the second, before the restart."""
    config = replace(CONFIG, steps=12, save_every=2, keep=1, keep_best=1)
    loss = iter([3.0, 1.0, 2.0, 4.0, 5.0, 6.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_held_out_loss", lambda job: lambda state: next(loss))
        for steps in (6, 12):
            loop.fit(replace(config, steps=steps), tmp_path)
    assert checkpoints.steps(tmp_path / checkpoints.CHECKPOINTS) == [12, 4]


@pytest.mark.slow
def test_a_disk_that_is_full_under_the_log_is_one_line_and_the_run_goes_on_when_mended(
    whole: Trained, half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux's /dev/full in the place of the log: the first line of the log finds no room."""
    log = half / metrics.METRICS
    kept = log.read_bytes()
    with monkeypatch.context() as patch, Path("/dev/full").open("a", encoding="utf-8") as full:
        patch.setattr(metrics, "_log", lambda path, first: full)
        with pytest.raises(OSError, match="No space left on device"):
            loop.fit(CONFIG, half)
    assert log.read_bytes() == kept
    loop.fit(CONFIG, half)
    assert_same(arrays(whole.workdir), arrays(half))
    assert [line["step"] for line in metrics.read(log)] == [2, 3, 4, 6]


@pytest.mark.slow
def test_the_held_out_loss_and_the_sample_grids_are_written_when_due(tmp_path: Path) -> None:
    loop.fit(replace(CONFIG, sample_every=3, ema_decay=(0.9, 0.99)), tmp_path)
    lines = metrics.read(tmp_path / metrics.METRICS)
    assert [line["step"] for line in lines if line.get("held_out_loss")] == [3, 6]
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {
        f"{name}-{step:08d}.png" for name in ("raw", "ema_0.9", "ema_0.99") for step in (3, 6)
    }
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    tags = board.Tags()
    assert {"samples/raw", "samples/ema_0.9", "samples/ema_0.99"} <= set(tags["images"])
    assert {"loss", "held_out_loss", "gradient_norm", "parameter_norm", "images_per_second"} <= set(tags["scalars"])
    assert "memory_gib" in tags["scalars"]
    assert all(event.value > 0 for event in board.Scalars("images_per_second"))
    levels = {f"loss_by_noise_level/{i / 10:.1f}" for i in range(1, 11)}
    assert levels & set(tags["scalars"]) and len(levels - set(tags["scalars"])) < 3  # 48 draws reach nearly all
    last = next(line for line in lines if line["step"] == 6)
    shown = [board.Scalars(f"loss_by_noise_level/{i / 10:.1f}") for i in (1, 10)]
    for curve, value in zip(shown, (last["loss_by_noise_level"][i] for i in (0, 9)), strict=True):
        np.testing.assert_allclose(curve[-1].value, value, rtol=1e-6)
