"""What a run writes of itself, read back with the readers that its users have."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ddpm_jax.training import metrics

LINE = {"loss": 0.5, "loss_by_noise_level": [1.0, None, 3.0, 4.0, 5.0], "held_out_loss": None}
IMAGES = np.arange(5 * 4 * 4, dtype=np.uint8).reshape(5, 4, 4, 1)


def board(workdir: Path) -> EventAccumulator:
    found = EventAccumulator(str(workdir / "tensorboard"))
    found.Reload()
    return found


def test_numbers_are_in_the_log_and_in_tensorboard(tmp_path: Path) -> None:
    with metrics.writing(tmp_path, 0, {}) as sinks:
        metrics.scalars(sinks, 3, LINE)
        metrics.scalars(sinks, 6, {"loss": 0.25})
    assert metrics.read(tmp_path / metrics.METRICS) == [{"step": 3, **LINE}, {"step": 6, "loss": 0.25}]
    seen = board(tmp_path)
    assert [(event.step, event.value) for event in seen.Scalars("loss")] == [(3, 0.5), (6, 0.25)]
    assert [event.value for event in seen.Scalars("loss_by_noise_level/0.6")] == [3.0]
    tags = set(seen.Tags()["scalars"])
    assert "held_out_loss" not in tags and "loss_by_noise_level/0.4" not in tags
    assert "loss_by_noise_level/1.0" in tags


def test_a_run_that_goes_on_forgets_what_was_written_after_its_checkpoint(tmp_path: Path) -> None:
    with metrics.writing(tmp_path, 0, {}) as sinks:
        for step in (1, 2, 3):
            metrics.scalars(sinks, step, {"loss": float(step)})
    with (tmp_path / metrics.METRICS).open("a", encoding="utf-8") as log:
        log.write('{"step": 4, "lo')  # cut short by a kill
    with metrics.writing(tmp_path, 2, {}) as sinks:
        metrics.scalars(sinks, 3, {"loss": 30.0})
    assert [line["loss"] for line in metrics.read(tmp_path / metrics.METRICS)] == [1.0, 2.0, 30.0]
    assert [(event.step, event.value) for event in board(tmp_path).Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_pictures_are_a_png_and_in_tensorboard(tmp_path: Path) -> None:
    with metrics.writing(tmp_path, 0, {}) as sinks:
        metrics.pictures(sinks, 7, "samples/raw", IMAGES)
    sheet = np.asarray(Image.open(tmp_path / "samples" / "raw-00000007.png"))
    assert sheet.shape == (2 * 4 * 16, 3 * 4 * 16)
    small = sheet[::16, ::16]
    np.testing.assert_array_equal(small[:4, 4:8], IMAGES[1, ..., 0])
    np.testing.assert_array_equal(small[4:, :4], IMAGES[3, ..., 0])
    assert not small[4:, 8:].any()
    assert [event.step for event in board(tmp_path).Images("samples/raw")] == [7]


def test_colour_is_kept(tmp_path: Path) -> None:
    red = np.zeros((1, 64, 64, 3), np.uint8)
    red[..., 0] = 255
    with metrics.writing(tmp_path, 0, {}) as sinks:
        metrics.pictures(sinks, 1, "samples/raw", red)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "samples" / "raw-00000001.png")), red[0])


def test_a_run_directory_explains_itself(tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    for step in (0, 5):
        metrics.introduce(workdir, {"config": {"seed": 3}}, step, "8 x cpu")
    metrics.note(workdir, "trained to step 9")
    assert json.loads((workdir / metrics.CONFIG).read_text(encoding="utf-8")) == {"config": {"seed": 3}}
    starts = metrics.read(workdir / metrics.STARTS)
    assert [start["step"] for start in starts] == [0, 5]
    assert starts[0]["command"][1:] == sys.argv and starts[0]["devices"] == "8 x cpu"
    assert {"jax", "flax", "optax", "orbax-checkpoint", "numpy", "python", "commit", "ddpm_jax"} <= starts[0].keys()
    assert (workdir / metrics.LOG).read_text(encoding="utf-8").endswith(" trained to step 9\n")


def test_weights_and_biases_gets_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the module; nothing is sent."""
    seen: list[Any] = []

    def init(**options: Any) -> SimpleNamespace:
        seen.append(options)
        return SimpleNamespace(
            log=lambda values, step: seen.append((step, values)),
            finish=lambda exit_code=0: seen.append(f"finished {exit_code}"),
        )

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Image=lambda image: image.shape))
    with metrics.writing(tmp_path, 0, {"seed": 3}, "variances") as sinks:
        metrics.scalars(sinks, 3, LINE)
        metrics.pictures(sinks, 3, "samples/raw", IMAGES)
    assert seen[0]["project"] == "variances" and seen[0]["resume"] == "allow" and seen[0]["config"] == {"seed": 3}
    curves = {f"loss_by_noise_level/{end}": value for end, value in ((0.2, 1), (0.6, 3), (0.8, 4), (1.0, 5))}
    assert seen[1] == (3, {"loss": 0.5, **curves})
    assert seen[2] == (3, {"samples/raw": [(4, 4, 1)] * 5})
    assert seen[3] == "finished 0"
    with pytest.raises(KeyError), metrics.writing(tmp_path, 3, {}, "variances"):
        raise KeyError
    assert seen[4]["id"] == seen[0]["id"] and seen[5] == "finished 1"
    (tmp_path / "other").mkdir()
    with metrics.writing(tmp_path / "other", 0, {}, "variances"):
        pass
    assert seen[6]["id"] != seen[0]["id"]


def test_weights_and_biases_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="wandb = 'p': Weights & Biases is not installed: pip install wandb"):
        metrics.check_wandb("p")
    metrics.check_wandb(None)


@pytest.mark.parametrize("line", ["\0\0\0", "[1]", '{"a": 1}', '{"step": "3"}', "[" * 100_000, "{"])
def test_a_damaged_log_is_named_and_stays(tmp_path: Path, line: str) -> None:
    log = tmp_path / metrics.METRICS
    log.write_text('{"step": 1}\n' + line + '\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged \(.+\): move it away") as error:
        metrics.read(log)
    assert "\n" not in str(error.value) and line in log.read_text()
