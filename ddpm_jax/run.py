"""A config's names become things, and checkpoints become denoisers; refuses what cannot work before work is done."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ddpm_jax import (
    cells,
    checkpoint,
    data,
    objective,
    parallel,
    predict,
    process,
    time_sampler,
    train,
    unet,
    variance,
)
from ddpm_jax import schedule as schedules
from ddpm_jax.config import Config, from_dict, to_dict
from ddpm_jax.data import DataSet
from ddpm_jax.predict import Denoiser
from ddpm_jax.reverse import ReverseVariance
from ddpm_jax.schedule import Schedule
from ddpm_jax.train import Recipe, TrainState
from ddpm_jax.unet import UNetConfig
from ddpm_jax.variance import Calibration

CODE = cells.code_version(unet.__name__)
CHECKPOINTS = "checkpoints"
PROLONGING = {"steps", "log_every", "save_every", "sample_every", "parallel"}  # may differ when a run goes on


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
      state: at the last step.
      denoiser: of the averaged parameters.
    """

    run: Run
    state: TrainState
    denoiser: Denoiser


def named(table: dict[str, Any], name: str, kind: str) -> Any:
    """The entry of a registry.

    Raises:
      ValueError: there is none of this name.
    """
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}: choose one of {', '.join(table)}")
    return table[name]


def resolve(config: Config, network: UNetConfig | None = None) -> Run:
    """Turn names into things, and refuse what cannot work, before anything is compiled or written.

    Args:
      config: of the run.
      network: default the preset's.

    Raises:
      ValueError: an unknown name, or parts that do not fit each other.
    """
    for name in ("steps", "batch", "log_every", "save_every"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} = {getattr(config, name)}: it is at least 1")
    if not config.learning_rate > 0:
        raise ValueError(f"learning_rate = {config.learning_rate:g}: it must be positive")
    if config.seed < 0:
        raise ValueError(f"seed = {config.seed}: it is at least 0")
    images = data.load(config.data)
    network = shape(config) if network is None else network
    forward = named(schedules.SCHEDULES, config.schedule, "schedule")(config.T)
    predict.check_prediction(config.prediction, forward)
    parallel.check(config.parallel)
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
        denoiser=train.in_training(unet.network(network), forward, config.prediction, choice.heads),
        objective=objective.build(config.objective, parts),
        time_sampler=time_sampler.build(config.time_sampler),
        optimizer=train.adam(config.learning_rate, config.warmup, config.clip_norm),
        ema_decay=config.ema_decay,
        levels=images.levels,
        flip=images.flip,
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
    heads = in_loss(config, named(schedules.SCHEDULES, config.schedule, "schedule")(config.T)).heads
    return replace(named(unet.PRESETS, config.preset, "preset"), heads=len(heads))


def fresh(run: Run) -> TrainState:
    """The state before the first step."""
    params_key, key = jax.random.split(jax.random.key(run.config.seed))
    params = unet.init(params_key, run.network, run.data.shape[0])
    return train.init(key, params, run.recipe)


def describe(run: Run) -> dict[str, Any]:
    """What a checkpoint says of its run; plain values."""
    images = {"levels": run.data.levels, "shape": list(run.data.shape)}
    return {"config": to_dict(run.config), "network": to_dict(run.network), "data": images}


def load(workdir: Path) -> Trained:
    """The network of the newest checkpoint in workdir that can be read.

    Raises:
      ValueError: there is none, or it does not fit this version or its data set.
    """
    folder = workdir / CHECKPOINTS
    stored = checkpoint.describe(folder)
    config = from_dict(Config, stored["config"])
    run = resolve(config, from_dict(UNetConfig, stored["network"]))
    _check_data(run, stored, workdir)
    return trained(run, checkpoint.restore(folder, jax.eval_shape(partial(fresh, run))))


def trained(run: Run, state: TrainState) -> Trained:
    """The denoiser of a state's averaged parameters, beside them."""
    kind, heads = run.config.prediction, in_loss(run.config, run.schedule).heads
    return Trained(run, state, predict.make_denoiser(unet.network(run.network), state.ema, run.schedule, kind, heads))


def check_same(run: Run, stored: dict[str, Any], workdir: Path) -> None:
    """Refuse to go on with another run's state: a run may be prolonged or logged differently, nothing else.

    Args:
      run: what is wanted.
      stored: what a checkpoint of workdir says of itself.
      workdir: of both.

    Raises:
      ValueError: names what differs.
    """
    wanted = {**to_dict(run.config), "network": to_dict(run.network)}
    there = {**stored["config"], "network": stored["network"]}
    for name in sorted(wanted.keys() - PROLONGING):
        if wanted[name] != there.get(name):
            raise ValueError(
                f"{workdir} holds a run with {name} = {there.get(name)}, not {wanted[name]}: choose another --workdir"
            )
    _check_data(run, stored, workdir)


def _check_data(run: Run, stored: dict[str, Any], workdir: Path) -> None:
    if "data" not in stored:
        raise ValueError(f"{workdir} holds checkpoints of an earlier version: train again in another --workdir")
    there, here = stored["data"], describe(run)["data"]
    for name in here:
        if there[name] != here[name]:
            raise ValueError(
                f"{workdir} was trained on {run.config.data} with {name} {there[name]} and it now has {here[name]}: "
                "use the data it was trained on, or train again"
            )


def check_given(given: Config, actual: Config, free: set[str], why: str) -> None:
    """Refuse training options that would have no effect, because the network is already there.

    Args:
      given: from the command line.
      actual: what holds; options that agree with it are harmless.
      free: names that may differ.
      why: what makes them idle, for the message.

    Raises:
      ValueError: names the option.
    """
    for name, default in vars(Config()).items():
        value = getattr(given, name)
        if name not in free and value not in (default, getattr(actual, name)):
            raise ValueError(f"{name} = {value} has no effect, {why}: leave it out")
