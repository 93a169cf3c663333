"""The reverse chain: predict x_0, correct x_t, repeat; one `lax.scan` over any trajectory.

The kernel decides the mean and the variance is a choice of its own, so DDPM and DDIM-type sampling are one step. Fixed
variances enter as an array: one compilation serves all of them at a given K. `sample` and `sample_path` run where their
arguments are and may themselves be jitted, mapped and differentiated; `prepare` and `scan` are their two halves, for
those who spread samples over devices.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int, Key

from ddpm_jax.diffusion import gaussian, process, random_keys, variances
from ddpm_jax.diffusion.bases import Basis
from ddpm_jax.diffusion.conventions import Rules, log_var_cap
from ddpm_jax.diffusion.denoiser import Denoiser, Images, as_argument, clip_x_0
from ddpm_jax.diffusion.process import DDPM, Column, Kernel, Steps, ddim
from ddpm_jax.diffusion.random_keys import Keys, OneKey
from ddpm_jax.diffusion.variances import ReverseVariance

SAMPLERS: dict[str, Callable[[float], Kernel]] = {"ddpm": lambda eta: DDPM, "ddim": ddim}


class Path(NamedTuple):
    """A chain with what it predicted on the way.

    Attributes:
      x_0: (n, *x) the end of the chain.
      x_0_hat: (K, n, *x) the predicted data of every step, from T down.
    """

    x_0: Images
    x_0_hat: Float[Array, "K n *x"]


def sample(
    key: Keys,
    steps: Steps,
    denoiser: Denoiser,
    variance: ReverseVariance,
    shape: tuple[int, ...],
    rules: Rules = Rules(),
    x_T: Images | None = None,
) -> Images:
    """Samples of the model. Ho et al. 2020, algorithm 2, for any trajectory, kernel and variance.

    Args:
      key: one key, of which sample i takes fold_in(key, i); or n keys, one per sample. As wherever a key is taken, it
        may be one of `jax.random.PRNGKey`. The noise of the step from time t is drawn from fold_in(a sample's key, t),
        and x_T from fold_in(that key, 0): sample i does not depend on n, and all choices share their noise.
      steps: the chain, from `process.steps`.
      denoiser: the network, or a closed form.
      variance: a choice of `variances`.
      shape: (n, *x).
      rules: the conventions.
      x_T: where the chains start; default standard normal, float32. All of a chain is in its precision.

    Returns:
      x_0, (n, *x), not clipped.

    Raises:
      ValueError: the variance does not fit the kernel or the network, the rules are unknown, or keys or x_T do not fit
        the shape.
    """
    shared, examples, static = prepare(key, steps, denoiser, (variance,), shape, rules, x_T)
    return _jitted(shared, examples, **static, record=False)[0]


def sample_path(
    key: Keys,
    steps: Steps,
    denoiser: Denoiser,
    variance: ReverseVariance,
    shape: tuple[int, ...],
    rules: Rules = Rules(),
    x_T: Images | None = None,
) -> Path:
    """As `sample`, with x_0_hat of every step: the article's predict, then correct."""
    shared, examples, static = prepare(key, steps, denoiser, (variance,), shape, rules, x_T)
    x_0, x_0_hat = _jitted(shared, examples, **static, record=True)
    return Path(x_0, jnp.moveaxis(x_0_hat, 1, 0)[::-1])


def keys_of(key: OneKey, first: int, last: int) -> Key[Array, " n"]:
    """The keys of samples first, ..., last - 1 of one key, to draw these alone. Ho et al. 2020, algorithm 2."""
    return jax.vmap(partial(jax.random.fold_in, random_keys.typed(key)))(jnp.arange(first, last))


class Shared(NamedTuple):
    """What all chains of a `scan` read; arrays.

    Attributes:
      steps: the chain.
      denoiser: the network, with its parameters.
      log_vars: (K, choices, 1, ..) or (K, choices, *x), nats, of variances that are fixed; None for one that is not.
      cap: (K,) the largest log variance of each step, nats.
    """

    steps: Steps
    denoiser: Denoiser
    log_vars: Float[Array, "K choices ..."] | Float[np.ndarray, "K choices ..."] | None
    cap: Column


class Chains(NamedTuple):
    """What tells the chains of a `scan` apart; one row a chain.

    Attributes:
      keys: of the noise.
      choice: which of the variances.
      x_T: where the chains start; None for standard normal.
    """

    keys: Key[Array, " n"]
    choice: Int[Array, " n"] | Int[np.ndarray, " n"]
    x_T: Images | None


def prepare(
    key: Keys,
    steps: Steps,
    denoiser: Denoiser,
    choices: Sequence[ReverseVariance],
    shape: tuple[int, ...],
    rules: Rules = Rules(),
    x_T: Images | None = None,
) -> tuple[Shared, Chains, dict[str, Any]]:
    """The host's half of `sample`: arguments are checked, fixed variances and the rules become arrays.

    Ho et al. 2020, algorithm 2.

    Args:
      key: see `sample`; sample i of every choice has the same noise.
      steps: the chain.
      denoiser: the network, or a closed form.
      choices: one variance, or several that are fixed and diagonal in one basis.
      shape: (n, *x) of the samples of one choice.
      rules: the conventions.
      x_T: see `sample`; of one choice alone.

    Returns:
      What all chains share, the chains (those of one choice after those of another), and what `scan` is compiled for.

    Raises:
      ValueError: see `sample`; or the choices do not go together.
    """
    key, one, together = random_keys.typed(key), choices[0], len(choices) > 1
    if together and (x_T is not None or any(not each.headless or each.basis != one.basis for each in choices)):
        raise ValueError(f"{len(choices)} variances in one scan: give fixed ones of one basis, and no x_T")
    if key.ndim and len(key) != shape[0]:
        raise ValueError(f"{len(key)} keys for {shape[0]} samples: give one key, or one per sample")
    if x_T is not None and x_T.shape != shape:
        raise ValueError(f"x_T has shape {x_T.shape}, the samples {shape}")
    for choice in choices:
        variances.check_steps(choice, steps)
        _check_heads(choice, denoiser, shape)
    keys = key if key.ndim else keys_of(key, 0, shape[0])
    keys, which = jnp.concatenate([keys] * len(choices)), np.repeat(np.arange(len(choices)), shape[0])
    table = _stacked([_table(choice, steps) for choice in choices], len(shape)) if one.headless else None
    of_x_t = None if one.headless else one.log_var
    static = dict(shape=shape[1:], log_var_of=of_x_t, basis=one.basis, clip=rules.clip_x_0)
    return Shared(steps, as_argument(denoiser), table, log_var_cap(rules, steps)), Chains(keys, which, x_T), static


def _table(choice: ReverseVariance, steps: Steps) -> Any:
    """log sigma^2 of every step; of numbers that are differentiated as they come, for nobody can look at them."""
    log_var = choice.log_var(steps, None, None)
    return log_var if isinstance(log_var, jax.core.Tracer) else variances.table(choice, steps)


def _stacked(tables: Sequence[Any], ndim: int) -> Any:
    """Tables (K,) or (K, *x) side by side: (K, choices, ...), to multiply samples of so many dimensions."""
    wide = [each.reshape(*each.shape, *[1] * (ndim - each.ndim)) for each in tables]
    numbers = jnp if any(isinstance(each, jax.core.Tracer) for each in wide) else np
    return numbers.stack(numbers.broadcast_arrays(*wide), axis=1)


def _check_heads(choice: ReverseVariance, denoiser: Denoiser, shape: tuple[int, ...]) -> None:
    """Refuse a denoiser without the heads that the variance reads."""
    if choice.heads:
        x_t, t = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape[:1], jnp.int32)
        said = jax.eval_shape(denoiser, x_t, t)
        for name in choice.heads:
            variances.read_head(said, name)


def _noise(keys: Key[Array, " n"], t: Array | int, shape: tuple[int, ...], dtype: DTypeLike) -> Images:
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, t), shape, dtype))(keys)


@jax.default_matmul_precision("highest")
def scan(
    shared: Shared,
    examples: Chains,
    *,
    shape: tuple[int, ...],
    log_var_of: Callable | None,
    basis: Basis,
    clip: bool,
    record: bool,
) -> tuple[Images, Float[Array, "n K *x"] | None]:
    """The device's half of `sample`, on what `prepare` has made. Ho et al. 2020, algorithm 2.

    Args:
      shared: what all chains read.
      examples: the chains.
      shape: (*x).
      log_var_of: (step, x_t, prediction) -> log sigma^2, nats, of a variance that is not fixed.
      basis: where the variances are diagonal.
      clip: whether x_0_hat is clipped.
      record: whether x_0_hat is kept.

    Returns:
      x_0, and x_0_hat of every step from s = 0 up, None where it is not kept.
    """
    keys, which, x_T = examples
    start = _noise(keys, 0, shape, jnp.float32) if x_T is None else x_T
    rounded = (process.cast(shared.steps, start.dtype), *_cast((shared.log_vars, shared.cap), start.dtype))

    def step_back(x_t: Images, at: tuple[Steps, Any, Column]) -> tuple[Images, Images | None]:
        step, fixed_log_vars, largest = at
        prediction = shared.denoiser(x_t, jnp.full(x_t.shape[0], step.t))
        if clip:
            prediction = clip_x_0(x_t, prediction, step.signal, step.noise)
        mean = process.mean(step, prediction.x_0, x_t)
        log_var = fixed_log_vars[which] if log_var_of is None else log_var_of(step, x_t, prediction)
        kernel = gaussian.Gaussian(mean, jnp.minimum(log_var, largest), basis)
        x_s = gaussian.sample(kernel, _noise(keys, step.t, shape, x_t.dtype))
        return x_s, (prediction.x_0 if record else None)

    x_0, x_0_hat = jax.lax.scan(step_back, start, rounded, reverse=True)
    return x_0, None if x_0_hat is None else jnp.moveaxis(x_0_hat, 0, 1)


def _cast(tree: Any, dtype: DTypeLike) -> Any:
    return jax.tree.map(lambda column: jnp.asarray(column, dtype), tree)


_jitted = jax.jit(scan, static_argnames=("shape", "log_var_of", "basis", "clip", "record"))
