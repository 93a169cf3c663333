"""The reverse chain: predict x_0, correct x_t, repeat; one `lax.scan` over any trajectory.

The kernel decides the mean and the variance is a choice of its own, so DDPM and DDIM-type sampling are one step. Fixed
variances enter as an array: one compilation serves all of them at a given K.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Key

from ddpm_jax import gaussian, heads, parallel, predict, reverse
from ddpm_jax.basis import Basis
from ddpm_jax.parallel import Layout
from ddpm_jax.predict import Column, Denoiser, Images
from ddpm_jax.process import DDPM, Kernel, Steps, ddim
from ddpm_jax.reverse import ReverseVariance

SAMPLERS: dict[str, Callable[[float], Kernel]] = {"ddpm": lambda eta: DDPM, "ddim": ddim}


class Rules(NamedTuple):
    """Conventions that move results as much as the variance does; recorded with every number.

    Attributes:
      last_step: "mean" adds no noise in the step to s = 0 (the papers'), "noise" adds the variance's own.
      pixel_clip: y, or None. Bounds the noise of the step into tau_1 so that E|sigma eps| is at most y level spacings.
        Bao et al. 2022, section 4 (y = 2 for CIFAR-10 linear, else 1).
      levels: number of grey levels of the data on [-1, 1]; their spacing is 2/(levels - 1).
      clip_x_0: clip x_0_hat to [-1, 1] before the mean is formed. Ho et al. 2020, released code.
      clamp_cov: hold estimates of Cov[x_0 | x_t] within [0, 1]; see `variance.analytic`.
      decoder: the variance of p(x_0 | x_tau_1) in the likelihood: a name of DECODERS.
    """

    last_step: str = "mean"
    pixel_clip: float | None = None
    levels: int = 256
    clip_x_0: bool = True
    clamp_cov: bool = True
    decoder: str = "shared"


DECODERS = ("shared", "own")
"""shared: tb(1, 2) for every choice. Ho et al. 2020 and Bao et al. 2022, released code.

own: tb(tau_1, tau_2) for choices of the form base + gain h; that of the choice itself for others, with tb(tau_1, tau_2)
in the place of tb(0, tau_1). Nichol & Dhariwal 2021, released code."""

PROTOCOLS: dict[str, Rules] = {
    "ddpm": Rules(),
    "analytic-dpm": Rules(pixel_clip=1.0),
    "iddpm": Rules(decoder="own"),
}
"""The papers' conventions by name. All take x_0_hat clipped and no noise in the last step. For a network that predicts
mu set clip_x_0 = False: it says the mean itself, which no clipped x_0_hat forms.

ddpm: Ho et al. 2020, released code. analytic-dpm: Bao et al. 2022, section 4, y = 1 (their linear CIFAR-10 row takes
y = 2). iddpm: Nichol & Dhariwal 2021, released code."""


def protocol(name: str, levels: int, **alone: Any) -> Rules:
    """The rules of a protocol for so many grey levels. Ho et al. 2020, released code; Bao et al. 2022, section 4.

    Args:
      name: of PROTOCOLS.
      levels: of the data.
      alone: rules that are set by themselves; None leaves the protocol's, a pixel_clip of 0 takes none.

    Raises:
      ValueError: no protocol has this name.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}: choose one of {', '.join(PROTOCOLS)}")
    rules = PROTOCOLS[name]._replace(levels=levels, **{key: value for key, value in alone.items() if value is not None})
    return rules._replace(pixel_clip=None) if rules.pixel_clip == 0 else rules


class Path(NamedTuple):
    """A chain with what it predicted on the way.

    Attributes:
      x_0: (n, *x) the end of the chain.
      x_0_hat: (K, n, *x) the predicted data of every step, from T down; None where it was not asked for.
    """

    x_0: Images
    x_0_hat: Float[Array, "K n *x"] | None


def log_var_cap(rules: Rules, steps: Steps) -> np.ndarray:
    """The largest log variance, nats, that the rules let each step add, (K,): -inf for none, +inf for any.

    The step into tau_1 has sigma^2 <= (2 y/(levels - 1))^2 pi/2. Bao et al. 2022, section 4.

    Raises:
      ValueError: the rules name no known last step or decoder, y <= 0, or fewer than 2 levels.
    """
    if rules.decoder not in DECODERS:
        raise ValueError(f"unknown decoder {rules.decoder!r}: choose {' or '.join(DECODERS)}")
    if rules.last_step not in ("mean", "noise"):
        raise ValueError(f"unknown last_step {rules.last_step!r}: choose mean or noise")
    cap = np.full(steps.K, np.inf)
    if rules.pixel_clip is not None and not (rules.pixel_clip > 0 and rules.levels > 1):
        raise ValueError(f"pixel_clip = {rules.pixel_clip:g}, levels = {rules.levels}: need more than 0 and 1")
    if rules.pixel_clip is not None and steps.K > 1:
        cap[1] = np.log((rules.pixel_clip * 2 / (rules.levels - 1)) ** 2 * np.pi / 2)
    if rules.last_step == "mean":
        cap[0] = -np.inf
    return cap


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
    return _chain(key, steps, denoiser, reverse_variance, shape, rules, x_T, layout, record=False).x_0


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
    return _chain(key, steps, denoiser, reverse_variance, shape, rules, x_T, layout, record=True)


def _chain(
    key: Key[Array, "..."],
    steps: Steps,
    denoiser: Denoiser,
    choice: ReverseVariance,
    shape: tuple[int, ...],
    rules: Rules,
    x_T: Images | None,
    layout: Layout,
    record: bool,
) -> Path:
    """The host's part: fixed variances and the rules become arrays, then one compiled scan."""
    reverse.check_steps(choice, steps)
    if key.ndim and len(key) != shape[0]:
        raise ValueError(f"{len(key)} keys for {shape[0]} samples: give one key, or one per sample")
    if x_T is not None and x_T.shape != shape:
        raise ValueError(f"x_T has shape {x_T.shape}, the samples {shape}")
    keys = key if key.ndim else jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(shape[0]))
    _check_heads(choice, denoiser, shape)
    table = reverse.table(choice, steps) if choice.headless else None
    x_0, x_0_hat = parallel.over_examples(
        _scan,
        (steps, predict.as_argument(denoiser), table, log_var_cap(rules, steps)),
        (keys, x_T),
        layout,
        shape=shape[1:],
        log_var_of=None if choice.headless else choice.log_var,
        basis=choice.basis,
        clip=rules.clip_x_0,
        record=record,
    )
    return Path(x_0, None if x_0_hat is None else jnp.moveaxis(x_0_hat, 1, 0)[::-1])


def _check_heads(choice: ReverseVariance, denoiser: Denoiser, shape: tuple[int, ...]) -> None:
    """Refuse a denoiser without the heads that the variance reads."""
    if choice.heads:
        x_t, t = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape[:1], jnp.int32)
        said = jax.eval_shape(denoiser, x_t, t)
        for name in choice.heads:
            heads.read(said, name)


def _noise(keys: Key[Array, " n"], t: Array | int, shape: tuple[int, ...]) -> Images:
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, t), shape))(keys)


@jax.default_matmul_precision("highest")
def _scan(
    shared: tuple[Steps, Denoiser, Column, Column],
    examples: tuple[Key[Array, " n"], Images | None],
    *,
    shape: tuple[int, ...],
    log_var_of: Callable | None,
    basis: Basis,
    clip: bool,
    record: bool,
) -> tuple[Images, Float[Array, "n K *x"] | None]:
    """One device's chains: x_0, and x_0_hat of every step from s = 0 up if it is recorded."""
    (steps, denoiser, table, cap), (keys, x_T) = shared, examples

    def step_back(x_t: Images, at: tuple[Steps, Column, Column]) -> tuple[Images, Images | None]:
        step, fixed_log_var, largest = at
        prediction = denoiser(x_t, jnp.full(x_t.shape[0], step.t))
        if clip:
            prediction = predict.clip_x_0(x_t, prediction, step.signal, step.noise)
        mean = step.mean_x_0 * prediction.x_0 + step.mean_x_t * x_t
        log_var = fixed_log_var if log_var_of is None else log_var_of(step, x_t, prediction)
        kernel = gaussian.Gaussian(mean, jnp.minimum(log_var, largest), basis)
        x_s = gaussian.sample(kernel, _noise(keys, step.t, shape))
        return x_s, (prediction.x_0 if record else None)

    start = _noise(keys, 0, shape) if x_T is None else x_T
    x_0, x_0_hat = jax.lax.scan(step_back, start, (steps, table, cap), reverse=True)
    return x_0, None if x_0_hat is None else jnp.moveaxis(x_0_hat, 0, 1)
