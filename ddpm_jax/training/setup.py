"""A config is resolved: its names become objects; what cannot work is refused before any work is done.

What is asked must agree with what is stored: every difference is named, none is overridden.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ddpm_jax.data import datasets
from ddpm_jax.data.datasets import DataSet
from ddpm_jax.diffusion import denoiser, losses, process, registry, schedules, variances
from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.variances import Calibration, ReverseVariance
from ddpm_jax.models import unet
from ddpm_jax.models.unet import UNetConfig
from ddpm_jax.runtime import sharding
from ddpm_jax.training import checkpoints, metrics, optimizers, step, timestep_sampling
from ddpm_jax.training.config import Config, check_config, completed, to_dict
from ddpm_jax.training.step import Params, Recipe, TrainState


def check_agreement(
    workdir: Path, what: str, wanted: Mapping[str, Any], stored: Mapping[str, Any], free: set[str]
) -> None:
    """Refuse to go on with another run's state.

    Args:
      workdir: of both.
      what: it holds, in words.
      wanted: plain values by name.
      stored: the same of what is there.
      free: names that may differ.

    Raises:
      ValueError: lists what differs.
    """
    names = [name for name in sorted(wanted.keys() - free) if wanted[name] != stored.get(name)]
    if names:
        listed = ", ".join(
            f"{name} = {_said(name, stored.get(name))}, not {_said(name, wanted[name])}" for name in names
        )
        raise ValueError(f"{workdir} holds {what} with {listed}: choose another --workdir")


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
            raise ValueError(f"{name} = {_said(name, value)} has no effect, {why}: leave it out")


def _said(name: str, value: Any) -> Any:
    """A value in a message; of a schedule its title, for it may be a thousand numbers."""
    return schedules.title(value) if name == "schedule" and isinstance(value, str) else value


def check_unused(**options: Any) -> None:
    """Refuse options of a checkpoint where none is read.

    Raises:
      ValueError: names one that is given.
    """
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"{name} = {value} has no effect without a checkpoint to choose from: leave it out")


# What may differ when a run goes on.
MAY_CHANGE = {"steps", "log_every", "save_every", "sample_every", "keep", "keep_every", "keep_best", "parallel"}
MAY_CHANGE |= {"steps_per_call", "microbatches", "remat", "wandb", "profile", "checkpoints"}
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


def data_of(config: Config) -> str:
    """The name of the data set: by default the preset's, of another network the digits."""
    own = config.preset if config.preset in datasets.DATASETS else "digits"
    return config.data or OTHER_DATA.get(config.preset, own)


def load_images(config: Config) -> DataSet:
    """The data set of a config, as its options say.

    Raises:
      ValueError: see `datasets.load`.
    """
    return datasets.load(data_of(config), **{name: getattr(config, name) for name in datasets.OPTIONS})


def resolve(config: Config, network: UNetConfig | None = None, images: DataSet | None = None) -> Run:
    """Turn names into things, and refuse what cannot work, before anything is compiled or written.

    Args:
      config: of the run.
      network: default the preset's.
      images: default what the config names.

    Raises:
      ValueError: an unknown name, or parts that do not fit each other.
    """
    check_config(config)
    if config.sampling_variance is not None:
        variances.find(config.sampling_variance)
    elsewhere = config.checkpoints and str(checkpoints.absolute(config.checkpoints))
    config = replace(config, data=data_of(config), checkpoints=elsewhere)
    images = images or load_images(config)
    network = shape(config) if network is None else network
    forward = schedules.build(config.schedule, config.T)
    denoiser.check_prediction(config.prediction, forward)
    sharding.check(config.parallel)
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
    options = losses.LossOptions(config.prediction, config.weighting, choice, chain)
    recipe = Recipe(
        schedule=forward,
        chain=chain,
        denoiser=step.in_training(unet.network(network, config.remat), forward, config.prediction, choice.heads),
        objective=losses.build(config.objective, options),
        time_sampler=timestep_sampling.build(config.time_sampler),
        optimizer=optimizers.build(
            optimizers.Settings(*(getattr(config, name) for name in optimizers.Settings._fields))
        ),
        ema_decay=config.ema_decay,
        levels=images.levels,
        flip=images.flip,
        microbatches=config.microbatches or 1,
        unroll=sharding.loops_are_slow(),
    )
    return Run(config, images, network, forward, recipe)


def in_loss(config: Config, schedule: Schedule) -> ReverseVariance:
    """The variance that the loss names; its heads are outputs of the network.

    Raises:
      ValueError: it needs the moments of a trained network.
    """
    if variances.needs(config.variance):
        raise ValueError(f"variance {config.variance!r} is fixed after training: leave it out of the loss")
    everywhere = tuple(range(1, schedule.T + 1))
    return variances.build(config.variance, Calibration(schedule, learned_times=everywhere))


def shape(config: Config) -> UNetConfig:
    """The network that a config's preset names, with the outputs that the variance in the loss reads.

    Raises:
      ValueError: no preset has this name.
    """
    heads = in_loss(config, schedules.build(config.schedule, config.T)).heads
    return replace(
        registry.named(unet.PRESETS, config.preset, "preset"), heads=len(heads), activations=config.activations
    )


def fresh(run: Run) -> TrainState:
    """The state before the first step."""
    params_key, key = jax.random.split(jax.random.key(run.config.seed))
    params = unet.init(params_key, run.network, run.data.shape[0])
    return step.initial_state(key, params, run.recipe)


def describe(run: Run) -> dict[str, Any]:
    """What a checkpoint says of its run; plain values."""
    parts = {"config": to_dict(run.config), "network": to_dict(run.network), "data": datasets.describe(run.data)}
    return {**parts, "made_with": metrics.made_with()}


def denoiser_of(config: Config, network: UNetConfig, schedule: Schedule, params: Params) -> Denoiser:
    """The denoiser of a run's network with these parameters, in float32 whatever precision it is trained in."""
    apply = unet.network(replace(network, activations="float32"))
    return denoiser.make_denoiser(apply, params, schedule, config.prediction, in_loss(config, schedule).heads)


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
    there = {**completed(Config, stored["config"]), "network": completed(UNetConfig, stored["network"])}
    free = MAY_CHANGE if run.config.rate_schedule == "constant" else MAY_CHANGE - {"steps"}
    check_agreement(workdir, "a run", wanted, there, free)
    check_data(run.data, stored.get("data", {}), str(workdir))


def check_data(images: DataSet, trained_on: dict[str, Any], name: str) -> None:
    """Refuse data of another kind or number; warn if only pixel values differ, as they do with another JPEG decoder.

    What an earlier version did not store about its data is not compared.

    Args:
      images: as they are now.
      trained_on: what `datasets.describe` said of them when the network was trained.
      name: of the network, for the message.

    Raises:
      ValueError: see above.
    """
    here = datasets.describe(images)
    for what in trained_on.keys() - here.keys() - {"name", *datasets.OPTIONS}:
        raise ValueError(
            f"{name} says of its data {what} = {trained_on[what]}: made by a newer version, update ddpm_jax"
        )
    for what in here:
        if what != "checksum" and trained_on.get(what, here[what]) != here[what]:
            raise ValueError(
                f"{name} was trained on {images.name} with {what} {trained_on[what]} and it now has {here[what]}: use "
                "the data it was trained on, or train again"
            )
    if trained_on.get("checksum", here["checksum"]) != here["checksum"]:
        print(
            f"warning: {name} was trained on other images than {images.name} has now, as many of the same shape",
            file=sys.stderr,
        )
