"""The article's identities, for any pair of times s < t: forward noise, Bayes' posterior, predictions, reverse steps.

With a = alpha_bar_t / alpha_bar_s and b = 1 - a, the posterior q(x_s | x_t, x_0) has variance tb = b (1 - alpha_bar_s) /
(1 - alpha_bar_t) (the article's sigma_t^2; Ho et al. 2020, equation 7). A reverse step puts x_0_hat in the place of x_0
(predict) and moves from x_t to x_s (correct). What it should add as noise is the subject of `variance`.

Numerics: the coefficients of a chain (`Steps`) are formed in float64 NumPy, once per trajectory. From float32 tables
b = 1 - a would err by up to 3.6e-3 (cosine, T = 4000); cast once they err by 6e-8.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from jaxtyping import Float, Int

from ddpm_jax.gaussian import Gaussian
from ddpm_jax.schedule import Schedule

Images = Float[Array, "b *x"]
Times = Int[Array, "..."] | Int[np.ndarray, "..."] | int
Column = Float[Array, "..."] | Float[np.ndarray, "..."]


# ---------------------------------------------------------------- the forward process


def _rows(table: Array | np.ndarray, t: Times, like: Array) -> Array:
    """Rows t of a table, shaped to multiply a batch like `like`."""
    rows = jnp.asarray(table, like.dtype)[jnp.asarray(t)]
    return rows.reshape(rows.shape + (1,) * (like.ndim - rows.ndim)) if rows.ndim else rows


def diffuse(schedule: Schedule, x_0: Images, t: Times, eps: Images) -> Images:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps. Ho et al. 2020, equation 4.

    Args:
      schedule: the forward process.
      x_0: data.
      t: one time, or one per example, in 0..T.
      eps: standard-normal noise.
    """
    return (
        jnp.sqrt(_rows(schedule.alpha_bar, t, x_0)) * x_0 + jnp.sqrt(_rows(schedule.one_minus_alpha_bar, t, x_0)) * eps
    )


def posterior(schedule: Schedule, x_0: Images, x_t: Images, s: int, t: int) -> Gaussian:
    """q(x_s | x_t, x_0), exact. Ho et al. 2020, equations 6 and 7 for s = t - 1; the article's Bayes step.

    Args:
      schedule: the forward process.
      x_0: data.
      x_t: the data with the noise of time t.
      s: the earlier time, 0 <= s < t; at s = 0 the posterior is the point x_0.
      t: the later time, at most T.

    Raises:
      ValueError: not 0 <= s < t <= T.
    """
    step = pairs(schedule, np.asarray([s]), np.asarray([t]))
    mean = jnp.asarray(step.mean_x_0, x_0.dtype) * x_0 + jnp.asarray(step.mean_x_t, x_0.dtype) * x_t
    return Gaussian(mean, jnp.asarray(step.log_tb[0], x_0.dtype))


# ---------------------------------------------------------------- predictions


class Prediction(NamedTuple):
    """What a denoiser says of x_t: the noise and the data in it, formed once, and the variance's extra channels.

    Attributes:
      eps: predicted noise.
      x_0: predicted data.
      heads: (b, H, W, heads * C) extra channels of the network, if a variance asked for them.
    """

    eps: Images
    x_0: Images
    heads: Images | None = None


@runtime_checkable
class Denoiser(Protocol):
    """All that samplers, losses and evaluation know of a network: (x_t, t) -> Prediction, with t (b,) in 1..T."""

    def __call__(self, x_t: Images, t: Int[Array, " b"], /) -> Prediction: ...


Network = Callable[..., Images]


def from_eps(schedule: Schedule, x_t: Images, t: Times, output: Images) -> Prediction:
    """The network says eps. Ho et al. 2020, equation 15; at alpha_bar_t = 0 it says nothing of x_0 and is refused."""
    x_0 = (x_t - jnp.sqrt(_rows(schedule.one_minus_alpha_bar, t, x_t)) * output) / jnp.sqrt(
        _rows(schedule.alpha_bar, t, x_t)
    )
    return Prediction(output, x_0)


def from_x_0(schedule: Schedule, x_t: Images, t: Times, output: Images) -> Prediction:
    """The network says x_0: the article's x-bar(x_t)."""
    eps = (x_t - jnp.sqrt(_rows(schedule.alpha_bar, t, x_t)) * output) / jnp.sqrt(
        _rows(schedule.one_minus_alpha_bar, t, x_t)
    )
    return Prediction(eps, output)


def from_v(schedule: Schedule, x_t: Images, t: Times, output: Images) -> Prediction:
    """The network says v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0. Salimans & Ho 2022, section 4."""
    signal = jnp.sqrt(_rows(schedule.alpha_bar, t, x_t))
    noise = jnp.sqrt(_rows(schedule.one_minus_alpha_bar, t, x_t))
    return Prediction(noise * x_t + signal * output, signal * x_t - noise * output)


PREDICTIONS: dict[str, Callable[[Schedule, Images, Times, Images], Prediction]] = {
    "eps": from_eps,
    "x_0": from_x_0,
    "v": from_v,
}


def check_prediction(kind: str, schedule: Schedule) -> None:
    """Refuse an unknown kind of prediction, and eps where no data are left at T.

    Raises:
      ValueError: see above.
    """
    if kind not in PREDICTIONS:
        raise ValueError(f"unknown prediction {kind!r}: choose one of {', '.join(PREDICTIONS)}")
    if kind == "eps" and not schedule.alpha_bar[-1] > 0:
        raise ValueError("prediction 'eps' needs alpha_bar_T > 0 and this schedule has 0: choose x_0 or v")


def target(schedule: Schedule, x_0: Images, t: Times, eps: Images, kind: str) -> Images:
    """What a network of this kind of prediction is asked for: eps, x_0 or v.

    Raises:
      ValueError: the kind is unknown.
    """
    if kind == "v":
        signal = jnp.sqrt(_rows(schedule.alpha_bar, t, x_0))
        return signal * eps - jnp.sqrt(_rows(schedule.one_minus_alpha_bar, t, x_0)) * x_0
    if kind not in PREDICTIONS:
        raise ValueError(f"unknown prediction {kind!r}: choose one of {', '.join(PREDICTIONS)}")
    return {"eps": eps, "x_0": x_0}[kind]


def clip_x_0(x_t: Images, prediction: Prediction, signal: Column | Array, noise: Column | Array) -> Prediction:
    """x_0_hat clipped to [-1, 1] before the mean is formed, and eps_hat made to agree with it.

    Source: Ho et al. 2020, released code. Differs from: DDIM implementations that keep the unclipped eps_hat.

    Args:
      x_t: what the prediction is of.
      prediction: the denoiser's.
      signal: sqrt(alpha_bar_t), broadcastable.
      noise: sqrt(1 - alpha_bar_t), broadcastable.
    """
    x_0 = jnp.clip(prediction.x_0, -1, 1)
    return prediction._replace(eps=(x_t - signal * x_0) / noise, x_0=x_0)


class _Reader(NamedTuple):
    """A network with the meaning of its output; hashes by value, so that jitted users recognise it."""

    network: Network
    kind: str

    def __call__(self, params: object, schedule: Schedule, x_t: Images, t: Int[Array, " b"]) -> Prediction:
        output = self.network(params, x_t, t)
        channels = x_t.shape[-1]
        heads = output[..., channels:] if output.shape[-1] > channels else None
        return PREDICTIONS[self.kind](schedule, x_t, t, output[..., :channels])._replace(heads=heads)


def as_argument(denoiser: Denoiser) -> Partial:
    """The denoiser as an argument of a jitted function: what `make_denoiser` bound stays leaves, so that new parameters
    need no compilation; any other callable is compiled in.
    """
    return denoiser if isinstance(denoiser, Partial) else Partial(denoiser)


def make_denoiser(network: Network, params: object, schedule: Schedule, kind: str) -> Denoiser:
    """A Denoiser of network(params, x_t, t) -> output.

    Args:
      network: a pure function; the same object each time, or jitted users compile again.
      params: its parameters; they stay leaves of the result, so that new values need no compilation.
      schedule: the forward process the network was trained for.
      kind: what it predicts, a name of PREDICTIONS.

    Raises:
      ValueError: see `check_prediction`.
    """
    check_prediction(kind, schedule)
    return Partial(_Reader(network, kind), params, schedule)


# ---------------------------------------------------------------- reverse steps


class Kernel(NamedTuple):
    """Which q(x_s | x_t, x_0) the reverse step imitates.

    Attributes:
      name: "ddpm" or "ddim".
      noise: lambda^2, the variance of that kernel, as a function of tb.
    """

    name: str
    noise: Callable[[np.ndarray], np.ndarray]


DDPM = Kernel("ddpm", lambda tb: tb)


def ddim(eta: float = 0.0) -> Kernel:
    """lambda = eta sqrt(tb). Song et al. 2021 (DDIM), equation 16; eta = 1 is DDPM, eta = 0 adds no noise.

    Raises:
      ValueError: eta is outside [0, 1], where lambda^2 could exceed 1 - alpha_bar_s.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta = {eta:g} is outside [0, 1]")
    return Kernel("ddim", lambda tb: eta**2 * tb)


class Steps(NamedTuple):
    """The coefficients of a chain's pairs s < t, ascending; arrays (K,), float64 on the host.

    The reverse mean is mean_x_0 * x_0_hat + mean_x_t * x_t; a unit of uncertainty about eps adds `gain` to the variance
    and none leaves `base`. For the DDPM kernel base = tb and gain = v = b^2 / (a (1 - alpha_bar_t)).

    Attributes:
      s: the earlier times; s[0] = 0.
      t: the later times.
      a: alpha_bar_t / alpha_bar_s.
      b: 1 - a, the variance of q(x_t | x_s).
      tb: variance of the posterior q(x_s | x_t, x_0); 0 at s = 0.
      base: lambda^2, the variance of the kernel's own q(x_s | x_t, x_0).
      gain: (sqrt((1 - alpha_bar_t)/a) - sqrt(1 - alpha_bar_s - lambda^2))^2. Bao et al. 2022, theorem 1.
      u: gain / base; for DDPM SNR(s)/SNR(t) - 1; inf where base is 0.
      log_b: log b.
      log_tb: log tb; -inf at s = 0.
      log_tb_floored: log tb, with the papers' stand-in log tb(1, 2) at s = 0.
      log_base: log base; -inf where it is 0.
      mean_x_0: coefficient of x_0_hat.
      mean_x_t: coefficient of x_t.
      signal: sqrt(alpha_bar_t).
      noise: sqrt(1 - alpha_bar_t).
      excess_max: alpha_bar_t / (1 - alpha_bar_t), the largest Cov[eps | x_t] of data in [-1, 1].
    """

    s: Column | Times
    t: Column | Times
    a: Column
    b: Column
    tb: Column
    base: Column
    gain: Column
    u: Column
    log_b: Column
    log_tb: Column
    log_tb_floored: Column
    log_base: Column
    mean_x_0: Column
    mean_x_t: Column
    signal: Column
    noise: Column
    excess_max: Column

    @property
    def K(self) -> int:
        """The number of steps."""
        return self.t.shape[0]


def steps(schedule: Schedule, times: np.ndarray | list[int], kernel: Kernel = DDPM) -> Steps:
    """The chain that visits `times` from the last to the first and then the data.

    Args:
      schedule: the forward process.
      times: ascending, in 1..T.
      kernel: DDPM, or a DDIM-type kernel.

    Raises:
      ValueError: times are not ascending in 1..T.
    """
    t = np.asarray(times)
    if not t.size or not np.issubdtype(t.dtype, np.integer):
        raise ValueError(f"times {times}: a chain has at least one time, and times are whole numbers")
    return pairs(schedule, np.concatenate([[0], t[:-1]]), t, kernel)


def pairs(schedule: Schedule, s: np.ndarray, t: np.ndarray, kernel: Kernel = DDPM) -> Steps:
    """The coefficients of any pairs of times, all in float64.

    Args:
      schedule: the forward process, on the host.
      s: the earlier times, (K,).
      t: the later times, (K,), each s < t <= T.
      kernel: DDPM, or a DDIM-type kernel.

    Raises:
      ValueError: a pair is out of order or range, or alpha_bar_t = 0.
    """
    bad = ~((0 <= s) & (s < t) & (t <= schedule.T))
    if bad.any():
        i = int(np.argmax(bad))
        raise ValueError(f"step {t[i]} -> {s[i]}: times must ascend within 1..{schedule.T}")
    ab_s, ab_t = schedule.alpha_bar[s], schedule.alpha_bar[t]
    noise_s, noise_t = schedule.one_minus_alpha_bar[s], schedule.one_minus_alpha_bar[t]
    if not (ab_t > 0).all():
        raise ValueError("alpha_bar_T = 0: reverse steps and their KL terms need some data left at T")
    a = ab_t / ab_s
    b = 1 - a
    tb = b * noise_s / noise_t
    base = kernel.noise(tb)
    kept = np.sqrt(noise_s - base)
    gain = ((b / a + base) / (np.sqrt(noise_t / a) + kept)) ** 2
    mean_x_t = kept / np.sqrt(noise_t)
    with np.errstate(divide="ignore"):
        log_tb = np.log(tb)
        return Steps(
            s=s.astype(np.int32),
            t=t.astype(np.int32),
            a=a,
            b=b,
            tb=tb,
            base=base,
            gain=gain,
            u=gain / base,
            log_b=np.log(b),
            log_tb=log_tb,
            log_tb_floored=np.where(s == 0, decoder_log_var(schedule), log_tb),
            log_base=np.log(base),
            mean_x_0=np.sqrt(ab_s) - mean_x_t * np.sqrt(ab_t),
            mean_x_t=mean_x_t,
            signal=np.sqrt(ab_t),
            noise=np.sqrt(noise_t),
            excess_max=ab_t / noise_t,
        )


def decoder_log_var(schedule: Schedule) -> float:
    """log tb(1, 2): the papers' variance of p(x_0 | x_1). Ho et al. 2020, released code.

    A schedule of one time has no tb(1, 2) and takes log beta_1.
    """
    noise = schedule.one_minus_alpha_bar
    if schedule.T == 1:
        return float(np.log(noise[1]))
    return float(np.log(schedule.beta[2]) + np.log(noise[1]) - np.log(noise[2]))
