"""A tiny network under a preset's name, and the command lines of the experiments in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ddpm_jax import unet
from ddpm_jax.command import command_line
from experiments import sample, train, train_heads, variance_ablation
from tests.test_unet import LEAST as TINY

TRAINING = ["--preset", "tiny", "--T", "30", "--steps", "4", "--batch", "8", "--sample-every", "0", "--save-every", "2"]
EXPERIMENTS: dict[str, tuple[type, Callable, str | None]] = {
    "train": (train.Train, train.main, train.__doc__),
    "train_heads": (train_heads.TrainHeads, train_heads.main, train_heads.__doc__),
    "sample": (sample.Sample, sample.main, sample.__doc__),
    "variance_ablation": (variance_ablation.Ablation, variance_ablation.main, variance_ablation.__doc__),
}


def run(name: str, *argv: str) -> None:
    """One experiment, as the command line would run it."""
    options, main, description = EXPERIMENTS[name]
    command_line(options, main, description or "", [str(word) for word in argv])


@pytest.fixture(autouse=True)
def tiny_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(unet.PRESETS, "tiny", TINY)
    for size in unet.HEAD_SIZES:
        monkeypatch.setitem(unet.HEAD_SIZES, size, TINY)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a short training."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(unet.PRESETS, "tiny", TINY)
        run("train", *TRAINING, "--workdir", str(folder))
    return folder
