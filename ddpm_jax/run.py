"""A config's names become things, and checkpoints become denoisers; refuses what cannot work before work is done."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ddpm_jax import (
    agreement,
    cells,
    checkpoint,
    data,
    devices,
    journal,
    objective,
    optimizer,
    pace,
    places,
    predict,
    process,
    recipes,
    storage,
    time_sampler,
    unet,
    variance,
)
from ddpm_jax import schedule as schedules
from ddpm_jax.config import Config, from_dict, to_dict
from ddpm_jax.data import DataSet
from ddpm_jax.predict import Denoiser
from ddpm_jax.recipes import Params, Recipe, TrainState
from ddpm_jax.reverse import ReverseVariance
from ddpm_jax.schedule import Schedule
from ddpm_jax.unet import UNetConfig
from ddpm_jax.variance import Calibration

CODE = cells.code_version(unet.__name__)
# What may differ when a run goes on.
PROLONGING = {"steps", "log_every", "save_every", "sample_every", "keep", "keep_every", "keep_best", "parallel"}
PROLONGING |= {"steps_per_call", "microbatches", "remat", "wandb", "profile", "checkpoints"}
OTHER_DATA = {
    "cifar10_small": "cifar10",
    "celebahq256": "celeb_a_hq/256",
}  # of presets without a data set of their name


class Run(NamedTuple):
    """A config with its names resolved.

    Attributes:
      config: as given.
      data: the images.
      network: the shape of the U-Net.
      schedule: the forward process.
      recipe: what the training step needs.
    """

    config: Config
    data: DataSet
    network: UNetConfig
    schedule: Schedule
    recipe: Recipe


class Trained(NamedTuple):
    """A network read from a checkpoint.

    Attributes:
      run: what it was trained with.
      state: at a step.
      averaged: the average of its parameters that is used.
      denoiser: of these.
    """

    run: Run
    state: TrainState
    averaged: Params
    denoiser: Denoiser


def data_of(config: Config) -> str:
    """The name of the data set: by default the preset's, of another network the digits."""
    own = config.preset if config.preset in data.DATASETS else "digits"
    return config.data or OTHER_DATA.get(config.preset, own)


def resolve(config: Config, network: UNetConfig | None = None, images: DataSet | None = None) -> Run:
    """Turn names into things, and refuse what cannot work, before anything is compiled or written.

    Args:
      config: of the run.
      network: default the preset's.
      images: default what the config names.

    Raises:
      ValueError: an unknown name, or parts that do not fit each other.
    """
    pace.check(config)
    elsewhere = config.checkpoints and str(storage.place(config.checkpoints))
    config = replace(config, data=data_of(config), checkpoints=elsewhere)
    images = images or data.load(data_of(config), config.image_size)
    network = shape(config) if network is None else network
    forward = agreement.named(schedules.SCHEDULES, config.schedule, "schedule")(config.T)
    predict.check_prediction(config.prediction, forward)
    devices.check(config.parallel)
    unet.check(network, images.shape[0])
    if network.image_channels != images.shape[2]:
        raise ValueError(
            f"preset {config.preset!r} is for {network.image_channels}-channel images and {config.data} has "
            f"{images.shape[2]}: choose another preset"
        )
    chain = process.every_step(forward)
    choice = in_loss(config, forward)
    if not choice.heads and config.objective not in ("vlb", "hybrid") and config.variance != Config.variance:
        raise ValueError(f"variance {config.variance!r} has no effect on objective {config.objective!r}: leave it out")
    parts = objective.Parts(config.prediction, config.weighting, choice, chain)
    recipe = Recipe(
        schedule=forward,
        chain=chain,
        denoiser=recipes.in_training(unet.network(network, config.remat), forward, config.prediction, choice.heads),
        objective=objective.build(config.objective, parts),
        time_sampler=time_sampler.build(config.time_sampler),
        optimizer=optimizer.build(optimizer.Settings(*(getattr(config, name) for name in optimizer.Settings._fields))),
        ema_decay=config.ema_decay,
        levels=images.levels,
        flip=images.flip,
        microbatches=config.microbatches or 1,
        unroll=devices.loops_are_slow(),
    )
    return Run(config, images, network, forward, recipe)


def in_loss(config: Config, schedule: Schedule) -> ReverseVariance:
    """The variance that the loss names; its heads are outputs of the network.

    Raises:
      ValueError: it needs the moments of a trained network.
    """
    try:
        everywhere = tuple(range(1, schedule.T + 1))
        return variance.build(config.variance, Calibration(schedule, learned_times=everywhere))
    except variance.Unmeasured as error:
        raise ValueError(f"variance {config.variance!r} is fixed after training: leave it out of the loss") from error


def shape(config: Config) -> UNetConfig:
    """The network that a config's preset names, with the outputs that the variance in the loss reads.

    Raises:
      ValueError: no preset has this name.
    """
    heads = in_loss(config, agreement.named(schedules.SCHEDULES, config.schedule, "schedule")(config.T)).heads
    return replace(
        agreement.named(unet.PRESETS, config.preset, "preset"), heads=len(heads), activations=config.activations
    )


def fresh(run: Run) -> TrainState:
    """The state before the first step."""
    params_key, key = jax.random.split(jax.random.key(run.config.seed))
    params = unet.init(params_key, run.network, run.data.shape[0])
    return recipes.init(key, params, run.recipe)


def describe(run: Run) -> dict[str, Any]:
    """What a checkpoint says of its run; plain values."""
    parts = {"config": to_dict(run.config), "network": to_dict(run.network), "data": data.describe(run.data)}
    return {**parts, "made_with": journal.made_with()}


def load(workdir: Path, step: int | None = None, ema_decay: float | None = None) -> Trained:
    """The network of a checkpoint in workdir.

    Args:
      workdir: of the run.
      step: of the checkpoint; default the newest that can be read.
      ema_decay: which average of the parameters; default the run's first.

    Raises:
      ValueError: there is none, or it does not fit this version or its data set.
    """
    folder = places.checkpoints(workdir)
    stored = checkpoint.describe(folder, step)
    if "config" not in stored:
        raise ValueError(f"{workdir} holds heads, not a training run: give the workdir of experiments.train")
    config = from_dict(Config, stored["config"])
    run = resolve(config, from_dict(UNetConfig, stored["network"]))
    _check_data(run, stored, workdir)
    return trained(run, checkpoint.restore(folder, jax.eval_shape(partial(fresh, run)), step), ema_decay)


def trained(run: Run, state: TrainState, ema_decay: float | None = None) -> Trained:
    """The denoiser of a state's averaged parameters, beside them; by default of the first average.

    Raises:
      ValueError: the run has no average of this rate.
    """
    rates = run.config.ema_decay
    if ema_decay not in (None, *rates):
        raise ValueError(
            f"ema_decay = {ema_decay:g}: the run has averages of {', '.join(f'{rate:g}' for rate in rates)}"
        )
    averaged = state.ema[0 if ema_decay is None else rates.index(ema_decay)]
    return Trained(run, state, averaged, denoiser(run, averaged))


def denoiser(run: Run, params: Params) -> Denoiser:
    """What some parameters make of a run's network, in float32 whatever it is trained in."""
    network = unet.network(replace(run.network, activations="float32"))
    heads = in_loss(run.config, run.schedule).heads
    return predict.make_denoiser(network, params, run.schedule, run.config.prediction, heads)


def check_same(run: Run, stored: dict[str, Any], workdir: Path) -> None:
    """Refuse to go on with another run's state: a run may be prolonged or logged differently, nothing else.

    Args:
      run: what is wanted.
      stored: what a checkpoint of workdir says of itself.
      workdir: of both.

    Raises:
      ValueError: lists what differs.
    """
    wanted = {**to_dict(run.config), "network": to_dict(run.network)}
    there = {**stored["config"], "network": stored["network"]}
    free = PROLONGING if run.config.rate_schedule == "constant" else PROLONGING - {"steps"}
    agreement.check(workdir, "a run", wanted, there, free)
    _check_data(run, stored, workdir)


def _check_data(run: Run, stored: dict[str, Any], workdir: Path) -> None:
    """Refuse data of another kind or number; say when only their bits differ, as they do with another JPEG decoder."""
    there, here = stored.get("data", {}), data.describe(run.data)
    if there.keys() != here.keys():
        raise ValueError(f"{workdir} holds checkpoints of an earlier version: train again in another --workdir")
    for name in here:
        if name != "checksum" and there[name] != here[name]:
            raise ValueError(
                f"{workdir} was trained on {run.config.data} with {name} {there[name]} and it now has {here[name]}: "
                "use the data it was trained on, or train again"
            )
    if there["checksum"] != here["checksum"]:
        print(
            f"warning: {workdir} was trained on other images than {run.config.data} has now, as many of the same shape",
            file=sys.stderr,
        )
