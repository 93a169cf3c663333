"""What a chain samples, exactly, where data have one dimension: its density on a grid, carried from step to step.

p_s(y) = int N(y; mean(x), sigma^2(x)) p_t(x) dx from p_T = N(0, 1), for any variance, state-dependent ones too; then
the distances between the model and the data. Images have one pixel and one colour. Densities are kept as logarithms,
nats, in float64: where the samples are rare the data need not be.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float64
from scipy.interpolate import CubicSpline
from scipy.special import log_ndtr, logsumexp

from ddpm_jax.diffusion import conventions, mixtures, process
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.denoiser import Denoiser, Images, as_argument, clip_x_0
from ddpm_jax.diffusion.mixtures import Mixture
from ddpm_jax.diffusion.process import Column, Steps
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.toy import ToyData
from ddpm_jax.diffusion.variances import OfState, ReverseVariance, check_steps, table

Grid = Float64[np.ndarray, " m"]
Others = Float64[np.ndarray, " n"]  # points of another time
PerStep = Float[Array, "K m"]

PER_DEVIATION = 2  # grid points a standard deviation; sums over Gaussians then err by exp(-(2 pi)^2) and less
AT_A_TIME = 256  # grid points whose density is formed together
LOG_ROOT = np.log(2 * np.pi) / 2
MASS_ERROR = 1e-3  # probability that the grid may lose


class Unresolved(ValueError):
    """The model's density is too narrow for the grid, or leaves it."""


class _Kernel(NamedTuple):
    """One reverse step seen from every grid point: p(x_s | x_t = x_j)."""

    mean: Grid
    deviation: Grid


def grid(reach: float = 7.0, points: int = 4001) -> Grid:
    """Evenly spaced points from -reach to reach.

    Raises:
      ValueError: reach <= 0 or fewer than 3 points.
    """
    if not (reach > 0 and points > 2):
        raise ValueError(f"{points} points up to {reach:g}: a grid has 3 or more and reaches above 0")
    return np.linspace(-reach, reach, points)


def log_mixture(x: Grid, data: Mixture, signal: float = 1.0, noise: float = 0.0) -> Grid:
    """log density of x = sqrt(signal) z + sqrt(noise) eps, nats, z of a mixture; of q(x_t) with the numbers of t."""
    with jax.enable_x64(True):
        return np.asarray(mixtures.log_prob(mixtures.noisy(data, signal, noise), _pixels(x)))


def mean_excess(x: Grid, data: Mixture, toy_data: ToyData, schedule: Schedule, t: int) -> float:
    """M_t = alpha_bar_t/(1 - alpha_bar_t) E Cov[x_0 | x_t], by quadrature: what `isotropic` and `analytic` measure."""
    signal, noise = float(schedule.alpha_bar[t]), float(schedule.one_minus_alpha_bar[t])
    with jax.enable_x64(True):
        cov = np.ravel(toy_data.cov(_pixels(x), jnp.full(len(x), t)))
    return signal / noise * _sum(x, np.exp(log_mixture(x, data, signal, noise)) * cov)


def propagate(x: Grid, steps: Steps, denoiser: Denoiser, choice: ReverseVariance, rules: Rules) -> Grid:
    """log density of a chain's samples on the grid x, nats: p_s(y) = int N(y; mean(x), sigma^2(x)) p_t(x) dx, repeated.

    A step without noise, such as the last one under "mean", moves the density: p_s(mean(x)) = p_t(x) / mean'(x).
    Nothing stands in for sigma = 0, of `small` at s = 0 or of `zero`.

    Args:
      x: evenly spaced, see `grid`.
      steps: the chain, down to s = 0.
      denoiser: in 1 x 1 x 1 pixels.
      choice: any variance; its heads are the denoiser's.
      rules: last step and pixel clip, and whether x_0_hat is clipped.

    Raises:
      Unresolved: the grid is too coarse for a step's noise or for the density, or loses probability.
      ValueError: a step without noise folds, or the variance does not fit the kernel.

    Numerics: each time has its own spacing, the widest that resolves the noise before and after it, as p_t is a sum of
    Gaussians; where the mean is too steep for the finest, the point's whole cell is carried, not its centre.
    """
    check_steps(choice, steps)
    kernels = _kernels(x, steps, denoiser, choice, rules)
    spacing = x[1] - x[0]
    strides = [1, *(_stride(spacing, *pair) for pair in zip(kernels, [*kernels[1:], None], strict=True))]
    points = [x[(len(x) - 1) % stride // 2 :: stride] for stride in strides]
    log_p = -(points[-1] ** 2) / 2 - LOG_ROOT
    for k in reversed(range(steps.K)):
        at = np.searchsorted(x, points[k + 1])
        log_p = _step(points[k + 1], log_p, _Kernel(*(part[at] for part in kernels[k])), points[k])
    mass = _sum(x, np.exp(log_p))
    if not abs(mass - 1) < MASS_ERROR:
        raise Unresolved(f"the grid holds {mass:g} of the probability: give it more points or a longer reach")
    return log_p


def _kernels(x: Grid, steps: Steps, denoiser: Denoiser, choice: ReverseVariance, rules: Rules) -> list[_Kernel]:
    """The mean and deviation of every step at every grid point."""
    chain = (steps, table(choice, steps) if choice.headless else None, conventions.log_var_cap(rules, steps))
    with jax.enable_x64(True):  # as arrays of JAX: of host arrays jit may keep float32 copies
        mean, log_var = _evaluate(
            *jax.tree.map(jnp.asarray, (as_argument(denoiser), chain)),
            _pixels(x),
            log_var_of=None if choice.headless else choice.log_var,
            clip=rules.clip_x_0,
        )
    return [_Kernel(*pair) for pair in zip(np.asarray(mean), np.exp(np.asarray(log_var) / 2), strict=True)]


@partial(jax.jit, static_argnames=("log_var_of", "clip"))
def _evaluate(
    denoiser: Denoiser, chain: tuple[Steps, Column, Column], x_t: Images, *, log_var_of: OfState | None, clip: bool
) -> tuple[PerStep, PerStep]:
    """Mean and log variance (K, m) of every step."""

    def one(at: tuple[Steps, Column, Column]) -> tuple[Array, Array]:
        step, fixed, largest = at
        prediction = denoiser(x_t, jnp.full(len(x_t), step.t))
        if clip:
            prediction = clip_x_0(x_t, prediction, step.signal, step.noise)
        mean = process.mean(step, prediction.x_0, x_t)
        log_var = fixed if log_var_of is None else log_var_of(step, x_t, prediction)
        return mean.ravel(), jnp.broadcast_to(jnp.minimum(log_var, largest), x_t.shape).ravel()

    return jax.lax.map(one, chain)


def _stride(spacing: float, after: _Kernel, before: _Kernel | None) -> int:
    """How many grid spacings resolve the density between two steps: the noise it has, and what comes next."""
    slope = np.maximum(np.abs(np.gradient(after.mean, spacing)), 1)
    finest = (after.deviation / slope).min()
    if before is not None:
        finest = min(finest, before.deviation.min())
    return max(1, int(min(finest, 1) / (PER_DEVIATION * spacing)))


def _step(x: Grid, log_p: Grid, kernel: _Kernel, y: Others) -> Others:
    """log p_s at the points y from log p_t at the points x."""
    if not kernel.deviation.any():
        return _moved(x, log_p, kernel.mean, y)
    least = kernel.deviation.min()
    if least * PER_DEVIATION < y[1] - y[0]:
        needed = int(np.ceil((y[-1] - y[0]) * PER_DEVIATION / least)) + 1 if least > 0 else "infinitely many"
        raise Unresolved(f"a step's noise has standard deviation {least:g}: the grid needs {needed} points")
    width = np.abs(np.gradient(kernel.mean))
    log_mass = log_p + np.log(x[1] - x[0])
    parts = np.array_split(y, -(-len(y) // AT_A_TIME))
    return np.concatenate([logsumexp(_log_normal(part[:, None], kernel, width) + log_mass, axis=1) for part in parts])


def _log_normal(y: np.ndarray, kernel: _Kernel, width: Grid) -> np.ndarray:
    """log N(y; mean, deviation^2); of its average over means within `width` where that is more than a deviation."""
    z = np.abs(y - kernel.mean) / kernel.deviation
    log_density = -(z**2) / 2 - np.log(kernel.deviation) - LOG_ROOT
    steep = width > kernel.deviation
    if steep.any():
        half = width[steep] / (2 * kernel.deviation[steep])
        upper, lower = log_ndtr(half - z[:, steep]), log_ndtr(-half - z[:, steep])
        log_density[:, steep] = upper + np.log1p(-np.exp(lower - upper)) - np.log(width[steep])
    return log_density


def _moved(x: Grid, log_p: Grid, mean: Grid, y: Others) -> Others:
    """p_s(y) = p_t(x) dx/dy where y = mean(x); beyond the ends of the grid log p goes on straight."""
    if not (np.diff(mean) > 0).all():
        raise ValueError("a step without noise folds: its mean does not grow with x_t everywhere")
    moved = CubicSpline(mean, log_p - np.log(np.gradient(mean, x)))
    inside = np.clip(y, mean[0], mean[-1])
    return moved(inside) + moved(inside, 1) * (y - inside)


def kl(x: Grid, log_q: Grid, log_p: Grid) -> float:
    """KL(q || p) = int q log(q/p) dx, nats."""
    return _sum(x, np.exp(log_q) * (log_q - log_p))


def total_variation(x: Grid, log_q: Grid, log_p: Grid) -> float:
    """1/2 int |q - p| dx = the largest difference in the probability of any event."""
    return _sum(x, np.abs(np.exp(log_q) - np.exp(log_p))) / 2


def wasserstein(x: Grid, log_q: Grid, log_p: Grid) -> float:
    """W_2 = (int_0^1 (F_q^-1(u) - F_p^-1(u))^2 du)^(1/2), by the two quantile functions, linear within a cell."""
    edges = np.concatenate([x - (x[1] - x[0]) / 2, [x[-1] + (x[1] - x[0]) / 2]])
    levels = [np.append(0.0, np.cumsum(mass / mass.sum())) for mass in (np.exp(log_q), np.exp(log_p))]
    u = np.unique(np.concatenate(levels))
    difference = np.diff([np.interp(u, level, edges) for level in levels], axis=0)[0]
    left, right = difference[:-1], difference[1:]
    return float(np.sqrt(((left**2 + left * right + right**2) / 3 * np.diff(u)).sum()))


def _pixels(x: Grid) -> jax.Array:
    return jnp.asarray(x.reshape(-1, 1, 1, 1))


def _sum(x: Grid, values: np.ndarray) -> float:
    """The integral of what vanishes at the ends of the grid, by its sum."""
    return float(values.sum() * (x[1] - x[0]))
