"""The decoder p(x_0 | x_tau_1) at any variance: L_0 is tabulated over it for every image and time, and interpolated.

The papers give it tb(1, 2) for every choice. improved-diffusion gives it the choice's own, and a chain that may end at
any time has one that is best there.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float64

from ddpm_jax import gaussian, process
from ddpm_jax.eval import spline
from ddpm_jax.predict import Images
from ddpm_jax.reverse import ReverseVariance
from ddpm_jax.schedule import Schedule

NODES = 20


def nodes(schedule: Schedule) -> Float64[np.ndarray, " nodes"]:
    """The log variances at which L_0 is tabulated: from log tb(1, 2), the papers', to log 1, in nats."""
    return np.linspace(process.decoder_log_var(schedule), 0.0, NODES)


def at_nodes(
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


def between_nodes(
    schedule: Schedule, terms: Float[np.ndarray, "*n nodes"], log_var: Float64[np.ndarray, " k"]
) -> Float64[np.ndarray, "*n k"]:
    """Tabulated L_0 at any log variance, nats per dimension: its log is a cubic spline."""
    first, *_, last = nodes(schedule)
    return spline.between(first, last, terms, log_var)


def best(
    schedule: Schedule, terms: Float64[np.ndarray, "times nodes"]
) -> tuple[Float64[np.ndarray, " times"], Float64[np.ndarray, " times"]]:
    """The best log variance at every time, and L_0 there, in nats; the least of a fine grid.

    Args:
      schedule: the forward process.
      terms: means over calibration images.
    """
    fine = np.linspace(process.decoder_log_var(schedule), 0.0, 50 * NODES)
    found = np.full((len(terms), 2), np.nan)
    for t in np.flatnonzero(np.isfinite(terms).all(axis=1)):
        values = between_nodes(schedule, terms[t], fine)
        found[t] = fine[values.argmin()], values.min()
    return found[:, 0], found[:, 1]


def has_own(choice: ReverseVariance) -> bool:
    """The choice looks at x_t and has a variance of its own at s = 0, as none of the form base + gain h has."""
    return not choice.headless and not choice.every_kernel
