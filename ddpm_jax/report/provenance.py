"""Where the numbers of a report come from: the images, the training run, the machine."""

import json
import platform
import sys
from datetime import date
from pathlib import Path
from typing import Any

import jax

import ddpm_jax
from ddpm_jax import unet
from ddpm_jax.data import DataSet
from ddpm_jax.train import TrainState


def images(data: DataSet, variance: float) -> dict[str, Any]:
    """The data set in numbers; `variance` is the mean over pixels on [-1, 1]."""
    sizes = {split: len(getattr(data, split).images) for split in ("train", "calibration", "test")}
    known = {"name": data.name, "description": data.description, "shape": list(data.shape), "levels": data.levels}
    return {**known, **sizes, "variance": variance}


def training(log: Path, state: TrainState) -> dict[str, Any]:
    """The training run in numbers, from its metrics.jsonl."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return {
        "steps": int(state.step),
        "parameters": unet.parameter_count(state.params),
        "images_per_second": lines[-1]["images_per_second"],
        "loss": [[line["step"], line["loss"]] for line in lines],
    }


def about(seconds: dict[str, float]) -> dict[str, Any]:
    """Program, command, versions, machine and the seconds that each part took."""
    module = sys.modules["__main__"].__spec__
    return {
        "project": "ddpm_jax",
        "version": ddpm_jax.__version__,
        "command": " ".join(["python -m", module.name if module else "ddpm_jax", *sys.argv[1:]]),
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "device": f"{jax.local_device_count()} x {jax.devices()[0].device_kind}",
        "seconds": {**seconds, "total": sum(seconds.values())},
    }
