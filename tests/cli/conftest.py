"""A tiny network under a preset's name, few digits, and the commands in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ddpm_jax.cli.command import command_line
from ddpm_jax.cli.main import main
from ddpm_jax.data import datasets
from ddpm_jax.data.datasets import Split
from ddpm_jax.models import unet
from experiments import reproduce_analytic_dpm, reproduce_plan
from tests.models.test_unet import LEAST as TINY

TRAINING = ["--preset", "tiny", "--T", "30", "--steps", "4", "--batch", "8", "--sample-every", "0", "--save-every", "2"]
EXPERIMENTS: dict[str, tuple[type, Callable, str | None]] = {
    "reproduce_analytic_dpm": (
        reproduce_plan.Reproduce,
        reproduce_analytic_dpm.main,
        reproduce_analytic_dpm.__doc__,
    ),
}


def run(name: str, *argv: object) -> None:
    """One command, or one experiment, as its command line would run it."""
    words = [str(word) for word in argv]
    if name in EXPERIMENTS:
        command_line(*EXPERIMENTS[name], words)
    else:
        main([name, *words])


DIGITS = {"train": 150, "calibration": 40, "test": 60}


def few_digits(image_size: int | None = None) -> datasets.DataSet:
    """The first images of every part: passes over all of them would take most of these tests' time."""
    every = datasets.digits(image_size)
    return every._replace(
        **{part: Split(*(values[:n] for values in getattr(every, part))) for part, n in DIGITS.items()}
    )


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Networks and data, under the names that the command lines know."""
    patch.setitem(unet.PRESETS, "tiny", TINY)
    patch.setitem(datasets.DATASETS, "digits", few_digits)
    for size in unet.HEAD_SIZES:
        patch.setitem(unet.HEAD_SIZES, size, TINY)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a short training."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        run("train", *TRAINING, "--workdir", str(folder))
    return folder
