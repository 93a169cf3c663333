"""diffusers' scheduler_config.json: of which chain a network knows, and what it says; to and from our names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax import agreement
from ddpm_jax import schedule as schedules
from ddpm_jax.convert import files

NAME = "scheduler_config.json"
# The defaults of DDPMScheduler and DDIMScheduler (diffusers 0.42).
DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "variance_type": "fixed_small",
    "rescale_betas_zero_snr": False,
}
PREDICTION_TYPES = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
VARIANCE_TYPES = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "fixed_large_log": "large",
    "learned": "learned",
    "learned_range": "learned_range",
}


class Scheduler(NamedTuple):
    """What the names of a Config are.

    Attributes:
      schedule: a name of schedule.SCHEDULES.
      T: number of noise levels.
      prediction: a name of predict.PREDICTIONS.
      variance: that the scheduler samples with, a name of variance.VARIANCES.
    """

    schedule: str = "linear"
    T: int = 1000
    prediction: str = "eps"
    variance: str = "small"


def load(folder: Path) -> Scheduler | None:
    """What a folder of diffusers says; None where it holds no scheduler.

    Raises:
      ValueError: the file is damaged, or its chain has no name here.
    """
    places = [folder / NAME, folder / "scheduler" / NAME]
    there = [place for place in places if place.is_file()]
    return read(files.read_json(there[0])) if there else None


def read(given: Mapping[str, Any]) -> Scheduler:
    """What a scheduler_config.json says.

    Raises:
      ValueError: its chain has no name here, or a kind is unknown.
    """
    said = {**DEFAULTS, **given}
    return Scheduler(
        schedule=_named(betas(said), said),
        T=said["num_train_timesteps"],
        prediction=agreement.named(PREDICTION_TYPES, said["prediction_type"], "prediction_type"),
        variance=agreement.named(VARIANCE_TYPES, said["variance_type"] or "fixed_small", "variance_type"),
    )


def betas(said: Mapping[str, Any]) -> np.ndarray:
    """beta_1..beta_T, float64.

    Raises:
      ValueError: the schedule is unknown.
    """
    T, ends = said["num_train_timesteps"], (said["beta_start"], said["beta_end"])
    if said["rescale_betas_zero_snr"]:
        raise ValueError("rescale_betas_zero_snr = True: schedules with no signal at T are not imported")
    if said["trained_betas"] is not None:
        return np.asarray(said["trained_betas"], np.float64)
    made = {
        "linear": lambda: np.linspace(*ends, T),
        "scaled_linear": lambda: np.linspace(ends[0] ** 0.5, ends[1] ** 0.5, T) ** 2,
        "sigmoid": lambda: ends[0] + (ends[1] - ends[0]) / (1 + np.exp(-np.linspace(-6, 6, T))),
        "squaredcos_cap_v2": lambda: schedules.cosine(T).beta[1:],
    }
    return np.asarray(agreement.named(made, said["beta_schedule"], "beta_schedule")())


def _named(wanted: np.ndarray, said: Mapping[str, Any]) -> str:
    """The schedule of ours with these betas, to the six digits that files keep."""
    for name, made in schedules.SCHEDULES.items():
        beta = np.asarray(made(len(wanted)).beta)[1:]
        if np.allclose(beta, wanted, rtol=1e-6, atol=0):
            return name
    ends = f"{wanted[0]:g} to {wanted[-1]:g}"
    raise ValueError(
        f"beta_schedule = {said['beta_schedule']!r}, {ends} over T = {len(wanted)}: no schedule here is so"
    )


def save(folder: Path, described: Mapping[str, Any]) -> None:
    """Write scheduler/ and model_index.json beside the unet/ of a DDPMPipeline.

    Raises:
      OSError: the folder cannot be written.
    """
    index = {
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    files.write_json(folder / "model_index.json", index)
    files.write_json(folder / "scheduler" / NAME, described)


def write(scheduler: Scheduler) -> dict[str, Any]:
    """The scheduler_config.json of a DDPMScheduler, with every beta; the inverse of `read`.

    Raises:
      ValueError: diffusers has no such prediction or variance.
    """
    back = {name: theirs for theirs, name in reversed(PREDICTION_TYPES.items())}
    kinds = {name: theirs for theirs, name in reversed(VARIANCE_TYPES.items())}
    made = agreement.named(schedules.SCHEDULES, scheduler.schedule, "schedule")(scheduler.T)
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": scheduler.T,
        "trained_betas": np.asarray(made.beta)[1:].tolist(),
        "prediction_type": agreement.named(back, scheduler.prediction, "prediction"),
        "variance_type": agreement.named(kinds, scheduler.variance, "variance"),
        "clip_sample": True,
    }
