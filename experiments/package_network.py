"""Put the network of an ablation into the package: ddpm_jax/builtin/NAME_network.npz, its heads and its moments.

`ddpm.load("builtin:NAME")` and every command then take it where they take a run. What it is, how it was made and how it
scores belongs into ddpm_jax/builtin/NAME.md.
Command: python -m experiments.package_network --workdir runs/digits --name digits
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.cli.command import command_line
from ddpm_jax.models import unet
from ddpm_jax.models.unet import UNetConfig
from ddpm_jax.runtime import cache
from ddpm_jax.training import checkpoints, model
from ddpm_jax.training.config import from_dict


@dataclass(frozen=True)
class PackageNetwork:
    """The options of this tool.

    Attributes:
      workdir: of the ablation: its network, heads/ and moments.npz.
      name: after `builtin:`.
    """

    workdir: Path = Path("runs/digits")
    name: str = "digits"


def main(options: PackageNetwork) -> None:
    """Read the averages and write three files."""
    model.PACKAGED.mkdir(exist_ok=True)
    files = {kind: model.PACKAGED / f"{options.name}_{kind}.npz" for kind in ("network", "heads", "moments")}
    stored = model.read(options.workdir)
    metadata = checkpoints.describe(checkpoints.folder_of(options.workdir))
    model.pack(files["network"], described(metadata, stored.step, ("config", "network", "data")), stored.params)

    folder = checkpoints.folder_of(options.workdir / model.HEADS)
    metadata = checkpoints.describe(folder)
    shape = from_dict(UNetConfig, metadata["network"])
    like = unet.shapes(shape)
    params, step = checkpoints.average(folder, like)
    model.pack(files["heads"], described(metadata, step, ("heads", "network", "model", "seed")), params)

    with np.load(options.workdir / "moments.npz", allow_pickle=False) as moments:
        arrays = {name: np.float32(one) if one.dtype == np.float64 else one for name, one in moments.items()}
    cache.write_whole(files["moments"], lambda file: np.savez_compressed(file, allow_pickle=False, **arrays))
    for file in files.values():
        print(f"{file.name}: {file.stat().st_size / 2**20:.2f} MiB")


def described(said: dict[str, Any], step: int, names: tuple[str, ...]) -> dict[str, Any]:
    """What is kept of a checkpoint's description."""
    return {"step": step, **{name: said[name] for name in (*names, "format", "made_with") if name in said}}


if __name__ == "__main__":
    command_line(PackageNetwork, main, __doc__)
