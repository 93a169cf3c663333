"""Where the numbers of a report come from: the images, the training run, the machine."""

import platform
import shlex
import sys
from datetime import date
from pathlib import Path
from typing import Any

import jax

import ddpm_jax
from ddpm_jax.data.datasets import DataSet
from ddpm_jax.models import unet
from ddpm_jax.training import metrics
from ddpm_jax.training.model import Stored


def images(data: DataSet, variance: float) -> dict[str, Any]:
    """The data set in numbers; `variance` is the mean over pixels on [-1, 1]."""
    sizes = {split: len(getattr(data, split).images) for split in ("train", "calibration", "test")}
    known = {"name": data.name, "description": data.description, "shape": list(data.shape), "levels": data.levels}
    return {**known, **sizes, "variance": variance}


def training_rate(log: Path) -> float | None:
    """Images per second of training, as the last record of a metrics.jsonl has it; None where there is none."""
    rates = [line["images_per_second"] for line in metrics.read(log) if "images_per_second" in line]
    return rates[-1] if rates else None


def training(log: Path, stored: Stored) -> dict[str, Any]:
    """The training run in numbers, from its metrics.jsonl."""
    return {
        "steps": stored.step,
        "parameters": unet.parameter_count(stored.params),
        "loss": [
            [line["step"], line["loss"]] for line in metrics.read(log) if "loss" in line and line["step"] <= stored.step
        ],
    }


def about(seconds: dict[str, float], images_per_second: float | None) -> dict[str, Any]:
    """Program, command, versions, machine, the seconds that each part took and the rate of training, where known."""
    return {
        "project": "ddpm_jax",
        "version": ddpm_jax.__version__,
        "command": typed(),
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "device": f"{jax.local_device_count()} x {jax.devices()[0].device_kind}",
        "seconds": {**seconds, "total": sum(seconds.values())},
        "images_per_second": images_per_second,
    }


def typed() -> str:
    """The command of this process, as a shell takes it: `ddpm-jax train ...`, or `python -m` and its module."""
    module = sys.modules["__main__"].__spec__
    program = ["python", "-m", module.name.removesuffix(".__main__")] if module else [Path(sys.argv[0]).name]
    return shlex.join([*program, *sys.argv[1:]])
