"""One training step: pure, and the same on one device or many. Ho et al. 2020, algorithm 1.

A step is made of a recipe, which does not change, and a state, which does. Every example has its own key, folded from
the root key, the step and the example's place in the global batch, so that one device and eight draw the same times and
noise.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Int, Key, UInt8

from ddpm_jax.data.transforms import to_unit
from ddpm_jax.diffusion import losses, random_keys
from ddpm_jax.diffusion.denoiser import Denoiser, Network, make_denoiser
from ddpm_jax.diffusion.losses import NoisyBatch, Objective
from ddpm_jax.diffusion.process import Steps
from ddpm_jax.diffusion.random_keys import OneKey
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.runtime.sharding import when_there
from ddpm_jax.training import optimizers
from ddpm_jax.training.timestep_sampling import History, TimeSampler

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
    def means(self) -> Float[np.ndarray, " levels"]:
        """The mean loss of each tenth, on the host; not a number where no example was drawn."""
        sums, counts = np.asarray(self.sums), np.asarray(self.counts)
        return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


class TrainState(NamedTuple):
    """All that changes in training, and all that a checkpoint holds.

    Attributes:
      step: number of updates made.
      params: of the network.
      ema: exponential moving averages of params, one a rate, right from step 1.
      opt_state: optax's, of packed parameters; see `optimizers.pack`.
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
      microbatches: parts of a device's share of the batch, processed one after another to save memory.
      unroll: whether loops over steps and microbatches are unrolled, for CPUs, where gradients of convolutions are 20
        to 40 times slower inside a loop.
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


def initial_state(key: OneKey, params: Params, recipe: Recipe) -> TrainState:
    """The state before the first step."""
    history, none = recipe.time_sampler.init(recipe.chain.K), jnp.zeros(TENTHS, jnp.float32)
    averages, opt_state = (params,) * len(recipe.ema_decay), recipe.optimizer.init(optimizers.pack(params))
    return TrainState(jnp.int32(0), params, averages, opt_state, random_keys.typed(key), history, Recent(none, none))


Batch = UInt8[Array, "b *x"] | Float[Array, "b *x"]
FORGET = 0.98  # share of its weight that an example's loss keeps a step, in the losses by noise level


def train_steps(
    recipe: Recipe, state: TrainState, batches: Batch, axis: str | None = None, frozen: Any = None
) -> tuple[TrainState, Metrics]:
    """As many updates as there are batches, in one program; the metrics of each. See `train_step`."""

    def one(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return train_step(recipe, state, batch, axis, frozen)

    return _loop(one, state, batches, recipe.unroll)


def _loop(body: Callable, carry: Any, xs: Any, unroll: bool) -> tuple[Any, Any]:
    """`jax.lax.scan`, or the same written out."""
    if not unroll:
        return jax.lax.scan(body, carry, xs)
    results = []
    for i in range(len(jax.tree.leaves(xs)[0])):
        carry, result = body(carry, jax.tree.map(lambda x, i=i: x[i], xs))
        results.append(result)
    return carry, jax.tree.map(lambda *parts: jnp.stack(parts), *results)


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
    varying = _varying(state.params, axis)
    (loss, gradient), losses = _gradient(recipe, varying, drawn, weight, _varying(jnp.float32(0), axis), frozen)
    k = drawn.k
    if axis is not None:
        loss, gradient = jax.lax.pmean((loss, gradient), axis)
        k, losses = _everywhere((k, losses), axis)
    t = jnp.asarray(recipe.chain.t)[k]

    params = optimizers.pack(state.params)
    updates, opt_state = recipe.optimizer.update(gradient, state.opt_state, params)
    params = optax.apply_updates(params, updates)
    bad_t = jnp.max(jnp.where(jnp.isfinite(losses), 0, t))
    metrics = Metrics(loss, optax.tree.norm(gradient), optax.tree.norm(params), bad_t)
    new_params = optimizers.unpack(params, state.params)
    recent = _by_noise_level(recipe.schedule.T, t, losses)
    early = jnp.float32(1 + state.step) / jnp.float32(10 + state.step)
    new = TrainState(
        step=state.step + 1,
        params=new_params,
        ema=tuple(
            _averaged(average, new_params, jnp.minimum(decay, early))
            for average, decay in zip(state.ema, recipe.ema_decay, strict=True)
        ),
        opt_state=opt_state,
        key=state.key,
        history=recipe.time_sampler.update(state.history, k, losses),
        recent=jax.tree.map(lambda old, now: FORGET * old + now, state.recent, recent),
    )
    return new, metrics


def _averaged(average: Params, params: Params, decay: Array) -> Params:
    """average + (1 - decay) (params - average): the average of constants is the constant, bit for bit."""
    return jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), average, params)


def _varying(tree: Any, axis: str | None) -> Any:
    """The same values on every device, told apart: a gradient is then each device's own."""
    return tree if axis is None else jax.lax.pcast(tree, axis, to="varying")


def _gradient(
    recipe: Recipe, params: Params, drawn: NoisyBatch, weight: Array, zero: Array, frozen: Any
) -> tuple[tuple[Array, Params], Array]:
    """Mean loss and its gradient over a device's share, and every example's loss; microbatch by microbatch."""
    count = recipe.microbatches
    examples = (drawn._replace(schedule=None, levels=None), weight)  # type: ignore[arg-type]

    @jax.jit  # so that it is traced once for all of them
    @partial(jax.value_and_grad, has_aux=True)
    def of_part(params: Params, some: NoisyBatch, weight: Array) -> tuple[Array, Array]:
        some = some._replace(schedule=drawn.schedule, levels=drawn.levels)
        losses = recipe.objective(some, recipe.denoiser(params, some.keys, frozen))
        return (weight * losses).mean(), losses

    def add(total: Any, part: Any) -> tuple[Any, Array]:
        some, weight = part
        if recipe.unroll and count > 1:  # or XLA's CPU backend works on all at once and holds what each of them needs
            some = some._replace(x_t=when_there(some.x_t, total))
        (loss, losses), gradient = of_part(params, some, weight)
        return jax.tree.map(jnp.add, total, (loss, optimizers.pack(gradient))), losses

    nothing = (zero, jax.tree.map(lambda leaf: jnp.zeros_like(leaf) + zero.astype(leaf.dtype), optimizers.pack(params)))
    parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), examples)
    total, losses = _loop(add, nothing, parts, recipe.unroll)
    return jax.tree.map(lambda x: x / count, total), losses.reshape(-1)


def _by_noise_level(T: int, t: Int[Array, " b"], losses: Float[Array, " b"]) -> Recent:
    """Sums and counts of the losses in each tenth of 1..T."""
    tenth = (t - 1) * TENTHS // T
    none = jnp.zeros(TENTHS, jnp.float32)
    return Recent(none.at[tenth].add(losses), none.at[tenth].add(1.0))


def _everywhere(columns: Any, axis: str) -> Any:
    """Every device's share, joined, as a value that all devices agree on: a sum of shares in their places.

    Whole numbers below 2^24 travel as floats, so that XLA makes one all-reduce of these and of the gradient.
    """
    count, place = jax.lax.psum(1, axis), jax.lax.axis_index(axis)

    def join(share: Array) -> Array:
        whole = jnp.zeros((count, *share.shape), jnp.float32).at[place].set(share.astype(jnp.float32))
        return jax.lax.psum(whole, axis).reshape(-1).astype(share.dtype)

    return jax.tree.map(join, columns)


def draw(recipe: Recipe, state: TrainState, batch: Batch, axis: str | None = None) -> tuple[NoisyBatch, Array]:
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
        half = np.float32(0.5)
        mirrored = jax.vmap(lambda key: jax.random.bernoulli(key, half))(keys[:, 0])
        mirrored = mirrored.reshape((-1,) + (1,) * (x_0.ndim - 1))
        x_0 = jnp.where(mirrored, x_0[:, :, ::-1], x_0)
    shared = jax.random.fold_in(root, np.uint32(2**32 - 1))  # no example has this index
    k, weight = recipe.time_sampler.draw(state.history, shared, keys[:, 1], index, devices * size)
    eps = jax.vmap(lambda key: jax.random.normal(key, x_0.shape[1:], x_0.dtype))(keys[:, 2])
    return losses.noised(recipe.schedule, recipe.chain, k, x_0, eps, recipe.levels, keys[:, 3]), weight


def held_out_loss(recipe: Recipe, shared: Any, examples: Any) -> Float[Array, " b"]:
    """The loss of each held-out image, without dropout or mirroring.

    Noise depends on the image's index alone: two states are compared on the same noise.

    Args:
      recipe: what does not change.
      shared: (key, params, frozen).
      examples: (steps of the chain, indices, images), one row an image.
    """
    (key, params, frozen), (k, index, images) = shared, examples
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(index)
    x_0 = images if recipe.levels is None else to_unit(images, recipe.levels)
    eps = jax.vmap(lambda key: jax.random.normal(key, x_0.shape[1:], x_0.dtype))(keys[:, 0])
    drawn = losses.noised(recipe.schedule, recipe.chain, k, x_0, eps, recipe.levels, keys[:, 1])
    return recipe.objective(drawn, recipe.denoiser(params, None, frozen))
