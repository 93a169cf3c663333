"""Heads of their own on a frozen denoiser: what a second network says of x_t, and the losses that fit it.

The mean stays as it was trained, or as a world knows it; only the variance learns. All heads are outputs of one network
g(x_t, t) and are fitted together, each by its own loss.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from jaxtyping import Float, Int

from ddpm_jax import heads, objective, predict, process
from ddpm_jax.objective import Noised, Objective, per_example
from ddpm_jax.predict import Denoiser, Images, Network, Prediction
from ddpm_jax.process import Steps
from ddpm_jax.schedule import Schedule, rows

START = np.log(np.e - 1)  # softplus(START) = 1
LEAST_UNIT = 0.05  # of alpha_bar_t: the mistakes of a real network's Jacobian at large t are larger than alpha_bar_t
LEAST_RATIO = 0.01  # of b/tb - 1: below it the bound hardly depends on the variance, and float32 cannot tell

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


class Fit(NamedTuple):
    """How one head is fitted.

    Attributes:
      natural: (units at t, excess in those units, eps_hat) -> the head in its natural unit (`heads`).
      loss: (drawn, denoiser, prediction, chain) -> (b,) loss; the mean of the prediction has no gradient.
    """

    natural: Callable[[Units, Array, Array], Any]
    loss: Callable[[Noised, Denoiser, Prediction, Steps], Float[Array, " b"]]


def _unit(drawn: Noised) -> Array:
    """What errors of h are counted in: alpha_bar_t, the h of data of variance 1, and at least LEAST_UNIT."""
    return jnp.maximum(drawn.step.signal**2, LEAST_UNIT)


def fit_npr(drawn: Noised, denoiser: Denoiser, prediction: Prediction, chain: Steps) -> Float[Array, " b"]:
    """((eps - eps_hat)^2 - g)^2 in units of alpha_bar_t, the order of the target. Bao et al. 2022b, section 4."""
    error = jnp.where(drawn.step.signal > 0, drawn.eps - prediction.eps, drawn.x_0 - prediction.x_0)
    return per_example(((error**2 - heads.read(prediction, "npr")) / _unit(drawn)) ** 2)


def fit_sn(drawn: Noised, denoiser: Denoiser, prediction: Prediction, chain: Steps) -> Float[Array, " b"]:
    """(eps^2 - g)^2, the target of order 1 at every time. Bao et al. 2022b, section 3."""
    square = jnp.where(drawn.step.signal > 0, drawn.eps**2, drawn.x_0**2 - prediction.x_0**2 + prediction.eps**2)
    return per_example((square - heads.read(prediction, "sn")) ** 2)


def fit_ocm(drawn: Noised, denoiser: Denoiser, prediction: Prediction, chain: Steps) -> Float[Array, " b"]:
    """((1 - alpha_bar_t) r * (H r) - g)^2 in units of alpha_bar_t. Ou et al. 2025, section 3.

    H is the Jacobian of the score -eps_hat/sqrt(1 - alpha_bar_t), r has entries +-1: one Jacobian-vector product, and
    E r * (H r) = diag H.

    Raises:
      ValueError: nothing to draw r from.
    """
    if drawn.keys is None:
        raise ValueError("the head ocm needs keys for its probes")
    shape = drawn.x_t.shape[1:]
    probe = jax.vmap(lambda key: jax.random.rademacher(key, shape, drawn.x_t.dtype))(drawn.keys)
    _, turned = jax.jvp(lambda x_t: denoiser(x_t, drawn.step.t).eps, (drawn.x_t,), (probe,))
    unknown = (drawn.x_0 - prediction.x_0) ** 2 - 1  # where alpha_bar_t = 0, x_t says nothing and has no Jacobian
    wanted = jax.lax.stop_gradient(jnp.where(drawn.step.signal > 0, -drawn.step.noise * probe * turned, unknown))
    return per_example(((wanted - heads.read(prediction, "ocm")) / _unit(drawn)) ** 2)


def fit_learned(drawn: Noised, denoiser: Denoiser, prediction: Prediction, chain: Steps) -> Float[Array, " b"]:
    """The term of the bound of `heads.learned`, nats per dimension, weighed by (1 - tb/b)^-2.

    Ho et al. 2020, equation 5. The term depends on the variance by (1 - tb/b)^2: the weight, which moves no optimum at
    any time, lets short steps learn as fast as long ones, down to b/tb - 1 = LEAST_RATIO.
    """
    return _weight(drawn) * objective.bound_term(heads.learned(None), chain, drawn, prediction)


def fit_learned_range(drawn: Noised, denoiser: Denoiser, prediction: Prediction, chain: Steps) -> Float[Array, " b"]:
    """The term of the bound of `heads.learned_range`, nats per dimension, weighed as that of `learned`.

    Nichol & Dhariwal 2021, section 3.1.
    """
    return _weight(drawn) * objective.bound_term(heads.learned_range(), chain, drawn, prediction)


def _weight(drawn: Noised) -> Array:
    ratio = jnp.maximum(jnp.expm1(drawn.step.log_b - drawn.step.log_tb_floored), LEAST_RATIO)
    return ((1 + ratio) / ratio).ravel() ** 2


def _log_var(unit: Units, excess: Array) -> Any:
    """log(tb + (b - tb) excess) - log tb: the excess of `large` makes b."""
    return jnp.log1p(unit.ratio * excess)


FITS: dict[str, Fit] = {
    "npr": Fit(lambda unit, excess, eps_hat: unit.excess * excess, fit_npr),
    "sn": Fit(lambda unit, excess, eps_hat: eps_hat**2 + unit.excess * excess, fit_sn),
    "ocm": Fit(lambda unit, excess, eps_hat: unit.excess * excess - 1, fit_ocm),
    "learned": Fit(lambda unit, excess, eps_hat: unit.log_tb + _log_var(unit, excess), fit_learned),
    "learned_range": Fit(
        lambda unit, excess, eps_hat: 2 * _log_var(unit, excess) / jnp.log1p(jnp.maximum(unit.ratio, 1e-12)) - 1,
        fit_learned_range,
    ),
}


def fit(names: tuple[str, ...], chain: Steps) -> Objective:
    """The sum of the heads' losses.

    Args:
      names: of FITS.
      chain: whose steps training draws.

    Raises:
      ValueError: a name is unknown.
    """
    check_names(names)

    def loss(drawn: Noised, denoiser: Denoiser) -> Float[Array, " b"]:
        prediction = denoiser(drawn.x_t, drawn.step.t)
        still = prediction._replace(
            eps=jax.lax.stop_gradient(prediction.eps), x_0=jax.lax.stop_gradient(prediction.x_0)
        )
        return sum((FITS[name].loss(drawn, denoiser, still, chain) for name in names), start=jnp.float32(0))

    return loss


def check_names(names: tuple[str, ...]) -> None:
    """Refuse heads that cannot be fitted.

    Raises:
      ValueError: a name is not of FITS or there twice, or there is none.
    """
    if not names or len(set(names)) < len(names):
        raise ValueError(f"heads = {' '.join(names)}: give at least one, each once, of {', '.join(FITS)}")
    for name in names:
        if name not in FITS:
            raise ValueError(f"unknown head {name!r}: choose from {', '.join(FITS)}")


class _Headed(NamedTuple):
    """A frozen denoiser with the heads of a second network; hashes by value, so that jitted users recognise it."""

    network: Network
    names: tuple[str, ...]
    clip: bool

    def __call__(self, denoiser: Denoiser, params: object, unit: Units, x_t: Images, t: Int[Array, " b"]) -> Prediction:
        outputs = jnp.split(self.network(params, x_t, t), len(self.names), axis=-1)
        at = Units(*(rows(table, t, x_t) for table in unit))
        prediction = denoiser(x_t, t)
        eps = predict.clip_x_0(x_t, prediction, at.signal, at.noise).eps if self.clip else prediction.eps
        natural = {
            name: FITS[name].natural(at, jax.nn.softplus(output + START), eps)
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
      names: of FITS, in the order of the output channels.
      unit: see `units`.
      clip: the heads were fitted to a mean with x_0_hat clipped; the denoiser's own mean stays as it is.
    """
    return Partial(_Headed(network, names, clip), denoiser, params, unit)
