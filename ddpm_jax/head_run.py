"""Heads on a frozen denoiser: how they are trained, stored and put back on it."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax import Array
from jaxtyping import Key

from ddpm_jax import (
    agreement,
    cells,
    checkpoint,
    devices,
    frozen,
    journal,
    loop,
    optimizer,
    places,
    predict,
    process,
    recipes,
    run,
    time_sampler,
    trajectory,
    unet,
)
from ddpm_jax.config import Config, Heads, from_dict, to_dict
from ddpm_jax.data import DataSet
from ddpm_jax.frozen import Units
from ddpm_jax.loop import Job
from ddpm_jax.optimizer import Settings
from ddpm_jax.predict import Denoiser, Network
from ddpm_jax.recipes import Recipe, TrainState
from ddpm_jax.schedule import Schedule
from ddpm_jax.subject import Subject
from ddpm_jax.unet import UNetConfig

HEADS = "heads"  # the folder of heads inside the workdir of an ablation


class HeadRun(NamedTuple):
    """Heads to be trained on a denoiser, with all names resolved.

    Attributes:
      config: as given.
      subject: the frozen denoiser.
      network: the shape of the heads' network.
      unit: see `frozen.Units`.
      recipe: of a training step.
    """

    config: Heads
    subject: Subject
    network: UNetConfig
    unit: Units
    recipe: Recipe


def named(config: Heads) -> Heads:
    """The config with its heads named: without any, all that can be fitted."""
    return config if config.heads else replace(config, heads=tuple(frozen.FITS))


def check(config: Heads, schedule: Schedule, images: DataSet) -> UNetConfig:
    """Refuse what cannot be trained; the shape of the heads' network. All heads must be named, see `named`.

    Raises:
      ValueError: an unknown head or size, a number out of range, or images that the network cannot halve.
    """
    frozen.check_names(config.heads)
    for name in ("head_steps", "head_batch"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} = {getattr(config, name)}: it is at least 1")
    if not config.head_learning_rate > 0:
        raise ValueError(f"head_learning_rate = {config.head_learning_rate:g}: it must be positive")
    trajectory.even(schedule.T, config.chain or schedule.T)
    size = agreement.named(unet.HEAD_SIZES, config.size, "size")
    network = replace(size, image_channels=images.shape[2], heads=len(config.heads) - 1)
    unet.check(network, images.shape[0])
    return network


def resolve(config: Heads, subject: Subject) -> HeadRun:
    """Turn names into things.

    Raises:
      ValueError: see `check`.
    """
    config = named(config)
    schedule, network = subject.schedule, check(config, subject.schedule, subject.data)
    chain = process.steps(schedule, trajectory.even(schedule.T, config.chain or schedule.T))
    unit = frozen.units(schedule, chain)
    recipe = Recipe(
        schedule=schedule,
        chain=chain,
        denoiser=partial(_in_training, unet.network(network), config.heads, unit),
        objective=frozen.fit(config.heads, chain),
        time_sampler=time_sampler.build("antithetic"),
        optimizer=optimizer.build(Settings(learning_rate=config.head_learning_rate, warmup=100)),
        ema_decay=(config.head_ema_decay,),
        levels=subject.data.levels,
        flip=subject.data.flip,
        unroll=devices.loops_are_slow(),
    )
    return HeadRun(config, subject, network, unit, recipe)


def _in_training(
    network: Network,
    names: tuple[str, ...],
    unit: Units,
    params: recipes.Params,
    keys: Key[Array, " b"] | None,
    still: Denoiser,
) -> Denoiser:
    return frozen.with_heads(still, network, params, names, unit)


def fresh(wanted: HeadRun, seed: int) -> TrainState:
    """The state before the first step."""
    params_key, key = jax.random.split(jax.random.key(seed))
    return recipes.init(key, unet.init(params_key, wanted.network, wanted.subject.data.shape[0]), wanted.recipe)


def fit(config: Heads, pace: Config, subject: Subject, workdir: Path) -> Subject:
    """Train heads on a denoiser, from the newest checkpoint of workdir if there is one; see `loop.fit`.

    Args:
      config: which heads, and how long.
      pace: seed, devices, and how often to log and save are read.
      subject: the denoiser, which stays as it is.
      workdir: of the heads.

    Returns:
      The subject with its heads.

    Raises:
      ValueError: see `resolve` and `loop.work`.
    """
    wanted = resolve(config, subject)
    still = predict.clipped(subject.denoiser, subject.schedule) if config.fit_clip_x_0 else subject.denoiser
    job = Job(
        recipe=wanted.recipe,
        frozen=predict.as_argument(still),
        fresh=partial(fresh, wanted, pace.seed),
        data=subject.data,
        pace=replace(pace, steps=config.head_steps, batch=config.head_batch, microbatches=None, checkpoints=None),
        description=describe(wanted, pace.seed),
        check=partial(_check_same, describe(wanted, pace.seed), workdir),
        preview=None,
    )
    return headed(wanted, loop.work(job, workdir))


def describe(wanted: HeadRun, seed: int) -> dict[str, Any]:
    """What a checkpoint says of its heads; plain values."""
    of = dict(subject=wanted.subject.fingerprint, network=to_dict(wanted.network), seed=seed)
    return {"heads": to_dict(wanted.config), **of, "made_with": journal.made_with()}


def _check_same(wanted: dict[str, Any], workdir: Path, stored: dict[str, Any]) -> None:
    """Refuse to go on with heads of another denoiser or config; more steps are no difference."""
    if "heads" not in stored:
        raise ValueError(f"{workdir} holds a training run, not heads: choose another --workdir")
    flat = lambda said: {**said["heads"], **{name: said.get(name) for name in ("subject", "network", "seed")}}  # noqa: E731
    agreement.check(workdir, "heads", flat(wanted), flat(stored), {"head_steps"})


def headed(wanted: HeadRun, state: TrainState) -> Subject:
    """The subject with the averaged heads; known by their parameters, too."""
    subject, config = wanted.subject, wanted.config
    denoiser = frozen.with_heads(
        predict.as_argument(subject.denoiser),
        unet.network(wanted.network),
        state.ema[0],
        config.heads,
        wanted.unit,
        config.fit_clip_x_0,
    )
    parts = dict(
        subject=subject.fingerprint,
        parameters=jax.tree.leaves(jax.device_get(state.ema[0])),
        network=to_dict(wanted.network),
        heads=list(config.heads),
        unit=wanted.unit,
        clip=config.fit_clip_x_0,
        code=[cells.code_version(frozen.__name__), run.CODE],
    )
    times = tuple(wanted.recipe.chain.t.tolist()) if "learned" in config.heads else subject.learned_times
    return subject._replace(
        denoiser=denoiser,
        fingerprint=cells.fingerprint(parts),
        heads=tuple(dict.fromkeys((*subject.heads, *config.heads))),
        learned_times=times,
        clip_x_0=config.fit_clip_x_0,
    )


def load(workdir: Path, subject: Subject) -> Subject:
    """The subject with the heads of the newest checkpoint in workdir.

    Raises:
      ValueError: there is none, or it was trained on another denoiser.
    """
    folder = workdir / places.CHECKPOINTS
    stored = checkpoint.describe(folder)
    if "heads" not in stored:
        raise ValueError(f"{workdir} holds a training run, not heads: give the workdir of experiments.train_heads")
    if stored["subject"] != subject.fingerprint:
        raise ValueError(
            f"the heads of {workdir} were trained on another denoiser than {subject.name}: train them on this one"
        )
    wanted = resolve(from_dict(Heads, stored["heads"]), subject)
    return headed(wanted, checkpoint.restore(folder, jax.eval_shape(partial(fresh, wanted, stored["seed"]))))
