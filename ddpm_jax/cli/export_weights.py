"""`ddpm-jax export`: a trained network becomes a folder of Hugging Face diffusers."""

import json

from ddpm_jax.cli.arguments import ExportWeights
from ddpm_jax.models.convert import diffusers
from ddpm_jax.models.convert.diffusers import Scheduler
from ddpm_jax.runtime import cache
from ddpm_jax.training import model
from ddpm_jax.training.config import Config


def main(options: ExportWeights) -> None:
    """Read the checkpoint and write the folder."""
    stored = model.read(options.workdir, options.checkpoint_step, options.checkpoint_ema)
    network, scheduler = stored.network, diffusers.write_scheduler(chain(stored.config))
    if options.dry_run:
        print(json.dumps({"unet": diffusers.write_config(network), "scheduler": scheduler}, indent=2))
        return
    out = options.out or model.writable(options.workdir) / "diffusers"
    cache.check_writable(out)
    diffusers.save(out / "unet", stored.params, network, stored.model.shape[0])
    diffusers.save_scheduler(out, scheduler)
    print(out)


def chain(config: Config) -> Scheduler:
    """What a run's config says of its chain; a variance that diffusers lacks becomes the larger fixed one."""
    heads = config.variance in ("learned", "learned_range")
    return Scheduler(config.schedule, config.T, config.prediction, config.variance if heads else "large")
