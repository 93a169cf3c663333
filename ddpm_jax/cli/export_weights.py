"""Write a trained network as a folder of Hugging Face diffusers: a DDPMPipeline with its UNet2DModel and scheduler.

There `DDPMPipeline.from_pretrained(folder)` and `UNet2DModel.from_pretrained(folder, subfolder="unet")` read it.
Command: python -m ddpm_jax.cli.export_weights --workdir runs/digits --out runs/digits/diffusers
"""

import json
from dataclasses import dataclass
from pathlib import Path

from ddpm_jax.cli.command import command_line
from ddpm_jax.models.convert import diffusers
from ddpm_jax.models.convert.diffusers import Scheduler
from ddpm_jax.runtime import cache
from ddpm_jax.training import model
from ddpm_jax.training.config import Config


@dataclass(frozen=True)
class ExportWeights:
    """The options of this tool.

    Attributes:
      workdir: of a trained run.
      checkpoint_step: which of its checkpoints; default the newest.
      checkpoint_ema: which of its averages of the parameters, by rate; default the first.
      out: the folder; default workdir/diffusers.
      dry_run: print the descriptions that would be written and stop.
    """

    workdir: Path = Path("runs/digits")
    checkpoint_step: int | None = None
    checkpoint_ema: float | None = None
    out: Path | None = None
    dry_run: bool = False


def main(options: ExportWeights) -> None:
    """Read the checkpoint and write the folder."""
    stored = model.read(options.workdir, options.checkpoint_step, options.checkpoint_ema)
    network, scheduler = stored.network, diffusers.write_scheduler(chain(stored.config))
    if options.dry_run:
        print(json.dumps({"unet": diffusers.write_config(network), "scheduler": scheduler}, indent=2))
        return
    out = options.out or options.workdir / "diffusers"
    cache.check_writable(out)
    diffusers.save(out / "unet", stored.params, network, stored.model.shape[0])
    diffusers.save_scheduler(out, scheduler)
    print(out)


def chain(config: Config) -> Scheduler:
    """What a run's config says of its chain; a variance that diffusers lacks becomes the larger fixed one."""
    heads = config.variance in ("learned", "learned_range")
    return Scheduler(config.schedule, config.T, config.prediction, config.variance if heads else "large")


if __name__ == "__main__":
    command_line(ExportWeights, main, __doc__)
