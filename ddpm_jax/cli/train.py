"""`ddpm-jax train`: train a denoiser, or go on with its training."""

from ddpm_jax.cli import betas
from ddpm_jax.cli.arguments import Train
from ddpm_jax.runtime import distributed
from ddpm_jax.training import loop, setup
from ddpm_jax.training.config import to_dict


def main(options: Train) -> None:
    """Train, or print what would be trained."""
    processes = options.coordinator, options.processes, options.process
    if options.dry_run:
        distributed.check(*processes)
        found = setup.resolve(options.training)
        print(betas.printed({**to_dict(found.config), "network": to_dict(found.network)}))
        return
    distributed.join(*processes)
    stored = loop.fit(options.training, options.workdir)
    if distributed.first():
        print(f"{options.workdir}: trained to step {stored.step}")
