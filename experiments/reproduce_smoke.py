"""Random weights and synthetic images for `reproduce_analytic_dpm --smoke`: every part of the path, no figure of worth.

Not a command.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from ddpm_jax.models import inception, unet
from ddpm_jax.models.convert import diffusers, files
from ddpm_jax.models.unet import UNetConfig

SIDE, IMAGES = 8, 80
NETWORK = UNetConfig(channels=32, multipliers=(1, 2), blocks=1, image_channels=3, time_start=0)


class Inputs(NamedTuple):
    """What stands for the files of a real run.

    Attributes:
      weights: a folder of diffusers.
      data: an .npz of images.
      inception: a file of the feature network's arrays.
    """

    weights: Path
    data: Path
    inception: Path


def write(folder: Path) -> Inputs:
    """The files, where they are not there yet."""
    made = Inputs(folder / "diffusers", folder / "images.npz", folder / "inception.safetensors")
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    if not made.data.exists():
        ramp = np.linspace(0, 1, SIDE)[:, None, None] * draw.uniform(0, 255, (IMAGES, 1, SIDE, 3))
        np.savez(made.data, arr_0=ramp.astype(np.uint8))
    if not (made.weights / diffusers.CONFIG).exists():
        diffusers.save(made.weights, unet.init(jax.random.key(0), NETWORK, SIDE), NETWORK, SIDE)
    if not made.inception.exists():
        files.write_tensors(made.inception, inception_arrays(draw))
    return made


def inception_arrays(draw: np.random.Generator) -> dict[str, np.ndarray]:
    """Kernels that keep the size of what passes through them, and no normalisation. He et al. 2015, equation 10."""
    arrays = {}
    for name, shape in inception.kernel_shapes().items():
        spread = np.sqrt(2 / np.prod(shape[1:]))
        arrays[f"{name}.conv.weight"] = (draw.standard_normal(shape) * spread).astype(np.float32)
        for part in inception.NORM:
            one = part in ("weight", "running_var")
            arrays[f"{name}.bn.{part}"] = np.full(shape[:1], float(one), np.float32)
    return arrays
