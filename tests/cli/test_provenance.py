"""What a report says of its training run and machine."""

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import jax.numpy as jnp
import pytest

from ddpm_jax.cli import provenance
from ddpm_jax.diffusion import schedules
from ddpm_jax.training import model
from ddpm_jax.training.config import Config
from ddpm_jax.training.model import Stored
from tests.models.test_unet import LEAST


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Three records of a training run."""
    path = tmp_path / "metrics.jsonl"
    records = [dict(step=step, loss=1 / step, images_per_second=100.0 * step) for step in (1, 2, 3)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_the_rate_is_the_last_one(log: Path) -> None:
    assert provenance.training_rate(log) == 300.0


def test_training_is_the_same_in_every_run(log: Path) -> None:
    params = dict(a=jnp.zeros((2, 3)), b=jnp.zeros(4))
    own = model.of_function(lambda x_t, t: x_t, schedules.linear(30), "eps", (8, 8, 1))
    expected = dict(steps=2, parameters=10, loss=[[1, 1.0], [2, 0.5]])  # the third step was taken after it was stored
    assert provenance.training(log, Stored(own, Config(), LEAST, params, 2)) == expected


@pytest.mark.parametrize("rate", [12.5, None])
def test_seconds_add_up(rate: float | None) -> None:
    about = provenance.about(dict(train=1.5, sample=2.0), rate)
    assert about["seconds"] == dict(train=1.5, sample=2.0, total=3.5)
    assert about["images_per_second"] == rate
    assert {"project", "version", "command", "date", "python", "jax", "device"} <= about.keys()


@pytest.mark.parametrize(
    ("module", "program", "shown"),
    [
        (None, "/somewhere/bin/ddpm-jax", "ddpm-jax sample --out 'my images'"),
        ("ddpm_jax.__main__", "/somewhere/ddpm_jax/__main__.py", "python -m ddpm_jax sample --out 'my images'"),
        ("experiments.claim", "/somewhere/claim.py", "python -m experiments.claim sample --out 'my images'"),
    ],
)
def test_the_command_is_shown_as_it_was_typed(
    module: str | None, program: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", module and ModuleSpec(module, None))
    monkeypatch.setattr(sys, "argv", [program, "sample", "--out", "my images"])
    assert provenance.about({}, None)["command"] == shown
