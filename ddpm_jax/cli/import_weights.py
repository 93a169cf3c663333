"""`ddpm-jax import`: a network of another project becomes a checkpoint."""

import sys
from typing import Any, NamedTuple

import jax

from ddpm_jax.cli import betas
from ddpm_jax.cli.arguments import ImportWeights
from ddpm_jax.data import datasets
from ddpm_jax.diffusion import schedules
from ddpm_jax.models import unet
from ddpm_jax.models.convert import diffusers, files, improved_diffusion, schedulers
from ddpm_jax.models.convert.schedulers import Scheduler
from ddpm_jax.models.unet import UNetConfig
from ddpm_jax.runtime import cache, sharding
from ddpm_jax.training import checkpoints, loop, metrics, setup, step
from ddpm_jax.training.config import Config, to_dict
from ddpm_jax.training.setup import Run

PRESET = "imported"


class Imported(NamedTuple):
    """What the files say.

    Attributes:
      network: its shape.
      params: float32.
      scheduler: of its chain, as far as it is known.
      told: what was chosen among the files, and what they say that is not kept, a line each.
    """

    network: UNetConfig
    params: Any
    scheduler: Scheduler
    told: list[str]


def main(options: ImportWeights) -> None:
    """Read, compare names and shapes, and write a checkpoint."""
    imported, run = prepare(options)
    if options.dry_run:
        print(betas.printed({**to_dict(run.config), "network": to_dict(imported.network)}))
        return
    cache.check_writable(options.workdir)
    write(options, imported, run)


def prepare(options: ImportWeights) -> tuple[Imported, Run]:
    """The network and the run that it becomes; stderr says what is kept. Nothing is written.

    Raises:
      ValueError: see `read`, or an option does not fit.
    """
    imported = read(options)
    config = describe(options, imported)
    run = setup.resolve(config, imported.network)
    print("\n".join([*imported.told, f"kept: {kept(config)}"]), file=sys.stderr)
    return imported, run


def write(options: ImportWeights, imported: Imported, run: Run) -> None:
    """The run's checkpoint.

    Raises:
      ValueError: there is a run in the workdir.
    """
    folder = checkpoints.folder_of(options.workdir, run.config)
    with loop.locked(options.workdir):
        if checkpoints.steps(folder):
            raise ValueError(f"{options.workdir} holds a run already: choose another --workdir")
        state = step.initial_state(jax.random.key(run.config.seed), imported.params, run.recipe)
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
        return _of_diffusers(options)
    if options.description is None:
        raise ValueError(f"{options.weights} is no folder: a state dict needs --description, JSON of its arguments")
    scheduler = improved_diffusion.load_chain(options.description)
    if options.T not in (None, scheduler.T):
        raise ValueError(f"T = {options.T}: {options.description} says diffusion_steps = {scheduler.T}, leave --T out")
    network, params = improved_diffusion.load(options.weights, options.description)
    clip_x_0 = scheduler.clip_x_0 if options.clip_x_0 is None else options.clip_x_0
    idle = improved_diffusion.told(files.read_json(options.description))
    told = [f"{options.description}: {line}" for line in idle]
    return Imported(network, params, scheduler._replace(clip_x_0=clip_x_0), told)


def _of_diffusers(options: ImportWeights) -> Imported:
    """A folder: its scheduler, which is small, before its weights."""
    folder = options.weights
    if options.description is not None:
        raise ValueError(f"description = {options.description} has no effect: a folder describes itself")
    path = schedulers.find(folder)
    scheduler = schedulers.load(folder, options.clip_x_0) or Scheduler(clip_x_0=options.clip_x_0)
    assumed = (
        f"{folder}: no {schedulers.NAME}, so DDPM's linear schedule of T = 1000 and eps where no option says other"
    )
    said = [f"{path}: {line}" for line in schedulers.told(files.read_json(path))] if path else [assumed]
    network, params = diffusers.load(folder)
    if scheduler.variance == "learned_range" and not network.heads:
        raise ValueError(f"{path}: variance_type = 'learned_range': the network has no outputs for it")
    if network.heads == 1 and scheduler.variance != "learned_range":
        said.append(
            f"{folder}: its scheduler does not say what the second half of the outputs is: taken as learned_range"
        )
    return Imported(network, params, scheduler, diffusers.told(folder) + said)


def describe(options: ImportWeights, found: Imported) -> Config:
    """The run that might have trained it.

    Raises:
      ValueError: it has more heads than a variance reads.
    """
    if found.network.heads > 1:
        raise ValueError(f"{options.weights} has {found.network.heads} outputs beside the mean: one at most is read")
    learned = dict(objective="hybrid", variance="learned_range") if found.network.heads else {}
    settings = {name: getattr(found.scheduler, name) for name in ("schedule", "T", "prediction")}
    given = {name: getattr(options, name) for name in settings if getattr(options, name) is not None}
    return Config(
        data=options.data,
        **{name: getattr(options, name) for name in datasets.OPTIONS},
        preset=PRESET,
        ema_decay=(options.average,),
        sampling_variance=found.scheduler.variance,
        sampling_clip_x_0=found.scheduler.clip_x_0,
        **{**settings, **given, **learned},
    )


def kept(config: Config) -> str:
    """What a run says of its chain, and of how its network is sampled, in a line."""
    clipping = {True: "x_0 clipped to [-1, 1]", False: "x_0 not clipped", None: "clipping not said"}
    variance = f"variance {config.sampling_variance}" if config.sampling_variance else "variance not said"
    chain = f"schedule {schedules.title(config.schedule)}, T = {config.T}, prediction {config.prediction}"
    return f"{chain}, {variance}, {clipping[config.sampling_clip_x_0]}"
