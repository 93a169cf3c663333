"""What a training step is made of: the recipe, which does not change, and the state, which does."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Int, Key

from ddpm_jax import packing
from ddpm_jax.objective import Objective
from ddpm_jax.predict import Denoiser, Network, make_denoiser
from ddpm_jax.process import Steps
from ddpm_jax.schedule import Schedule
from ddpm_jax.time_sampler import History, TimeSampler

Params = Any
MakesDenoiser = Callable[[Params, Key[Array, " b"] | None, Any], Denoiser]
TENTHS = 10  # noise levels that the loss is watched at


class Recent(NamedTuple):
    """Losses by noise level: examples of earlier steps count less.

    Attributes:
      sums: of the losses of the times of each tenth of 1..T.
      counts: of the examples.
    """

    sums: Float[Array, " levels"]
    counts: Float[Array, " levels"]

    @property
    def means(self) -> Float[Array, " levels"]:
        """The mean loss of each tenth; not a number where no example was drawn."""
        return self.sums / self.counts


class TrainState(NamedTuple):
    """All that changes in training, and all that a checkpoint holds.

    Attributes:
      step: number of updates made.
      params: of the network.
      ema: exponential moving averages of params, one a rate, right from step 1.
      opt_state: optax's, of packed parameters; see packing.
      key: root of all randomness; never changes.
      history: of the time sampler.
      recent: losses of the last steps by noise level.
    """

    step: Int[Array, ""]
    params: Params
    ema: tuple[Params, ...]
    opt_state: optax.OptState
    key: Key[Array, ""]
    history: History
    recent: Recent


class Recipe(NamedTuple):
    """All that does not change in training.

    Attributes:
      schedule: the forward process.
      chain: whose steps are drawn; in ordinary training all T.
      denoiser: (params, dropout keys, frozen) -> the denoiser they make; `frozen` is what training leaves alone.
      objective: the loss.
      time_sampler: how steps of the chain are drawn.
      optimizer: optax's.
      ema_decay: of the averages; early steps use the smaller (1 + step)/(10 + step).
      levels: number of grey levels of the data; None for data that come as they are.
      flip: mirror each image with probability 1/2.
      microbatches: parts of a device's share of the batch that are worked through one after another, to save memory.
      unroll: write loops over steps and microbatches out, for CPUs, which run gradients of convolutions inside a loop
        20 to 40 times slower.
    """

    schedule: Schedule
    chain: Steps
    denoiser: MakesDenoiser
    objective: Objective
    time_sampler: TimeSampler
    optimizer: optax.GradientTransformation
    ema_decay: tuple[float, ...]
    levels: int | None
    flip: bool
    microbatches: int = 1
    unroll: bool = True


class Metrics(NamedTuple):
    """What a step reports.

    Attributes:
      loss: mean over the batch.
      gradient_norm: before clipping.
      parameter_norm: after the update.
      bad_t: a time at which an example's loss was not finite, or 0.
    """

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    parameter_norm: Float[Array, ""]
    bad_t: Int[Array, ""]


def in_training(network: Network, schedule: Schedule, kind: str, heads: tuple[str, ...] = ()) -> MakesDenoiser:
    """A Recipe's denoiser: network(params, x_t, t, dropout keys) that predicts `kind` and has these heads."""

    def made(params: Params, keys: Key[Array, " b"] | None, frozen: Any) -> Denoiser:
        return make_denoiser(lambda params, x_t, t: network(params, x_t, t, keys), params, schedule, kind, heads)

    return made


def init(key: Key[Array, ""], params: Params, recipe: Recipe) -> TrainState:
    """The state before the first step."""
    history, none = recipe.time_sampler.init(recipe.chain.K), jnp.zeros(TENTHS)
    averages, opt_state = (params,) * len(recipe.ema_decay), recipe.optimizer.init(packing.pack(params))
    return TrainState(jnp.int32(0), params, averages, opt_state, key, history, Recent(none, none))
