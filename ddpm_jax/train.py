"""One training step: pure, and the same on one device or many. Ho et al. 2020, algorithm 1.

Every example has its own key, folded from the root key, the step and the example's place in the global batch, so that
one device and eight draw the same times and noise.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Int, Key, UInt8

from ddpm_jax.objective import Objective
from ddpm_jax.predict import Images, Network, make_denoiser
from ddpm_jax.schedule import Schedule

Params = Any


class TrainState(NamedTuple):
    """All that changes in training, and all that a checkpoint holds.

    Attributes:
      step: number of updates made.
      params: of the network.
      ema: exponential moving average of params, right from step 1.
      opt_state: optax's.
      key: root of all randomness; never changes.
    """

    step: Int[Array, ""]
    params: Params
    ema: Params
    opt_state: optax.OptState
    key: Key[Array, ""]


class Recipe(NamedTuple):
    """All that does not change in training.

    Attributes:
      schedule: the forward process.
      network: (params, x_t, t, dropout_keys) -> output.
      prediction: what the network predicts, a name of PREDICTIONS.
      objective: the loss.
      optimizer: optax's.
      ema_decay: of the average; early steps use the smaller (1 + step)/(10 + step).
      levels: number of grey levels of the data.
      flip: mirror each image with probability 1/2.
    """

    schedule: Schedule
    network: Network
    prediction: str
    objective: Objective
    optimizer: optax.GradientTransformation
    ema_decay: float
    levels: int
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


def adam(learning_rate: float, warmup: int, clip_norm: float) -> optax.GradientTransformation:
    """Adam after clipping of the global norm, with linear warm-up. Ho et al. 2020, appendix B.

    Args:
      learning_rate: after warm-up.
      warmup: steps over which it grows linearly from 0.
      clip_norm: largest norm of a gradient.
    """
    rate = optax.linear_schedule(0.0, learning_rate, warmup) if warmup else learning_rate
    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.adam(rate))


def init(key: Key[Array, ""], params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.int32(0), params, params, optimizer.init(params), key)


def to_unit(images_uint8: UInt8[Array, "b *x"], levels: int) -> Images:
    """Grey levels 0..levels-1 to [-1, 1]."""
    return images_uint8.astype(jnp.float32) * (2 / (levels - 1)) - 1


def to_levels(x: Images | Float[np.ndarray, "b *x"], levels: int) -> np.ndarray:
    """[-1, 1] to the nearest grey level 0..levels-1, after clipping; the inverse of `to_unit`, on the host."""
    return np.round((np.clip(np.asarray(x), -1, 1) + 1) * ((levels - 1) / 2)).astype(np.uint8)


def train_step(
    recipe: Recipe, state: TrainState, batch: UInt8[Array, "b *x"], axis: str | None = None
) -> tuple[TrainState, Metrics]:
    """One update.

    Args:
      recipe: what does not change.
      state: what does; the same on every device.
      batch: this device's share of the global batch.
      axis: name of the device axis, over which gradients are averaged.
    """
    schedule, size = recipe.schedule, batch.shape[0]
    first = 0 if axis is None else jax.lax.axis_index(axis) * size
    root = jax.random.fold_in(state.key, state.step)
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(root, i), 4))(first + jnp.arange(size))

    x_0 = to_unit(batch, recipe.levels)
    if recipe.flip:
        mirrored = jax.vmap(jax.random.bernoulli)(keys[:, 0]).reshape((-1,) + (1,) * (x_0.ndim - 1))
        x_0 = jnp.where(mirrored, x_0[:, :, ::-1], x_0)
    t = jax.vmap(lambda key: jax.random.randint(key, (), 1, schedule.T + 1))(keys[:, 1])
    eps = jax.vmap(lambda key: jax.random.normal(key, x_0.shape[1:]))(keys[:, 2])

    def mean_loss(params: Params) -> tuple[Array, Array]:
        def network(params: Params, x_t: Images, t: Array) -> Images:
            return recipe.network(params, x_t, t, keys[:, 3])

        losses = recipe.objective(schedule, make_denoiser(network, params, schedule, recipe.prediction), x_0, t, eps)
        return losses.mean(), losses

    params = state.params if axis is None else jax.lax.pcast(state.params, axis, to="varying")
    (loss, losses), gradient = jax.value_and_grad(mean_loss, has_aux=True)(params)
    bad_t = jnp.max(jnp.where(jnp.isfinite(losses), 0, t))
    if axis is not None:
        loss, gradient = jax.lax.pmean((loss, gradient), axis)
        bad_t = jax.lax.pmax(bad_t, axis)

    updates, opt_state = recipe.optimizer.update(gradient, state.opt_state, state.params)
    new_params = optax.apply_updates(state.params, updates)
    decay = jnp.minimum(recipe.ema_decay, (1 + state.step) / (10 + state.step))
    ema = jax.tree.map(lambda average, new: average + (1 - decay) * (new - average), state.ema, new_params)
    metrics = Metrics(loss, optax.tree.norm(gradient), bad_t)
    return TrainState(state.step + 1, new_params, ema, opt_state, state.key), metrics
