"""A config's names become things, and checkpoints become denoisers; refuses what cannot work before work is done."""

import importlib
import importlib.util
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ddpm_jax import cells, checkpoint, data, objective, parallel, predict, process, train, unet
from ddpm_jax import schedule as schedules
from ddpm_jax import subject as subjects
from ddpm_jax.config import Config, from_dict, to_dict
from ddpm_jax.data import DataSet
from ddpm_jax.predict import Denoiser
from ddpm_jax.schedule import Schedule
from ddpm_jax.subject import Subject
from ddpm_jax.train import Recipe, TrainState
from ddpm_jax.unet import UNetConfig

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


def _named(table: dict[str, Any], name: str, kind: str) -> Any:
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
    if config.seed < 0:
        raise ValueError(f"seed = {config.seed}: it is at least 0")
    images = data.load(config.data)
    network = shape(config) if network is None else network
    forward = _named(schedules.SCHEDULES, config.schedule, "schedule")(config.T)
    process.steps(forward, [forward.T])  # refuses a schedule that leaves no data at T
    predict.check_prediction(config.prediction, forward)
    parallel.check(config.parallel)
    unet.check(network, images.shape[0])
    if network.image_channels != images.shape[2]:
        raise ValueError(
            f"preset {config.preset!r} is for {network.image_channels}-channel images and {config.data} has "
            f"{images.shape[2]}: choose another preset"
        )
    recipe = Recipe(
        schedule=forward,
        network=unet.network(network),
        prediction=config.prediction,
        objective=objective.build(config.objective, config.prediction),
        optimizer=train.adam(config.learning_rate, config.warmup, config.clip_norm),
        ema_decay=config.ema_decay,
        levels=images.levels,
        flip=images.flip,
    )
    return Run(config, images, network, forward, recipe)


def shape(config: Config) -> UNetConfig:
    """The network that a config's preset names.

    Raises:
      ValueError: no preset has this name.
    """
    return _named(unet.PRESETS, config.preset, "preset")


def fresh(run: Run) -> TrainState:
    """The state before the first step."""
    params_key, key = jax.random.split(jax.random.key(run.config.seed))
    params = unet.init(params_key, run.network, run.data.shape[0])
    return train.init(key, params, run.recipe.optimizer)


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
    denoiser = predict.make_denoiser(run.recipe.network, state.ema, run.schedule, run.config.prediction)
    return Trained(run, state, denoiser)


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


def subject(trained: Trained, source: str, name: str) -> Subject:
    """What is judged: the network of a run, known by its parameters, not by where it lies."""
    run = trained.run
    parts = dict(
        parameters=jax.tree.leaves(jax.device_get(trained.state.ema)),
        network=to_dict(run.network),
        prediction=run.config.prediction,
        schedule=run.schedule,
        code=CODE,
    )
    return Subject(source, name, run.data, run.schedule, trained.denoiser, cells.fingerprint(parts))


def own(spec: str, config: Config) -> Subject:
    """A user's denoiser, with the schedule, prediction and data that the config names.

    It is known by what it does, see `subject.of`, and by the code of its module and what that imports of its package.

    Args:
      spec: module:function, a callable (x_t, t) -> what it predicts.
      config: data, schedule, T and prediction are read.

    Raises:
      ValueError: it cannot be imported, or does not do what a denoiser does; see `subject.of`.
    """
    schedule = _named(schedules.SCHEDULES, config.schedule, "schedule")(config.T)
    predict.check_prediction(config.prediction, schedule)
    process.steps(schedule, [schedule.T])
    images = data.load(config.data)
    module, _, attribute = spec.partition(":")
    try:
        origin = getattr(importlib.util.find_spec(module), "origin", None) or ""
        code = cells.code_version(module) if origin.endswith(".py") else origin
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # it is the user's code
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"--denoiser {spec}: {reason}; give module:function, importable from here") from error
    found = subjects.of(function, schedule, config.prediction, images, name=spec)
    return found._replace(fingerprint=cells.fingerprint([found.fingerprint, code]))
