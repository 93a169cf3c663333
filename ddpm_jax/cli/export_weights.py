"""`ddpm-jax export`: a trained network becomes a folder of Hugging Face diffusers."""

from ddpm_jax.cli import betas
from ddpm_jax.cli.arguments import ExportWeights
from ddpm_jax.diffusion import schedules
from ddpm_jax.models.convert import diffusers, schedulers
from ddpm_jax.models.convert.schedulers import Scheduler
from ddpm_jax.runtime import cache
from ddpm_jax.training import model, setup
from ddpm_jax.training.config import Config


def main(options: ExportWeights) -> None:
    """Read the checkpoint and write the folder."""
    stored = model.read(options.workdir, options.checkpoint_step, options.checkpoint_ema)
    network, scheduler = stored.network, schedulers.write(chain(stored.config))
    if options.dry_run:
        print(betas.printed({"unet": diffusers.write_config(network), "scheduler": scheduler}))
        return
    out = options.out or model.writable(options.workdir) / "diffusers"
    cache.check_writable(out)
    diffusers.save(out / "unet", stored.params, network, stored.model.shape[0])
    schedulers.save(out, scheduler)
    print(out)


def chain(config: Config) -> Scheduler:
    """What a run's config says of its chain, and of its sampling; a network with outputs for it draws with these.

    Raises:
      ValueError: the network has other outputs than diffusers reads.
    """
    heads = setup.in_loss(config, schedules.build(config.schedule, config.T)).heads
    if heads not in ((), ("learned_range",)):
        raise ValueError(f"variance = {config.variance}: diffusers reads no outputs but those of learned_range")
    variance = heads[0] if heads else config.sampling_variance
    return Scheduler(config.schedule, config.T, config.prediction, variance, config.sampling_clip_x_0)
