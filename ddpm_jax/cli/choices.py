"""The choices of options by name, read from their registries: --help lists them, those of a user's file among them."""

import dataclasses
import importlib
from typing import Any, get_args

REGISTRIES = {
    "variance": "ddpm_jax.diffusion.variances.VARIANCES",
    "variances": "ddpm_jax.diffusion.variances.VARIANCES",
    "schedule": "ddpm_jax.diffusion.schedules.SCHEDULES",
    "prediction": "ddpm_jax.diffusion.denoiser.PREDICTIONS",
    "objective": "ddpm_jax.diffusion.losses.OBJECTIVES",
    "weighting": "ddpm_jax.diffusion.losses.WEIGHTINGS",
    "trajectory": "ddpm_jax.diffusion.timesteps.TRAJECTORIES",
    "trajectories": "ddpm_jax.diffusion.timesteps.TRAJECTORIES",
    "sampler": "ddpm_jax.diffusion.sampler.SAMPLERS",
    "protocol": "ddpm_jax.diffusion.conventions.PROTOCOLS",
    "data": "ddpm_jax.data.datasets.DATASETS",
    "preset": "ddpm_jax.models.unet.PRESETS",
    "optimizer": "ddpm_jax.training.optimizers.OPTIMIZERS",
    "time_sampler": "ddpm_jax.training.timestep_sampling.TIME_SAMPLERS",
    "features": "ddpm_jax.evaluation.fid.features.FEATURES",
}
"""By option: the registry that its names are of."""


def text(kind: type) -> str:
    """The choices of every option of a dataclass that has them, one line an option.

    Args:
      kind: of `arguments`; options of dataclasses in it are its own.
    """
    listed = [(name, _registry(REGISTRIES[name])) for name in _options(kind) if name in REGISTRIES]
    return "\n".join(f"  --{name.replace('_', '-')}: {', '.join(map(_entry, table.items()))}" for name, table in listed)


def _options(kind: type) -> list[str]:
    """The names of a dataclass's fields, with those of dataclasses in it."""
    found = []
    for field in dataclasses.fields(kind):
        inner = [part for part in (field.type, *get_args(field.type)) if dataclasses.is_dataclass(part)]
        found += _options(inner[0]) if inner else [field.name]  # type: ignore[arg-type]
    return list(dict.fromkeys(found))


def _registry(name: str) -> dict[str, Any]:
    module, _, table = name.rpartition(".")
    return getattr(importlib.import_module(module), table)


def _entry(item: tuple[str, Any]) -> str:
    """A name, with its line where the entry has one."""
    name, entry = item
    line = getattr(entry, "summary", "")
    return f"{name} ({line})" if line else name
