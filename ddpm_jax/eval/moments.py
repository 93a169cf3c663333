"""One pass over images, from which the likelihood of every variance and every trajectory follows.

The posterior and the model's kernel differ in the mean by a multiple of eps - eps_hat alone, so the network is needed
only for M_t = E||eps - eps_hat||^2/D and Gamma_t = E||eps_hat||^2/D at each time. One eps is drawn per (image, t) and
shared by all choices.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float64, Key, UInt8
from tqdm import tqdm

from ddpm_jax import gaussian, predict, process
from ddpm_jax.predict import Denoiser, Images
from ddpm_jax.process import Steps
from ddpm_jax.schedule import Schedule
from ddpm_jax.train import to_unit

TIMES_PER_CALL = 50  # between two moves of the progress bar

PerTime = Float64[np.ndarray, "n times"]


class Moments(NamedTuple):
    """What the pass leaves, image by image; column t is time t, NaN where it was not measured.

    Attributes:
      error: ||eps - eps_hat||^2 / D; its mean over images is M_t.
      excess: (||eps||^2 - ||eps_hat||^2) / D; its mean is 1 - Gamma_t, with far less noise than Gamma_t alone.
      decoder: -log P(x_0 | mean x_0_hat(x_t, t), variance tb(1, 2)), nats per dimension.
      prior: (n,) KL(q(x_T | x_0) || N(0, 1)), nats per dimension.
      variance: Var x_0, averaged over dimensions.
    """

    error: PerTime
    excess: PerTime
    decoder: PerTime
    prior: Float64[np.ndarray, " n"]
    variance: float


def mean_error(moments: Moments) -> Float64[np.ndarray, " times"]:
    """M_t; row 0 is NaN."""
    return moments.error.mean(axis=0)


def mean_excess(moments: Moments) -> Float64[np.ndarray, " times"]:
    """1 - Gamma_t; row 0 is NaN."""
    return moments.excess.mean(axis=0)


def standard_error(per_image: Float64[np.ndarray, "n ..."]) -> Any:
    """Standard error of the mean over images, axis 0; NaN for a single image."""
    n = per_image.shape[0]
    return per_image.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.full(per_image.shape[1:], np.nan)


def effective_variance(schedule: Schedule, error: Float64[np.ndarray, " times"]) -> np.ndarray:
    """c_eff(t) = (1 - alpha_bar_t) M_t / (alpha_bar_t (1 - M_t)): which Gaussian the data look like at time t.

    For data N(m, c) and an exact denoiser M_t = alpha_bar_t c / V_t, and c_eff = c. NaN where M_t >= 1.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        c = schedule.one_minus_alpha_bar * error / (schedule.alpha_bar * (1 - error))
    return np.where(error < 1, c, np.nan)


def measure(
    key: Key[Array, ""],
    schedule: Schedule,
    denoiser: Denoiser,
    images_uint8: UInt8[np.ndarray, "n h w c"],
    levels: int,
    clip_x_0: bool = True,
    times: np.ndarray | None = None,
    batch: int = 512,
) -> Moments:
    """The pass: every image at every time, images x times network evaluations.

    Args:
      key: image i at time t takes its noise from fold_in(fold_in(key, i), t).
      schedule: the forward process.
      denoiser: the network, or a closed form.
      images_uint8: grey levels 0..levels-1.
      levels: number of grey levels.
      clip_x_0: clip x_0_hat to [-1, 1] and let eps_hat agree with it.
      times: which times to visit; default all of 1..T.
      batch: images per network evaluation, at most.

    Raises:
      ValueError: no images, or grey levels outside 0..levels-1.
    """
    n = len(images_uint8)
    if not n or images_uint8.max() >= levels:
        raise ValueError(
            f"{n} images with grey levels up to {np.max(images_uint8, initial=0)}: need 1 and {levels - 1}"
        )
    times = np.arange(1, schedule.T + 1) if times is None else np.asarray(times)
    columns = np.full((3, n, schedule.T + 1), np.nan)
    at = process.pairs(schedule, np.zeros_like(times), times)
    denoiser, decoder_log_var = predict.as_argument(denoiser), process.decoder_log_var(schedule)
    size = -(-n // -(-n // batch))
    visits = [(first, begin) for first in range(0, n, size) for begin in range(0, len(times), TIMES_PER_CALL)]
    for first, begin in tqdm(visits, desc=f"moments of {n} images", unit="call", mininterval=1):
        index = np.minimum(np.arange(first, first + size), n - 1)
        x_0 = to_unit(jnp.asarray(images_uint8[index]), levels)
        some = process.Steps(*(column[begin : begin + TIMES_PER_CALL] for column in at))
        values = _pass(key, index, x_0, some, decoder_log_var, denoiser, levels, clip_x_0)
        last = min(first + size, n)
        columns[:, first:last, some.t] = np.asarray(values, np.float64).transpose(0, 2, 1)[:, : last - first]
    data = np.asarray(images_uint8, np.float64) * (2 / (levels - 1)) - 1
    error, excess, decoder = columns
    return Moments(error, excess, decoder, _prior(schedule, data), float(data.var(axis=0).mean()))


def _prior(schedule: Schedule, x_0: np.ndarray) -> np.ndarray:
    """L_T: 1/2 [alpha_bar_T ||x_0||^2/D - alpha_bar_T - log(1 - alpha_bar_T)]. Ho et al. 2020, equation 5."""
    power = (x_0**2).reshape(len(x_0), -1).mean(axis=1)
    return 0.5 * (schedule.alpha_bar[-1] * (power - 1) - np.log(schedule.one_minus_alpha_bar[-1]))


@partial(jax.jit, static_argnames=("levels", "clip_x_0"))
@jax.default_matmul_precision("highest")
def _pass(
    key: Key[Array, ""],
    index: Array,
    x_0: Images,
    at: Steps,
    decoder_log_var: Array,
    denoiser: Denoiser,
    levels: int,
    clip_x_0: bool,
) -> Float[Array, "3 times b"]:
    keys = jax.vmap(partial(jax.random.fold_in, key))(index)
    mean_square = lambda x: jnp.mean(x**2, axis=tuple(range(1, x.ndim)))  # noqa: E731

    def visit(_: None, step: Steps) -> tuple[None, Array]:
        eps = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, step.t), x_0.shape[1:]))(keys)
        x_t = step.signal * x_0 + step.noise * eps
        prediction = denoiser(x_t, jnp.full(len(x_0), step.t))
        if clip_x_0:
            prediction = predict.clip_x_0(x_t, prediction, step.signal, step.noise)
        decoder = gaussian.Gaussian(prediction.x_0, decoder_log_var)
        return None, jnp.stack(
            [
                mean_square(eps - prediction.eps),
                mean_square(eps) - mean_square(prediction.eps),
                -gaussian.discretised_log_prob(decoder, x_0, levels),
            ]
        )

    _, values = jax.lax.scan(visit, None, at)
    return values.transpose(1, 0, 2)
