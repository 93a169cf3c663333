"""The training of heads on a frozen denoiser: their losses, and the run that fits them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Key

from ddpm_jax import paths
from ddpm_jax.data.datasets import DataSet
from ddpm_jax.diffusion import losses, registry, timesteps, variances
from ddpm_jax.diffusion.denoiser import Denoiser, Network, Prediction, as_argument, clipped
from ddpm_jax.diffusion.losses import NoisyBatch, Objective, per_example
from ddpm_jax.diffusion.process import Steps
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.models import heads, unet
from ddpm_jax.models.heads import Units
from ddpm_jax.models.unet import UNetConfig
from ddpm_jax.paths import AnyPath
from ddpm_jax.runtime import sharding
from ddpm_jax.training import loop, metrics, optimizers, setup, step, timestep_sampling
from ddpm_jax.training.config import Config, Heads, completed, to_dict
from ddpm_jax.training.loop import Job
from ddpm_jax.training.model import Model, check_age, head_chain, with_heads
from ddpm_jax.training.optimizers import Settings
from ddpm_jax.training.step import Recipe, TrainState

LEAST_UNIT = 0.05  # of alpha_bar_t: the mistakes of a real network's Jacobian at large t are larger than alpha_bar_t
LEAST_RATIO = 0.01  # of b/tb - 1: below it the bound hardly depends on the variance, and float32 cannot tell


def _unit(drawn: NoisyBatch) -> Array:
    """What errors of h are counted in: alpha_bar_t, the h of data of variance 1, and at least LEAST_UNIT."""
    return jnp.maximum(drawn.step.signal**2, LEAST_UNIT)


def fit_npr(drawn: NoisyBatch, denoiser: Denoiser, prediction: Prediction, chain: Steps) -> Float[Array, " b"]:
    """((eps - eps_hat)^2 - g)^2 in units of alpha_bar_t, the order of the target. Bao et al. 2022b, section 4."""
    error = jnp.where(drawn.step.signal > 0, drawn.eps - prediction.eps, drawn.x_0 - prediction.x_0)
    return per_example(((error**2 - variances.read_head(prediction, "npr")) / _unit(drawn)) ** 2)


def fit_sn(drawn: NoisyBatch, denoiser: Denoiser, prediction: Prediction, chain: Steps) -> Float[Array, " b"]:
    """(eps^2 - g)^2, the target of order 1 at every time. Bao et al. 2022b, section 3."""
    square = jnp.where(drawn.step.signal > 0, drawn.eps**2, drawn.x_0**2 - prediction.x_0**2 + prediction.eps**2)
    return per_example((square - variances.read_head(prediction, "sn")) ** 2)


def fit_ocm(drawn: NoisyBatch, denoiser: Denoiser, prediction: Prediction, chain: Steps) -> Float[Array, " b"]:
    """((1 - alpha_bar_t) r * (H r) - g)^2 in units of alpha_bar_t. Ou et al. 2025, section 3.

    H is the Jacobian of the score -eps_hat/sqrt(1 - alpha_bar_t), r has entries +-1: one Jacobian-vector product, and
    E r * (H r) = diag H.

    Raises:
      ValueError: nothing to draw r from.
    """
    if drawn.keys is None:
        raise ValueError("the head ocm needs keys for its probes")
    shape = drawn.x_t.shape[1:]
    positive = jax.vmap(lambda key: jax.random.bernoulli(key, np.float32(0.5), shape))(drawn.keys)
    probe = jnp.where(positive, 1, -1).astype(drawn.x_t.dtype)
    _, turned = jax.jvp(lambda x_t: denoiser(x_t, drawn.step.t).eps, (drawn.x_t,), (probe,))
    unknown = (drawn.x_0 - prediction.x_0) ** 2 - 1  # where alpha_bar_t = 0, x_t says nothing and has no Jacobian
    wanted = jax.lax.stop_gradient(jnp.where(drawn.step.signal > 0, -drawn.step.noise * probe * turned, unknown))
    return per_example(((wanted - variances.read_head(prediction, "ocm")) / _unit(drawn)) ** 2)


def fit_learned(drawn: NoisyBatch, denoiser: Denoiser, prediction: Prediction, chain: Steps) -> Float[Array, " b"]:
    """The term of the bound of `variances.learned`, nats per dimension, weighed by (1 - tb/b)^-2.

    Ho et al. 2020, equation 5. The term depends on the variance by (1 - tb/b)^2: the weight, which moves no optimum at
    any time, lets short steps learn as fast as long ones, down to b/tb - 1 = LEAST_RATIO.
    """
    return _weight(drawn) * losses.bound_term(variances.learned(None), chain, drawn, prediction)


def fit_learned_range(
    drawn: NoisyBatch, denoiser: Denoiser, prediction: Prediction, chain: Steps
) -> Float[Array, " b"]:
    """The term of the bound of `variances.learned_range`, nats per dimension, weighed as that of `learned`.

    Nichol & Dhariwal 2021, section 3.1.
    """
    return _weight(drawn) * losses.bound_term(variances.learned_range(), chain, drawn, prediction)


def _weight(drawn: NoisyBatch) -> Array:
    ratio = jnp.maximum(jnp.expm1(drawn.step.log_b - drawn.step.log_tb_floored), LEAST_RATIO)
    return ((1 + ratio) / ratio).ravel() ** 2


LOSSES: dict[str, Callable[[NoisyBatch, Denoiser, Prediction, Steps], Float[Array, " b"]]] = {
    "npr": fit_npr,
    "sn": fit_sn,
    "ocm": fit_ocm,
    "learned": fit_learned,
    "learned_range": fit_learned_range,
}
"""By head: (drawn, denoiser, prediction, chain) -> loss of every example; the prediction's mean has no gradient."""


def head_loss(names: tuple[str, ...], chain: Steps) -> Objective:
    """The sum of the heads' losses.

    Args:
      names: of LOSSES.
      chain: whose steps training draws.

    Raises:
      ValueError: a name is unknown.
    """
    check_heads(names)

    def loss(drawn: NoisyBatch, denoiser: Denoiser) -> Float[Array, " b"]:
        prediction = denoiser(drawn.x_t, drawn.step.t)
        still = prediction._replace(
            eps=jax.lax.stop_gradient(prediction.eps), x_0=jax.lax.stop_gradient(prediction.x_0)
        )
        return sum((LOSSES[name](drawn, denoiser, still, chain) for name in names), start=jnp.float32(0))

    return loss


def check_heads(names: tuple[str, ...]) -> None:
    """Refuse heads that cannot be fitted.

    Raises:
      ValueError: a name is not of LOSSES or there twice, or there is none.
    """
    if not names or len(set(names)) < len(names):
        raise ValueError(f"heads = {' '.join(names)}: give at least one, each once, of {', '.join(LOSSES)}")
    for name in names:
        if name not in LOSSES:
            raise ValueError(f"unknown head {name!r}: choose from {', '.join(LOSSES)}")


class HeadRun(NamedTuple):
    """Heads to be trained on a frozen denoiser, with all names resolved.

    Attributes:
      config: as given.
      model: the frozen denoiser.
      data: the images.
      network: the shape of the heads' network.
      recipe: of a training step.
    """

    config: Heads
    model: Model
    data: DataSet
    network: UNetConfig
    recipe: Recipe


def named(config: Heads) -> Heads:
    """The config with its heads named: without any, all that can be fitted."""
    return config if config.heads else replace(config, heads=tuple(LOSSES))


def check(config: Heads, schedule: Schedule, shape: tuple[int, ...]) -> UNetConfig:
    """Refuse what cannot be trained; the shape of the heads' network. All heads must be named, see `named`.

    Args:
      config: which heads.
      schedule: the forward process.
      shape: (H, W, C) of the images.

    Raises:
      ValueError: an unknown head or size, a number out of range, or images that the network cannot halve.
    """
    check_heads(config.heads)
    for name in ("head_steps", "head_batch"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} = {getattr(config, name)}: it is at least 1")
    if not config.head_learning_rate > 0:
        raise ValueError(f"head_learning_rate = {config.head_learning_rate:g}: it must be positive")
    timesteps.even(schedule.T, config.chain or schedule.T)
    size = registry.named(unet.HEAD_SIZES, config.size, "size")
    network = replace(size, image_channels=shape[2], heads=len(config.heads) - 1)
    unet.check(network, shape[0])
    return network


def resolve(config: Heads, model: Model, data: DataSet) -> HeadRun:
    """Turn names into things.

    Raises:
      ValueError: see `check`.
    """
    config = named(config)
    network, chain = check(config, model.schedule, model.shape), head_chain(config, model.schedule)
    recipe = Recipe(
        schedule=model.schedule,
        chain=chain,
        denoiser=partial(_in_training, unet.network(network), config.heads, heads.units(model.schedule, chain)),
        objective=head_loss(config.heads, chain),
        time_sampler=timestep_sampling.build("antithetic"),
        optimizer=optimizers.build(Settings(learning_rate=config.head_learning_rate, warmup=100)),
        ema_decay=(config.head_ema_decay,),
        levels=data.levels,
        flip=data.flip,
        unroll=sharding.loops_are_slow(),
    )
    return HeadRun(config, model, data, network, recipe)


def _in_training(
    network: Network,
    names: tuple[str, ...],
    unit: Units,
    params: step.Params,
    keys: Key[Array, " b"] | None,
    still: Denoiser,
) -> Denoiser:
    return heads.with_heads(still, network, params, names, unit)


def fresh(wanted: HeadRun, seed: int) -> TrainState:
    """The state before the first step."""
    params_key, key = jax.random.split(jax.random.key(seed))
    return step.initial_state(key, unet.init(params_key, wanted.network, wanted.model.shape[0]), wanted.recipe)


def fit(config: Heads, run: Config, model: Model, data: DataSet, workdir: AnyPath) -> Model:
    """Train heads on a denoiser, from the newest checkpoint of workdir if there is one; see `loop.fit`.

    Args:
      config: which heads, and how long.
      run: seed, devices, and how often to log and save are read.
      model: the denoiser, which stays as it is.
      data: the images.
      workdir: of the heads.

    Returns:
      The model with its heads.

    Raises:
      ValueError: see `resolve` and `loop.work`.
    """
    workdir, wanted = paths.local(workdir), resolve(config, model, data)
    still = clipped(model.denoiser, model.schedule) if config.fit_clip_x_0 else model.denoiser
    job = Job(
        recipe=wanted.recipe,
        frozen=as_argument(still),
        fresh=partial(fresh, wanted, run.seed),
        data=data,
        config=replace(run, steps=config.head_steps, batch=config.head_batch, microbatches=None, checkpoints=None),
        description=describe(wanted, run.seed),
        check=partial(_check_same, describe(wanted, run.seed), workdir),
        preview=None,
    )
    return with_heads(model, wanted.config, wanted.network, loop.work(job, workdir).ema[0])


def describe(wanted: HeadRun, seed: int) -> dict[str, Any]:
    """What a checkpoint says of its heads; plain values."""
    of = dict(model=wanted.model.fingerprint, network=to_dict(wanted.network), seed=seed)
    return {"heads": to_dict(wanted.config), **of, "made_with": metrics.made_with()}


def _check_same(wanted: dict[str, Any], workdir: Path, stored: dict[str, Any]) -> None:
    """Refuse to go on with heads of another denoiser or config; more steps are no difference."""
    if "heads" not in stored:
        raise ValueError(f"{workdir} holds a training run, not heads: choose another --workdir")
    check_age(stored, workdir)
    setup.check_agreement(workdir, "heads", _flat(wanted), _flat(stored), {"head_steps"})


def _flat(said: dict[str, Any]) -> dict[str, Any]:
    """Everything by which the trainings of heads differ."""
    of = {"model": said["model"], "network": completed(UNetConfig, said["network"]), "seed": said["seed"]}
    return {**completed(Heads, said["heads"]), **of}
