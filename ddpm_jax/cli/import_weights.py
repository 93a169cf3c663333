"""`ddpm-jax import`: a network of another project becomes a checkpoint."""

import json
from typing import Any, NamedTuple

import jax

from ddpm_jax.cli.arguments import ImportWeights
from ddpm_jax.data import datasets
from ddpm_jax.models import unet
from ddpm_jax.models.convert import diffusers, files, improved_diffusion
from ddpm_jax.models.convert.diffusers import Scheduler
from ddpm_jax.models.unet import UNetConfig
from ddpm_jax.runtime import cache, sharding
from ddpm_jax.training import checkpoints, loop, metrics, setup, step
from ddpm_jax.training.config import Config, to_dict

PRESET = "imported"


class Imported(NamedTuple):
    """What the files say.

    Attributes:
      network: its shape.
      params: float32.
      scheduler: of its chain, as far as it is known.
    """

    network: UNetConfig
    params: Any
    scheduler: Scheduler


def main(options: ImportWeights) -> None:
    """Read, compare names and shapes, and write a checkpoint."""
    imported = read(options)
    config = describe(options, imported)
    run = setup.resolve(config, imported.network)
    if options.dry_run:
        print(json.dumps({**to_dict(run.config), "network": to_dict(imported.network)}, indent=2))
        return
    folder = checkpoints.folder_of(options.workdir, config)
    cache.check_writable(options.workdir)
    with loop.locked(options.workdir):
        if checkpoints.steps(folder):
            raise ValueError(f"{options.workdir} holds a run already: choose another --workdir")
        state = step.initial_state(jax.random.key(config.seed), imported.params, run.recipe)
        description = setup.describe(run)
        with checkpoints.writing(folder) as store:
            checkpoints.save(store, state, description)
        metrics.introduce(options.workdir, description, 0, sharding.words())
    print(f"{options.workdir}: {unet.parameter_count(imported.params):,} parameters of {options.weights}")


def read(options: ImportWeights) -> Imported:
    """The network and its chain.

    Raises:
      ValueError: a file is missing, damaged or of another kind of network.
    """
    if options.weights.is_dir():
        if options.description is not None:
            raise ValueError(f"description = {options.description} has no effect: a folder describes itself")
        scheduler = diffusers.load_scheduler(options.weights) or Scheduler()
        return Imported(*diffusers.load(options.weights), scheduler)
    if options.description is None:
        raise ValueError(f"{options.weights} is no folder: a state dict needs --description, JSON of its arguments")
    network, params = improved_diffusion.load(options.weights, options.description)
    schedule, T = improved_diffusion.read_chain(files.read_json(options.description))
    if options.T not in (None, T):
        raise ValueError(f"T = {options.T}: {options.description} says diffusion_steps = {T}, leave --T out")
    return Imported(network, params, Scheduler(schedule, T))


def describe(options: ImportWeights, found: Imported) -> Config:
    """The run that might have trained it.

    Raises:
      ValueError: it has more heads than a variance reads.
    """
    if found.network.heads > 1:
        raise ValueError(f"{options.weights} has {found.network.heads} outputs beside the mean: one at most is read")
    learned = dict(objective="hybrid", variance=_head(found.scheduler)) if found.network.heads else {}
    settings = {name: getattr(found.scheduler, name) for name in ("schedule", "T", "prediction")}
    given = {name: getattr(options, name) for name in settings if getattr(options, name) is not None}
    return Config(
        data=options.data,
        **{name: getattr(options, name) for name in datasets.OPTIONS},
        preset=PRESET,
        ema_decay=(options.average,),
        **{**settings, **given, **learned},
    )


def _head(scheduler: Scheduler) -> str:
    """What the outputs beside the mean are for: learned_range, unless the scheduler says `learned`."""
    return "learned" if scheduler.variance == "learned" else "learned_range"
