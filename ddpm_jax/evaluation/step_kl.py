"""The KL of a step as a function of u alone, tabulated at every time: any chain under any variance from one pass.

At a fixed t the divergence of the step t -> s depends on s only through u = SNR(s)/SNR(t) - 1. With e = eps - eps_hat
in the basis of the variance and r = base/sigma^2,

    KL(u) = 1/2 mean_i [ r_i (1 + u e_i^2) - 1 - log r_i ].

For one number a step and image, that is a formula of M_t. For variances that look at x_t, or differ between
coefficients, it is tabulated for every image at NODES values of u and interpolated: log KL by a cubic spline in log u.

The decoder's term L_0 is tabulated likewise, over the variance of p(x_0 | x_tau_1). The papers give it tb(1, 2) for
every choice, improved-diffusion gives it the choice's own, and a chain that may end at any time has one that is best
there.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32, Float64
from scipy.interpolate import CubicSpline

from ddpm_jax.diffusion import gaussian, process, variances
from ddpm_jax.diffusion.bases import Basis
from ddpm_jax.diffusion.denoiser import Images, Prediction
from ddpm_jax.diffusion.process import Steps
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.variances import ReverseVariance

NODES = 32
BEYOND = 1.1  # the table reaches this factor further than any step, so that no interval is empty
NEAR = 1.001  # and this factor, where a choice is defined for one u alone


class Table(NamedTuple):
    """One variance, tabulated over u; row t for time t, NaN where it was not measured.

    Attributes:
      u: the nodes.
      cost: KL of every image there, nats per dimension.
      log_ratio: log(sigma^2/base) there, averaged over images and coefficients, in nats.
      clamped: share of the estimates that were moved into their bounds, by time.
      decoders: L_0 of every image with the choice's own variance at s = 0, nats per dimension, where the stand-in for
        log tb(0, t) is each of `step_kl.decoder_nodes`; None for a choice of the form base + gain h.
    """

    u: Float64[np.ndarray, "times nodes"]
    cost: Float32[np.ndarray, "n times nodes"]
    log_ratio: Float64[np.ndarray, "times nodes"]
    clamped: Float64[np.ndarray, " times"]
    decoders: Float32[np.ndarray, "n decoders times"] | None = None


class Tabulated(NamedTuple):
    """What the compiled pass needs to know of one variance.

    Attributes:
      log_var: of a choice that looks at x_t; None for one that is given by `tables`.
      excess: see ReverseVariance.
      clamped: see ReverseVariance.
      basis: where the covariance is diagonal.
      decodes: it has a variance of its own at s = 0.
    """

    log_var: Any
    excess: Any
    clamped: Any
    basis: Basis
    decodes: bool


def step_kl(log_r: Any, u: Any, error: Any) -> Any:
    """1/2 [r (1 + u e^2) - 1 - log r], nats, element by element: KL(q || p) of Gaussians whose means differ by
    sqrt(gain) e. Ho et al. 2020, equation 5's terms.

    Numerics: written as expm1(log r) - log r + r u e^2, which keeps its digits where r is near 1.

    Args:
      log_r: log(base/sigma^2).
      u: gain/base.
      error: e^2 or its mean.
    """
    xp = log_r.__array_namespace__()
    return 0.5 * (xp.expm1(log_r) - log_r + xp.exp(log_r) * u * error)


def nodes(schedule: Schedule, chain: tuple[int, ...] | None = None) -> Float64[np.ndarray, "times nodes"]:
    """Where costs are tabulated at every time: u from that of the step t -> t - 1 to that of t -> 1, evenly in log u.

    Rows 0 and 1 have no step with s >= 1; they hold the numbers of row 2.

    Args:
      schedule: the forward process.
      chain: times of the only chain that the choice is defined on. Its sigma^2 does not follow u, so that KL(u) is a
        narrow valley: the nodes lie close around the u of the chain's own step.
    """
    t = np.maximum(np.arange(2, max(schedule.T, 2) + 1), 2)
    if schedule.T < 2:
        return np.ones((schedule.T + 1, NODES)) * np.geomspace(1, 2, NODES)
    nearest, farthest = process.pairs(schedule, t - 1, t).u, process.pairs(schedule, np.ones_like(t), t).u
    rows = np.geomspace(nearest / BEYOND, farthest * BEYOND, NODES, axis=1)
    rows = np.concatenate([rows[:1], rows[:1], rows])
    if chain is not None:
        own = process.pairs(schedule, np.asarray(chain[:-1], int), np.asarray(chain[1:], int))
        rows[own.t] = np.geomspace(own.u / NEAR, own.u * NEAR, NODES, axis=1)
    return rows


def needs_table(choice: ReverseVariance, schedule: Schedule) -> bool:
    """The choice is not one number a step: it looks at x_t or differs between coefficients."""
    if not choice.bound:
        return False
    return not choice.headless or np.ndim(choice.log_var(_virtual(schedule, np.asarray([schedule.T])), None, None)) > 1


def _virtual(schedule: Schedule, times: np.ndarray, chain: tuple[int, ...] | None = None) -> Steps:
    """The steps from every time to every node, arrays (times * nodes,)."""
    return process.between(schedule, np.repeat(times, NODES), nodes(schedule, chain)[times].ravel())


def prepare(schedule: Schedule, choice: ReverseVariance, times: np.ndarray) -> tuple[Steps, Any]:
    """What `tabulate` reads at these times.

    Returns:
      The steps to every node, arrays (times, nodes), and log sigma^2 (times, nodes, *x) of a headless choice in nats,
      None of another.
    """
    flat = _virtual(schedule, times, choice.times)
    shape = (len(times), NODES)
    return Steps(*(column.reshape(shape) for column in flat)), _table(choice, flat, shape) if choice.headless else None


def _table(choice: ReverseVariance, flat: Steps, shape: tuple[int, int]) -> Float32[np.ndarray, "times nodes *x"]:
    log_var = variances.table(choice, flat)
    return log_var.reshape(*shape, *log_var.shape[1:]).astype(np.float32)


def tabulate(
    fixed: Tabulated, steps: Steps, table: Array | None, x_t: Images, prediction: Prediction, error: Images
) -> tuple[Float[Array, "nodes b"], Float[Array, "nodes b"], Float[Array, " b"]]:
    """KL(u) of every example at one time, nats per dimension; log(sigma^2/base) and the share clamped beside it.

    Args:
      fixed: the variance.
      steps: to every node, arrays (nodes,).
      table: log sigma^2 (nodes, *x) of a headless choice.
      x_t: at this time.
      prediction: the denoiser's.
      error: eps - eps_hat.
    """
    square = fixed.basis.forward(error) ** 2
    mean = partial(_mean, like=error)
    first = jax.tree.map(lambda column: column[0], steps)
    h = fixed.excess(first, x_t, prediction) if fixed.excess and table is None else None

    def at(step: Steps) -> tuple[Array, Array]:
        if h is not None:  # r = 1/(1 + u h) for all nodes from one h
            log_ratio = jnp.log1p(step.u * h)
            return mean(0.5 * (step.u * (square - h) / (1 + step.u * h) + log_ratio)), mean(log_ratio)
        log_r = step.log_base - fixed.log_var(step, x_t, prediction)
        return mean(step_kl(log_r, step.u, square)), mean(-log_r)

    cost, log_ratio = jax.lax.map(at, steps) if table is None else _alike_for_all(steps, table, square)
    clamped = mean(0.0 if fixed.clamped is None else fixed.clamped(first, x_t, prediction))
    return cost, log_ratio, clamped


def _mean(values: Array | float, like: Images) -> Float[Array, " b"]:
    """m = 1/D sum_i v_i of every example, of values that broadcast to `like`.

    Numerics: a product with 1/D. XLA's CPU backend made a table in 1.3 ns a value with it, and in 24 ns with a plain
    sum, which it fuses with what is summed (jax 0.10.2).
    """
    flat = jnp.broadcast_to(jnp.asarray(values, like.dtype), like.shape).reshape(len(like), -1)
    return jnp.matmul(flat, jnp.full(flat.shape[1], 1 / flat.shape[1], flat.dtype), precision="highest")


def _alike_for_all(steps: Steps, table: Array, square: Images) -> tuple[Array, Array]:
    """KL(u) and log(sigma^2/base) at every node, (nodes, b), where all examples have one sigma^2: linear in e^2, and so
    one matrix product over the coefficients, KL = 1/2 mean_i [expm1(log r_i) - log r_i] + u/2 mean_i r_i e_i^2.
    """
    log_r = steps.log_base[:, None] - table.reshape(len(table), -1)
    quadratic = jnp.exp(log_r) @ square.reshape(len(square), -1).T / log_r.shape[1]
    cost = 0.5 * (jnp.mean(jnp.expm1(log_r) - log_r, axis=1, keepdims=True) + steps.u[:, None] * quadratic)
    return cost, jnp.broadcast_to(jnp.mean(-log_r, axis=1, keepdims=True), cost.shape)


def of_spectrum(
    schedule: Schedule, choice: ReverseVariance, spectrum: Float64[np.ndarray, "times *x"]
) -> Float64[np.ndarray, "times nodes"]:
    """The mean cost at the nodes of a headless choice from the moments in its own basis, nats per dimension.

    For `spectral` on the images that fixed it: 1/2 mean_j log(1 + u M_{t,j}).

    Args:
      schedule: the forward process.
      choice: headless, diagonal in the basis of the spectrum.
      spectrum: M_{t,j}.
    """
    table = np.full((schedule.T + 1, NODES), np.nan)
    dimensions = tuple(range(1, spectrum.ndim))
    for t in np.flatnonzero(np.isfinite(spectrum).all(axis=dimensions)):
        steps = _virtual(schedule, np.asarray([t]))
        log_r = variances.beside(steps.log_base, spectrum[:1]) - variances.table(choice, steps)
        table[t] = step_kl(log_r, variances.beside(steps.u, spectrum[:1]), spectrum[t]).mean(axis=dimensions)
    return table


def between_nodes(
    row: Float64[np.ndarray, " nodes"], cost: Float[np.ndarray, "*n nodes"], u: Float64[np.ndarray, " k"]
) -> Float64[np.ndarray, "*n k"]:
    """Tabulated costs of one time at any u: log KL is a cubic spline of log u; nats per dimension.

    Args:
      row: of `nodes`, even in log u.
      cost: at them.
      u: where they are wanted.

    Raises:
      ValueError: u lies outside the row, or a cost is not finite.
    """
    if not np.isfinite(cost).all():
        raise ValueError("a variance that looks at x_t is negative or infinite for some image: clamp the covariance")
    if not ((row[0] <= u) & (u <= row[-1])).all():
        raise ValueError(f"u = {u.min():g} to {u.max():g} leaves the table, which has {row[0]:g} to {row[-1]:g}")
    return interpolate(np.log(row[0]), np.log(row[-1]), cost, np.log(u))


DECODER_NODES = 20


def decoder_nodes(schedule: Schedule) -> Float64[np.ndarray, " nodes"]:
    """The log variances at which L_0 is tabulated: from log tb(1, 2), the papers', to log 1, in nats."""
    return np.linspace(process.decoder_log_var(schedule), 0.0, DECODER_NODES)


def decoder_at_nodes(
    log_vars: Array, levels: int, x_0: Images, mean: Images, log_var: Callable[[Array], Array]
) -> Float[Array, "nodes b"]:
    """-log P(x_0 | mean, variance) at every node, nats per dimension. Ho et al. 2020, equation 13.

    Args:
      log_vars: the nodes.
      levels: of the data.
      x_0: quantised data.
      mean: x_0_hat.
      log_var: of a node the log variance, one number or an image of them.
    """

    def at(node: Array) -> Array:
        kernel = gaussian.Gaussian(mean, jnp.broadcast_to(log_var(node), mean.shape))
        return -gaussian.discretised_log_prob(kernel, x_0, levels)

    return jax.lax.map(at, log_vars)


def decoder_between_nodes(
    schedule: Schedule, terms: Float[np.ndarray, "*n nodes"], log_var: Float64[np.ndarray, " k"]
) -> Float64[np.ndarray, "*n k"]:
    """Tabulated L_0 at any log variance, nats per dimension: its log is a cubic spline."""
    first, *_, last = decoder_nodes(schedule)
    return interpolate(first, last, terms, log_var)


def best_decoder(
    schedule: Schedule, terms: Float64[np.ndarray, "times nodes"]
) -> tuple[Float64[np.ndarray, " times"], Float64[np.ndarray, " times"]]:
    """The best log variance at every time, and L_0 there, in nats; the least of a fine grid.

    Args:
      schedule: the forward process.
      terms: means over calibration images.
    """
    fine = np.linspace(process.decoder_log_var(schedule), 0.0, 50 * DECODER_NODES)
    found = np.full((len(terms), 2), np.nan)
    for t in np.flatnonzero(np.isfinite(terms).all(axis=1)):
        values = decoder_between_nodes(schedule, terms[t], fine)
        found[t] = fine[values.argmin()], values.min()
    return found[:, 0], found[:, 1]


def has_own_decoder(choice: ReverseVariance) -> bool:
    """The choice looks at x_t and has a variance of its own at s = 0, as none of the form base + gain h has."""
    return not choice.headless and not choice.every_kernel


LEAST_COST = 1e-30  # of a cost whose logarithm is taken: one that is 0


def interpolate(
    first: float, last: float, costs: Float[np.ndarray, "*n nodes"], at: Float64[np.ndarray, " k"]
) -> Float64[np.ndarray, "*n k"]:
    """f(at) from f at nodes that lie evenly from `first` to `last`: log f is a cubic spline of the node.

    Args:
      first: node.
      last: node.
      costs: at the nodes, positive or 0; in the unit of the result.
      at: where they are wanted, within the nodes.
    """
    logs = np.log(np.maximum(np.asarray(costs, np.float64), LEAST_COST))
    count = logs.shape[-1]
    return np.exp(logs @ _cardinal(count)((at - first) * ((count - 1) / (last - first))).T)


@lru_cache
def _cardinal(count: int) -> CubicSpline:
    """The splines through 1 at one of the nodes 0..count-1 and 0 at the others: every spline is a sum of them."""
    return CubicSpline(np.arange(count), np.eye(count))
