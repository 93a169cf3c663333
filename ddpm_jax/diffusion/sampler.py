"""The reverse chain: predict x_0, correct x_t, repeat; one `lax.scan` over any trajectory.

The kernel decides the mean and the variance is a choice of its own, so DDPM and DDIM-type sampling are one step. Fixed
variances enter as an array: one compilation serves all of them at a given K.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Key

from ddpm_jax.diffusion import gaussian, variances
from ddpm_jax.diffusion.bases import Basis
from ddpm_jax.diffusion.conventions import Rules, log_var_cap
from ddpm_jax.diffusion.denoiser import Column, Denoiser, Images, as_argument, clip_x_0
from ddpm_jax.diffusion.process import DDPM, Kernel, Steps, ddim
from ddpm_jax.diffusion.variances import ReverseVariance
from ddpm_jax.runtime import sharding
from ddpm_jax.runtime.sharding import Layout

SAMPLERS: dict[str, Callable[[float], Kernel]] = {"ddpm": lambda eta: DDPM, "ddim": ddim}


class Path(NamedTuple):
    """A chain with what it predicted on the way.

    Attributes:
      x_0: (n, *x) the end of the chain.
      x_0_hat: (K, n, *x) the predicted data of every step, from T down; None where it was not asked for.
    """

    x_0: Images
    x_0_hat: Float[Array, "K n *x"] | None


def sample(
    key: Key[Array, "..."],
    steps: Steps,
    denoiser: Denoiser,
    reverse_variance: ReverseVariance,
    shape: tuple[int, ...],
    rules: Rules = Rules(),
    x_T: Images | None = None,
    layout: Layout = Layout(),
) -> Images:
    """Samples of the model. Ho et al. 2020, algorithm 2, for any trajectory, kernel and variance.

    Args:
      key: one key, of which sample i takes fold_in(key, i); or n keys, one per sample. The noise of the step from time
        t is drawn from fold_in(a sample's key, t), and x_T from fold_in(that key, 0): sample i does not depend on n,
        and all choices share their noise.
      steps: the chain, from `process.steps`.
      denoiser: the network, or a closed form.
      reverse_variance: the choice of `variance`.
      shape: (n, *x).
      rules: the conventions.
      x_T: where the chains start; default standard normal.
      layout: how samples are spread over devices.

    Returns:
      x_0, (n, *x), not clipped.

    Raises:
      ValueError: the variance does not fit the kernel or the network, the rules are unknown, or keys or x_T do not fit
        the shape.
    """
    return _chain(key, steps, denoiser, (reverse_variance,), shape, rules, x_T, layout, record=False).x_0


def sample_each(
    key: Key[Array, "..."],
    steps: Steps,
    denoiser: Denoiser,
    choices: Sequence[ReverseVariance],
    shape: tuple[int, ...],
    rules: Rules = Rules(),
    layout: Layout = Layout(),
) -> Float[Array, "choices n *x"]:
    """`sample` of several variances; those that are fixed and diagonal in the same basis share their batches.

    Ho et al. 2020, algorithm 2.

    Args:
      key: see `sample`; sample i of every choice has the same noise.
      steps: the chain.
      denoiser: the network, or a closed form.
      choices: of `variance`.
      shape: (n, *x) of each.
      rules: the conventions.
      layout: how samples are spread over devices.

    Raises:
      ValueError: see `sample`.
    """
    alike: dict[Any, list[int]] = {}
    for i, choice in enumerate(choices):
        alike.setdefault(choice.basis if choice.headless else i, []).append(i)
    found: dict[int, Images] = {}
    for places in alike.values():
        together = [choices[i] for i in places]
        x_0 = _chain(key, steps, denoiser, together, shape, rules, None, layout, record=False).x_0
        found |= dict(zip(places, x_0.reshape(-1, *shape), strict=True))
    return jnp.stack([found[i] for i in range(len(choices))])


def keys_of(key: Key[Array, ""], first: int, last: int) -> Key[Array, " n"]:
    """The keys of samples first, ..., last - 1 of one key, to draw these alone. Ho et al. 2020, algorithm 2."""
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(first, last))


def sample_path(
    key: Key[Array, "..."],
    steps: Steps,
    denoiser: Denoiser,
    reverse_variance: ReverseVariance,
    shape: tuple[int, ...],
    rules: Rules = Rules(),
    x_T: Images | None = None,
    layout: Layout = Layout(),
) -> Path:
    """As `sample`, with x_0_hat of every step: the article's predict, then correct."""
    return _chain(key, steps, denoiser, (reverse_variance,), shape, rules, x_T, layout, record=True)


def _chain(
    key: Key[Array, "..."],
    steps: Steps,
    denoiser: Denoiser,
    choices: Sequence[ReverseVariance],
    shape: tuple[int, ...],
    rules: Rules,
    x_T: Images | None,
    layout: Layout,
    record: bool,
) -> Path:
    """The host's part, then one compiled scan; the samples of one choice after those of another."""
    if key.ndim and len(key) != shape[0]:
        raise ValueError(f"{len(key)} keys for {shape[0]} samples: give one key, or one per sample")
    if x_T is not None and x_T.shape != shape:
        raise ValueError(f"x_T has shape {x_T.shape}, the samples {shape}")
    keys = key if key.ndim else keys_of(key, 0, shape[0])
    keys, which = jnp.concatenate([keys] * len(choices)), np.repeat(np.arange(len(choices)), shape[0])
    shared, fixed = _program(steps, denoiser, choices, shape, rules)
    x_0, x_0_hat = sharding.over_examples(_scan, shared, (keys, which, x_T), layout, **fixed, record=record)
    return Path(x_0, None if x_0_hat is None else jnp.moveaxis(x_0_hat, 1, 0)[::-1])


def lower(
    steps: Steps,
    denoiser: Denoiser,
    reverse_variance: ReverseVariance,
    shape: tuple[int, ...],
    layout: Layout,
    rules: Rules = Rules(),
) -> jax.stages.Lowered:
    """What `sample` would run on a block of images, for the compiler of devices that need not be here.

    Ho et al. 2020, algorithm 2.

    Args:
      steps: the chain.
      denoiser: of `denoiser.make_denoiser`; its parameters may be shapes.
      reverse_variance: the choice of `variance`.
      shape: (n, *x) of a block; n a multiple of the number of devices.
      layout: the devices.
      rules: the conventions.
    """
    shared, fixed = _program(steps, denoiser, (reverse_variance,), shape, rules)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), shape[0]))
    which = jax.ShapeDtypeStruct(shape[:1], np.int32)
    return sharding.lower_over_examples(_scan, shared, (keys, which, None), layout, **fixed, record=False)


def _program(
    steps: Steps, denoiser: Denoiser, choices: Sequence[ReverseVariance], shape: tuple[int, ...], rules: Rules
) -> tuple[Any, dict[str, Any]]:
    """What all chains share and what is compiled in: fixed variances and the rules become arrays.

    Several choices are fixed, in one basis, with tables (K, choices, 1, ..) or (K, choices, *x).
    """
    for choice in choices:
        variances.check_steps(choice, steps)
        _check_heads(choice, denoiser, shape)
    one, table = choices[0], None
    if one.headless:
        tables = [variances.table(choice, steps) for choice in choices]
        wide = [each.reshape(*each.shape, *[1] * (len(shape) - each.ndim)) for each in tables]
        table = np.stack(np.broadcast_arrays(*wide), axis=1)
    of_x_t = None if one.headless else one.log_var
    fixed = dict(shape=shape[1:], log_var_of=of_x_t, basis=one.basis, clip=rules.clip_x_0)
    return (steps, as_argument(denoiser), table, log_var_cap(rules, steps)), fixed


def _check_heads(choice: ReverseVariance, denoiser: Denoiser, shape: tuple[int, ...]) -> None:
    """Refuse a denoiser without the heads that the variance reads."""
    if choice.heads:
        x_t, t = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape[:1], jnp.int32)
        said = jax.eval_shape(denoiser, x_t, t)
        for name in choice.heads:
            variances.read_head(said, name)


def _noise(keys: Key[Array, " n"], t: Array | int, shape: tuple[int, ...]) -> Images:
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, t), shape))(keys)


@jax.default_matmul_precision("highest")
def _scan(
    shared: tuple[Steps, Denoiser, Float[Array, "K choices ..."] | None, Column],
    examples: tuple[Key[Array, " n"], Int[Array, " n"], Images | None],
    *,
    shape: tuple[int, ...],
    log_var_of: Callable | None,
    basis: Basis,
    clip: bool,
    record: bool,
) -> tuple[Images, Float[Array, "n K *x"] | None]:
    """One device's chains: x_0, and x_0_hat of every step from s = 0 up if it is recorded."""
    (steps, denoiser, table, cap), (keys, which, x_T) = shared, examples

    def step_back(x_t: Images, at: tuple[Steps, Any, Column]) -> tuple[Images, Images | None]:
        step, fixed_log_vars, largest = at
        prediction = denoiser(x_t, jnp.full(x_t.shape[0], step.t))
        if clip:
            prediction = clip_x_0(x_t, prediction, step.signal, step.noise)
        mean = step.mean_x_0 * prediction.x_0 + step.mean_x_t * x_t
        log_var = fixed_log_vars[which] if log_var_of is None else log_var_of(step, x_t, prediction)
        kernel = gaussian.Gaussian(mean, jnp.minimum(log_var, largest), basis)
        x_s = gaussian.sample(kernel, _noise(keys, step.t, shape))
        return x_s, (prediction.x_0 if record else None)

    start = _noise(keys, 0, shape) if x_T is None else x_T
    x_0, x_0_hat = jax.lax.scan(step_back, start, (steps, table, cap), reverse=True)
    return x_0, None if x_0_hat is None else jnp.moveaxis(x_0_hat, 0, 1)
