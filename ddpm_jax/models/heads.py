"""Heads on a frozen denoiser: outputs of a second network g(x_t, t), in the natural unit of each variance.

The mean stays as it was trained; only the variance learns. Their losses are in `training.heads`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from jaxtyping import Float, Int

from ddpm_jax.diffusion import process
from ddpm_jax.diffusion.denoiser import Denoiser, Images, Network, Prediction, clip_x_0
from ddpm_jax.diffusion.process import Steps
from ddpm_jax.diffusion.schedules import Schedule, rows

VERSION = 1  # raised by hand when the numbers of a head change
START = float(np.log(np.e - 1))  # softplus(START) = 1

Row = Float[Array, "..."] | Float[np.ndarray, "..."]


class Units(NamedTuple):
    """Row t for time t: what turns outputs of order 1 at every t into heads.

    Attributes:
      excess: h of data of variance 1 and a perfect mean, alpha_bar_t: that of `large`. 1 where alpha_bar_t = 0.
      ratio: b/tb - 1 of the chain's step from t, and of the step t -> t - 1 where the chain has none; at s = 0 with the
        stand-in for tb.
      log_tb: log tb of that step, in nats.
      signal: sqrt(alpha_bar_t).
      noise: sqrt(1 - alpha_bar_t).
    """

    excess: Row
    ratio: Row
    log_tb: Row
    signal: Row
    noise: Row


def units(schedule: Schedule, chain: Steps) -> Units:
    """excess_t = alpha_bar_t; ratio_t = b/tb - 1 and log_tb_t = log tb of the step of the chain that leaves t."""
    alpha_bar, noise = np.asarray(schedule.alpha_bar), np.asarray(schedule.one_minus_alpha_bar)
    ratio, log_tb = np.zeros(schedule.T + 1), np.zeros(schedule.T + 1)
    for steps in (process.every_step(schedule), chain):
        ratio[steps.t] = np.expm1(steps.log_b - steps.log_tb_floored)
        log_tb[steps.t] = steps.log_tb_floored
    return Units(np.where(alpha_bar > 0, alpha_bar, 1.0), ratio, log_tb, np.sqrt(alpha_bar), np.sqrt(noise))


def _log_var(unit: Units, excess: Array) -> Any:
    """log(tb + (b - tb) excess) - log tb: the excess of `large` makes b."""
    return jnp.log1p(unit.ratio * excess)


NATURAL: dict[str, Callable[[Units, Array, Array], Any]] = {
    "npr": lambda unit, excess, eps_hat: unit.excess * excess,
    "sn": lambda unit, excess, eps_hat: eps_hat**2 + unit.excess * excess,
    "ocm": lambda unit, excess, eps_hat: unit.excess * excess - 1,
    "learned": lambda unit, excess, eps_hat: unit.log_tb + _log_var(unit, excess),
    "learned_range": lambda unit, excess, eps_hat: (
        2 * _log_var(unit, excess) / jnp.log1p(jnp.maximum(unit.ratio, 1e-12)) - 1
    ),
}
"""By head: (units at t, excess in those units, eps_hat) -> the head in its natural unit."""


class _Headed(NamedTuple):
    """A frozen denoiser with the heads of a second network; hashes by value, so that jitted users recognise it."""

    network: Network
    names: tuple[str, ...]
    clip: bool

    def __call__(self, denoiser: Denoiser, params: object, unit: Units, x_t: Images, t: Int[Array, " b"]) -> Prediction:
        outputs = jnp.split(self.network(params, x_t, t), len(self.names), axis=-1)
        at = Units(*(rows(table, t, x_t) for table in unit))
        prediction = denoiser(x_t, t)
        eps = clip_x_0(x_t, prediction, at.signal, at.noise).eps if self.clip else prediction.eps
        natural = {
            name: NATURAL[name](at, jax.nn.softplus(output + START), eps)
            for name, output in zip(self.names, outputs, strict=True)
        }
        return prediction._replace(heads={**(prediction.heads or {}), **natural})


def with_heads(
    denoiser: Denoiser, network: Network, params: object, names: tuple[str, ...], unit: Units, clip: bool = False
) -> Denoiser:
    """The denoiser with heads of a network of their own: heads[name] = its natural form of softplus(g(x_t, t)).

    Every head starts as `large` has it and stays positive as an excess. Differs from: the papers' heads, whose outputs
    have no such units; in particular `sn` is fitted as eps_hat^2 plus an excess, not as a bare g.

    Args:
      denoiser: frozen; a Partial's leaves stay arguments of jitted users.
      network: (params, x_t, t) -> (b, H, W, C len(names)).
      params: the head network's.
      names: of NATURAL, in the order of the output channels.
      unit: see `units`.
      clip: the heads were fitted to a mean with x_0_hat clipped; the denoiser's own mean stays as it is.
    """
    return Partial(_Headed(network, names, clip), denoiser, params, unit)
