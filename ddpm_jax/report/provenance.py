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


def _lines(log: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, without a last one that was cut short."""
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def training_rate(log: Path) -> float | None:
    """Images per second of training, as the last record of a metrics.jsonl has it; None where there is none."""
    lines = _lines(log)
    return lines[-1]["images_per_second"] if lines else None


def training(log: Path, state: TrainState) -> dict[str, Any]:
    """The training run in numbers, from its metrics.jsonl."""
    return {
        "steps": int(state.step),
        "parameters": unet.parameter_count(state.params),
        "loss": [[line["step"], line["loss"]] for line in _lines(log) if line["step"] <= int(state.step)],
    }


def about(seconds: dict[str, float], images_per_second: float | None) -> dict[str, Any]:
    """Program, command, versions, machine, the seconds that each part took and the rate of training, where known."""
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
        "images_per_second": images_per_second,
    }
