"""Train a denoiser.

Run again with the same --workdir to go on where it stopped, or with more --steps to prolong it.
Needs: minutes on two CPU cores for the default digits.
Command: python -m ddpm_jax.cli.train --workdir runs/digits
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from ddpm_jax.cli.command import command_line
from ddpm_jax.runtime import distributed
from ddpm_jax.training import loop, setup
from ddpm_jax.training.config import Config, Flat, to_dict


@dataclass(frozen=True)
class Train:
    """The options of this tool.

    Attributes:
      training: the run.
      workdir: folder of checkpoints, metrics.jsonl and TensorBoard files.
      coordinator: host:port of the first of several processes; default what the cluster says (Cloud TPU, SLURM, GKE).
      processes: how many there are.
      process: which of them this is, from 0.
      dry_run: print the resolved config and stop.
    """

    training: Flat = field(default_factory=Config)
    workdir: Path = Path("runs/digits")
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    dry_run: bool = False


def main(options: Train) -> None:
    """Train, or print what would be trained."""
    distributed.join(options.coordinator, options.processes, options.process)
    found = setup.resolve(options.training)
    if options.dry_run:
        print(json.dumps({**to_dict(found.config), "network": to_dict(found.network)}, indent=2))
        return
    stored = loop.fit(options.training, options.workdir)
    if distributed.first():
        print(f"{options.workdir}: trained to step {stored.step}")


if __name__ == "__main__":
    with distributed.ending_together():
        command_line(Train, main, __doc__)
