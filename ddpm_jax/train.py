"""One training step: pure, and the same on one device or many. Ho et al. 2020, algorithm 1.

Every example has its own key, folded from the root key, the step and the example's place in the global batch, so that
one device and eight draw the same times and noise.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Int, Key, UInt8

from ddpm_jax import objective
from ddpm_jax.objective import Noised, Objective
from ddpm_jax.predict import Denoiser, Images, Network, make_denoiser
from ddpm_jax.process import Steps
from ddpm_jax.schedule import Schedule
from ddpm_jax.time_sampler import History, TimeSampler

Params = Any
MakesDenoiser = Callable[[Params, Key[Array, " b"] | None, Any], Denoiser]
Batch = UInt8[Array, "b *x"] | Float[Array, "b *x"]


class TrainState(NamedTuple):
    """All that changes in training, and all that a checkpoint holds.

    Attributes:
      step: number of updates made.
      params: of the network.
      ema: exponential moving average of params, right from step 1.
      opt_state: optax's.
      key: root of all randomness; never changes.
      history: of the time sampler.
    """

    step: Int[Array, ""]
    params: Params
    ema: Params
    opt_state: optax.OptState
    key: Key[Array, ""]
    history: History


class Recipe(NamedTuple):
    """All that does not change in training.

    Attributes:
      schedule: the forward process.
      chain: whose steps are drawn; in ordinary training all T.
      denoiser: (params, dropout keys, frozen) -> the denoiser they make; `frozen` is what training leaves alone.
      objective: the loss.
      time_sampler: how steps of the chain are drawn.
      optimizer: optax's.
      ema_decay: of the average; early steps use the smaller (1 + step)/(10 + step).
      levels: number of grey levels of the data; None for data that come as they are.
      flip: mirror each image with probability 1/2.
    """

    schedule: Schedule
    chain: Steps
    denoiser: MakesDenoiser
    objective: Objective
    time_sampler: TimeSampler
    optimizer: optax.GradientTransformation
    ema_decay: float
    levels: int | None
    flip: bool


class Metrics(NamedTuple):
    """What a step reports.

    Attributes:
      loss: mean over the batch.
      gradient_norm: before clipping.
      bad_t: a time at which an example's loss was not finite, or 0.
    """

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    bad_t: Int[Array, ""]


def in_training(network: Network, schedule: Schedule, kind: str, heads: tuple[str, ...] = ()) -> MakesDenoiser:
    """A Recipe's denoiser: network(params, x_t, t, dropout keys) that predicts `kind` and has these heads."""

    def made(params: Params, keys: Key[Array, " b"] | None, frozen: Any) -> Denoiser:
        return make_denoiser(lambda params, x_t, t: network(params, x_t, t, keys), params, schedule, kind, heads)

    return made


def adam(learning_rate: float, warmup: int, clip_norm: float) -> optax.GradientTransformation:
    """Adam after clipping of the global norm, with linear warm-up. Ho et al. 2020, appendix B.

    Args:
      learning_rate: after warm-up.
      warmup: steps over which it grows linearly from 0.
      clip_norm: largest norm of a gradient.
    """
    rate = optax.linear_schedule(0.0, learning_rate, warmup) if warmup else learning_rate
    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.adam(rate))


def init(key: Key[Array, ""], params: Params, recipe: Recipe) -> TrainState:
    """The state before the first step."""
    history = recipe.time_sampler.init(recipe.chain.K)
    return TrainState(jnp.int32(0), params, params, recipe.optimizer.init(params), key, history)


def to_unit(images_uint8: UInt8[Array, "b *x"], levels: int) -> Images:
    """Grey levels 0..levels-1 to [-1, 1]."""
    return images_uint8.astype(jnp.float32) * (2 / (levels - 1)) - 1


def to_levels(x: Images | Float[np.ndarray, "b *x"], levels: int) -> np.ndarray:
    """[-1, 1] to the nearest grey level 0..levels-1, after clipping; the inverse of `to_unit`, on the host."""
    return np.round((np.clip(np.asarray(x), -1, 1) + 1) * ((levels - 1) / 2)).astype(np.uint8)


def train_step(
    recipe: Recipe,
    state: TrainState,
    batch: Batch,
    axis: str | None = None,
    frozen: Any = None,
) -> tuple[TrainState, Metrics]:
    """One update.

    Args:
      recipe: what does not change.
      state: what does; the same on every device.
      batch: this device's share of the global batch.
      axis: name of the device axis, over which gradients are averaged.
      frozen: see Recipe; an argument, so that it is not compiled in.
    """
    drawn, weight = draw(recipe, state, batch, axis)

    def mean_loss(params: Params) -> tuple[Array, Array]:
        losses = recipe.objective(drawn, recipe.denoiser(params, drawn.keys, frozen))
        return (weight * losses).mean(), losses

    params = state.params if axis is None else jax.lax.pcast(state.params, axis, to="varying")
    (loss, losses), gradient = jax.value_and_grad(mean_loss, has_aux=True)(params)
    bad_t = jnp.max(jnp.where(jnp.isfinite(losses), 0, drawn.step.t))
    k = drawn.k
    if axis is not None:
        loss, gradient = jax.lax.pmean((loss, gradient), axis)
        bad_t = jax.lax.pmax(bad_t, axis)
        k, losses = _everywhere((k, losses), axis)

    updates, opt_state = recipe.optimizer.update(gradient, state.opt_state, state.params)
    new_params = optax.apply_updates(state.params, updates)
    decay = jnp.minimum(recipe.ema_decay, (1 + state.step) / (10 + state.step))
    ema = jax.tree.map(lambda average, new: average + (1 - decay) * (new - average), state.ema, new_params)
    history = recipe.time_sampler.update(state.history, k, losses)
    metrics = Metrics(loss, optax.tree.norm(gradient), bad_t)
    return TrainState(state.step + 1, new_params, ema, opt_state, state.key, history), metrics


def _everywhere(values: Any, axis: str) -> Any:
    """Every device's share, joined, as a value that all devices agree on: a sum of shares in their places."""
    count, place = jax.lax.psum(1, axis), jax.lax.axis_index(axis)

    def join(share: Array) -> Array:
        whole = jnp.zeros((count, *share.shape), share.dtype).at[place].set(share)
        return jax.lax.psum(whole, axis).reshape(-1, *share.shape[1:])

    return jax.tree.map(join, values)


def draw(recipe: Recipe, state: TrainState, batch: Batch, axis: str | None = None) -> tuple[Noised, Array]:
    """The times, noise and mirrored images of one device's share of a step, and the weights of their losses.

    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps. Ho et al. 2020, algorithm 1.
    """
    size = batch.shape[0]
    first = 0 if axis is None else jax.lax.axis_index(axis) * size
    devices = 1 if axis is None else jax.lax.psum(1, axis)
    root = jax.random.fold_in(state.key, state.step)
    index = first + jnp.arange(size)
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(root, i), 4))(index)

    x_0 = batch if recipe.levels is None else to_unit(batch, recipe.levels)
    if recipe.flip:
        mirrored = jax.vmap(jax.random.bernoulli)(keys[:, 0]).reshape((-1,) + (1,) * (x_0.ndim - 1))
        x_0 = jnp.where(mirrored, x_0[:, :, ::-1], x_0)
    shared = jax.random.fold_in(root, np.uint32(2**32 - 1))  # no example has this index
    k, weight = recipe.time_sampler.draw(state.history, shared, keys[:, 1], index, devices * size)
    eps = jax.vmap(lambda key: jax.random.normal(key, x_0.shape[1:]))(keys[:, 2])
    return objective.noised(recipe.schedule, recipe.chain, k, x_0, eps, recipe.levels, keys[:, 3]), weight
