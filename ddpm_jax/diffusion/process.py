"""The article's identities, for any pair of times s < t: forward noise, Bayes' posterior, the steps of a chain.

With a = alpha_bar_t / alpha_bar_s and b = 1 - a, the posterior q(x_s | x_t, x_0) has variance
tb = b (1 - alpha_bar_s) / (1 - alpha_bar_t) (the article's sigma_t^2; Ho et al. 2020, equation 7). A reverse step puts
x_0_hat in the place of x_0 (predict) and moves from x_t to x_s (correct). What it should add as noise is the subject of
`variances`.

Numerics: the coefficients of a chain (`Steps`) are formed in float64 NumPy, once per trajectory. From float32 tables
b = 1 - a would err by up to 3.6e-3 (cosine, T = 4000); cast once they err by 6e-8.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from ddpm_jax.diffusion.gaussian import Gaussian
from ddpm_jax.diffusion.schedules import Schedule, Times, rows

Batch = Float[Array, "b *x"]
Column = Any  # float64 (K,) arrays on the host; inside a scan the number of one step, in the images' precision


def add_noise(x_0: Batch, eps: Batch, signal: Column | Array, noise: Column | Array) -> Batch:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps. Ho et al. 2020, equation 4.

    Args:
      x_0: data.
      eps: standard-normal noise.
      signal: sqrt(alpha_bar_t), broadcastable, in the precision of the data.
      noise: sqrt(1 - alpha_bar_t), likewise.
    """
    return signal * x_0 + noise * eps


def diffuse(schedule: Schedule, x_0: Batch, t: Times, eps: Batch) -> Batch:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps at times of a schedule. Ho et al. 2020, equation 4.

    Numerics: of tables on the host the square roots are taken in float64.

    Args:
      schedule: the forward process.
      x_0: data.
      t: one time, or one per example, in 0..T.
      eps: standard-normal noise.
    """
    signal, noise = (
        rows(table.__array_namespace__().sqrt(table), t, x_0)
        for table in (schedule.alpha_bar, schedule.one_minus_alpha_bar)
    )
    return add_noise(x_0, eps, signal, noise)


def posterior(schedule: Schedule, x_0: Batch, x_t: Batch, s: int, t: int) -> Gaussian:
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
    step = cast(pairs(schedule, np.asarray([s]), np.asarray([t])), x_0.dtype)
    return Gaussian(mean(step, x_0, x_t), step.log_tb[0])


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
    Where alpha_bar_t = 0, x_t says all of eps and nothing of x_0: there uncertainty is counted in x_0, and gain is
    mean_x_0^2.

    Attributes:
      s: the earlier times; s[0] = 0. In `between` -1, as they lie between times.
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
      excess_max: alpha_bar_t / (1 - alpha_bar_t), the largest Cov[eps | x_t] of data in [-1, 1]; 1 at alpha_bar_t = 0.
    """

    s: Column
    t: Column
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


def cast(steps: Steps, dtype: DTypeLike) -> Steps:
    """The coefficients rounded once to the precision of images; s and t stay whole numbers."""
    rounded = {name: jnp.asarray(column, dtype) for name, column in steps._asdict().items() if name not in ("s", "t")}
    return steps._replace(**rounded)


def mean(step: Steps, x_0: Batch, x_t: Batch) -> Batch:
    """The mean of q(x_s | x_t, x_0), mean_x_0 x_0 + mean_x_t x_t. Ho et al. 2020, equation 7; Song et al. 2021 (DDIM),
    equation 12, for other kernels. With x_0_hat in the place of x_0 it is the reverse step's: the article's predict,
    then correct.

    Args:
      step: one step's coefficients, broadcastable, in the precision of the images.
      x_0: data, or what a denoiser says of them.
      x_t: the images with the noise of time t.
    """
    return step.mean_x_0 * x_0 + step.mean_x_t * x_t


def steps(schedule: Schedule, times: np.ndarray | list[int], kernel: Kernel = DDPM) -> Steps:
    """The chain that visits `times` from the last to the first and then the data: s_k = t_(k-1), and 0 for the first.

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


def every_step(schedule: Schedule) -> Steps:
    """The whole chain, s = t - 1 for t = 1..T. Ho et al. 2020, algorithm 2's steps."""
    return steps(schedule, np.arange(1, schedule.T + 1))


def pairs(schedule: Schedule, s: np.ndarray, t: np.ndarray, kernel: Kernel = DDPM) -> Steps:
    """The coefficients of any pairs of times, all in float64: a = alpha_bar_t / alpha_bar_s and what `Steps` lists.

    Args:
      schedule: the forward process, on the host.
      s: the earlier times, (K,).
      t: the later times, (K,), each s < t <= T.
      kernel: DDPM, or a DDIM-type kernel.

    Raises:
      ValueError: a pair is out of order or range.
    """
    bad = ~((0 <= s) & (s < t) & (t <= schedule.T))
    if bad.any():
        i = int(np.argmax(bad))
        raise ValueError(f"step {t[i]} -> {s[i]}: times must ascend within 1..{schedule.T}")
    signal, noise = np.asarray(schedule.alpha_bar), np.asarray(schedule.one_minus_alpha_bar)
    return _coefficients(schedule, np.stack([s, t]), (signal[s], noise[s]), (signal[t], noise[t]), kernel)


def between(schedule: Schedule, t: np.ndarray, u: np.ndarray) -> Steps:
    """DDPM steps from times t to wherever SNR(s) = (1 + u) SNR(t), between times of the schedule as well.

    At a fixed t the KL of a step depends on s through u alone; this is where it is tabulated.

    Args:
      schedule: the forward process, on the host.
      t: the later times, (K,).
      u: (K,), positive; where alpha_bar_t = 0, SNR(s) itself.
    """
    signal, noise = np.asarray(schedule.alpha_bar)[t], np.asarray(schedule.one_minus_alpha_bar)[t]
    snr = np.where(signal > 0, (1 + u) * signal / noise, u)
    earlier = (snr / (1 + snr), 1 / (1 + snr))
    return _coefficients(schedule, np.stack([np.full_like(t, -1), t]), earlier, (signal, noise), DDPM)


def _coefficients(
    schedule: Schedule, times: np.ndarray, at_s: tuple[np.ndarray, ...], at_t: tuple[np.ndarray, ...], kernel: Kernel
) -> Steps:
    """Steps from alpha_bar and 1 - alpha_bar at both ends."""
    (s, t), (ab_s, noise_s), (ab_t, noise_t) = times.astype(np.int32), at_s, at_t
    a = ab_t / ab_s
    b = 1 - a
    tb = b * noise_s / noise_t
    base = kernel.noise(tb)
    kept = np.sqrt(noise_s - base)
    mean_x_t = kept / np.sqrt(noise_t)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.where(ab_t > 0, ((b / a + base) / (np.sqrt(noise_t / a) + kept)) ** 2, ab_s)
        log_tb = np.log(tb)
        return Steps(
            s=s,
            t=t,
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
            excess_max=np.where(ab_t > 0, ab_t / noise_t, 1),
        )


def decoder_log_var(schedule: Schedule) -> float:
    """log tb(1, 2) in nats: the papers' variance of p(x_0 | x_1). Ho et al. 2020, released code.

    A schedule of one time has no tb(1, 2) and takes log beta_1.
    """
    noise = schedule.one_minus_alpha_bar
    if schedule.T == 1:
        return float(np.log(noise[1]))
    return float(np.log(schedule.beta[2]) + np.log(noise[1]) - np.log(noise[2]))
