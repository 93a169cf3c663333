"""`ddpm-jax heads`: train heads of variances on a network that stays as it is."""

from ddpm_jax.cli import betas
from ddpm_jax.cli.arguments import TrainHeads
from ddpm_jax.data import datasets
from ddpm_jax.runtime import cache, sharding
from ddpm_jax.training import heads, model, setup
from ddpm_jax.training.config import Config, to_dict

OF_A_DENOISER = ("data", *datasets.OPTIONS, "schedule", "T", "prediction")


def main(options: TrainHeads) -> None:
    """Train, or print what would be trained."""
    if (options.checkpoint is None) == (options.denoiser is None):
        raise ValueError(f"--checkpoint {options.checkpoint} and --denoiser {options.denoiser}: give one of them")
    given = Config(**{name: getattr(options, name) for name in OF_A_DENOISER})
    if options.denoiser:
        setup.check_unused(checkpoint_step=options.checkpoint_step, checkpoint_ema=options.checkpoint_ema)
        data = setup.load_images(given)
        network = model.of_module(options.denoiser, given, data)
    else:
        assert options.checkpoint
        stored = model.read(options.checkpoint, options.checkpoint_step, options.checkpoint_ema)
        why = f"the network of {options.checkpoint} is taken as it is"
        setup.check_given(given, stored.config, set(vars(given)) - set(OF_A_DENOISER), why)
        network, data = stored.model, model.load_data(stored.model)
    if options.save_every < 1:
        raise ValueError(f"save_every = {options.save_every}: it is at least 1")
    if options.workdir == options.checkpoint:
        raise ValueError(f"--workdir {options.workdir} holds the network: choose another folder for its heads")
    sharding.check(options.parallel)
    cache.check_writable(options.workdir)
    wanted = heads.resolve(options.training, network, data)
    if options.dry_run:
        print(betas.printed({**to_dict(wanted.config), "network": to_dict(wanted.network)}))
        return
    run = Config(seed=options.seed, parallel=options.parallel, save_every=options.save_every)
    heads.fit(options.training, run, network, data, options.workdir)
    print(f"{options.workdir}: {', '.join(wanted.config.heads)} trained to step {options.training.head_steps}")
