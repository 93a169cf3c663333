"""Training losses, one number per example.

An objective scores what a denoiser says of noised data: the error of its mean, or the whole step's divergence from the
posterior, in which the reverse variance has its part.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Key

from ddpm_jax.diffusion import gaussian, process, random_keys, variances
from ddpm_jax.diffusion.denoiser import PREDICTIONS, Denoiser, Images, Prediction, target
from ddpm_jax.diffusion.gaussian import Gaussian
from ddpm_jax.diffusion.process import Steps
from ddpm_jax.diffusion.random_keys import Keys
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.variances import LogVar, ReverseVariance

GAMMA = 5.0  # where min-SNR levels off. Hang et al. 2023, section 3.4


class NoisyBatch(NamedTuple):
    """Data with the noise of one step of a chain each, as a training step has drawn them.

    Attributes:
      schedule: the forward process.
      k: (b,) which step of the chain.
      step: its coefficients; s and t are (b,), all others (b, 1, ...) beside the data.
      x_0: data.
      eps: the noise.
      x_t: sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps.
      levels: number of grey levels; None for data that are not quantised.
      keys: (b,) for what else an objective draws.
    """

    schedule: Schedule
    k: Int[Array, " b"]
    step: Steps
    x_0: Images
    eps: Images
    x_t: Images
    levels: int | None
    keys: Key[Array, " b"] | None


Objective = Callable[[NoisyBatch, Denoiser], Float[Array, " b"]]


def noised(
    schedule: Schedule,
    chain: Steps,
    k: Int[Array, " b"],
    x_0: Images,
    eps: Images,
    levels: int | None = None,
    keys: Keys | None = None,
) -> NoisyBatch:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps at the step k of a chain. Ho et al. 2020, equation 4."""
    drawn = Steps(*(jnp.asarray(column)[k] for column in process.cast(chain, x_0.dtype)))
    step = Steps(*(variances.beside(column, x_0) for column in drawn))._replace(s=drawn.s, t=drawn.t)
    x_t = process.add_noise(x_0, eps, step.signal, step.noise)
    return NoisyBatch(schedule, k, step, x_0, eps, x_t, levels, None if keys is None else random_keys.typed(keys))


def per_example(values: Images) -> Float[Array, " b"]:
    """The mean over an example's dimensions: m = 1/D sum_i v_i."""
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))


WEIGHTINGS: dict[str, Callable[[Array], Array] | None] = {
    "uniform": None,
    "min_snr": lambda snr: jnp.minimum(snr, GAMMA),
    "truncated_snr": lambda snr: jnp.maximum(snr, 1),
}
"""By name: SNR(t) -> weight of ||x_0 - x_0_hat||^2; None for the error of the regressed quantity as it is.

min_snr: Hang et al. 2023, equation 6. truncated_snr: Salimans & Ho 2022, section 4."""


def simple(regress: str = "eps", weighting: str = "uniform") -> Objective:
    """Mean squared error of what the network predicts. Ho et al. 2020, equation 14 for "eps"; the article's loss.

    Args:
      regress: the quantity compared, a name of PREDICTIONS, usually the one that the network outputs. The errors differ
        by a factor of t alone: eps by SNR(t) from x_0, v by 1 + SNR(t), mu by the square of its coefficient.
      weighting: over times, a name of WEIGHTINGS; all but "uniform" fix that factor themselves.

    Raises:
      ValueError: a name is unknown.
    """
    for table, name, kind in ((PREDICTIONS, regress, "prediction"), (WEIGHTINGS, weighting, "weighting")):
        if name not in table:
            raise ValueError(f"unknown {kind} {name!r}: choose one of {', '.join(table)}")
    weight = WEIGHTINGS[weighting]

    def loss(drawn: NoisyBatch, denoiser: Denoiser) -> Float[Array, " b"]:
        step, prediction = drawn.step, denoiser(drawn.x_t, drawn.step.t)
        if weight is not None:
            snr = (step.signal / step.noise) ** 2
            return per_example(weight(snr) * (drawn.x_0 - prediction.x_0) ** 2)
        wanted = target(drawn.schedule, drawn.x_0, step.t, drawn.eps, regress)
        got = target(drawn.schedule, prediction.x_0, step.t, prediction.eps, regress)
        return per_example((wanted - got) ** 2)

    return loss


def mu_mse() -> Objective:
    """||mu-tilde - mu_hat||^2 per dimension, the mean of the posterior. Ho et al. 2020, table 2 ("mu, MSE")."""

    def loss(drawn: NoisyBatch, denoiser: Denoiser) -> Float[Array, " b"]:
        difference = drawn.step.mean_x_0 * (drawn.x_0 - denoiser(drawn.x_t, drawn.step.t).x_0)
        return per_example(difference**2)

    return loss


def vlb(choice: ReverseVariance, chain: Steps) -> Objective:
    """K times the term of the bound at a drawn step, nats per dimension. Ho et al. 2020, equation 5; table 2 ("L").

    KL(q(x_s | x_t, x_0) || p(x_s | x_t)) for s >= 1, and -log p(x_0 | x_tau_1) at s = 0.

    Args:
      choice: of the variance; a headless one takes tb(1, 2) at s = 0, as in the papers.
      chain: its K steps are those that training draws.

    Raises:
      ValueError: the choice has no bound or does not fit the chain.
    """
    if not choice.bound:
        raise ValueError("this variance has no likelihood bound: choose another --variance for the loss")
    variances.check_steps(choice, chain)

    def loss(drawn: NoisyBatch, denoiser: Denoiser) -> Float[Array, " b"]:
        return chain.K * bound_term(choice, chain, drawn, denoiser(drawn.x_t, drawn.step.t))

    return loss


def bound_term(choice: ReverseVariance, chain: Steps, drawn: NoisyBatch, prediction: Prediction) -> Float[Array, " b"]:
    """One term of the bound, nats per dimension; see `vlb`. Ho et al. 2020, equation 5.

    Numerics: finite for every step, those that `where` leaves out as well, so that gradients are.
    """
    step = drawn.step
    log_var: LogVar
    if choice.headless:
        fixed = variances.table(choice, chain)
        table = np.where(variances.beside(chain.s == 0, fixed), process.decoder_log_var(drawn.schedule), fixed)
        log_var = variances.beside(jnp.asarray(table, drawn.x_0.dtype)[drawn.k], drawn.x_0)
    else:
        log_var = choice.log_var(step, drawn.x_t, prediction)
    mean = process.mean(step, prediction.x_0, drawn.x_t)
    model = Gaussian(mean, jnp.broadcast_to(log_var, mean.shape), choice.basis)
    posterior = Gaussian(process.mean(step, drawn.x_0, drawn.x_t), step.log_tb_floored)
    return jnp.where(step.s == 0, -_decoded(drawn, model), gaussian.kl(posterior, model))


def _decoded(drawn: NoisyBatch, decoder: Gaussian) -> Float[Array, " b"]:
    """log p(x_0 | x_tau_1): of grey levels a mass, of other data a density."""
    if drawn.levels is None:
        return gaussian.log_prob(decoder, drawn.x_0)
    return gaussian.discretised_log_prob(decoder, drawn.x_0, drawn.levels)


def hybrid(choice: ReverseVariance, chain: Steps, regress: str = "eps", weighting: str = "uniform") -> Objective:
    """simple + lambda vlb, the mean of vlb without gradient: the variance learns from the bound, the mean from the
    error. Nichol & Dhariwal 2021, equation 16: lambda = 0.001, vlb in bits per dimension as in the released code.

    Raises:
      ValueError: see `simple` and `vlb`; or the choice has no head to learn.
    """
    if not choice.heads:
        raise ValueError("objective 'hybrid' trains the head of a variance and this one has none: choose learned_range")
    of_mean, of_variance = simple(regress, weighting), vlb(choice, chain)

    def loss(drawn: NoisyBatch, denoiser: Denoiser) -> Float[Array, " b"]:
        prediction = denoiser(drawn.x_t, drawn.step.t)
        still = prediction._replace(
            eps=jax.lax.stop_gradient(prediction.eps), x_0=jax.lax.stop_gradient(prediction.x_0)
        )
        bits = of_variance(drawn, lambda x_t, t: still) / float(np.log(2))
        return of_mean(drawn, lambda x_t, t: prediction) + 0.001 * bits

    return loss


class LossOptions(NamedTuple):
    """What the objectives of OBJECTIVES are built from.

    Attributes:
      regress: see `simple`.
      weighting: see `simple`.
      choice: see `vlb`.
      chain: see `vlb`.
    """

    regress: str
    weighting: str
    choice: ReverseVariance
    chain: Steps


OBJECTIVES: dict[str, Callable[[LossOptions], Objective]] = {
    "simple": lambda options: simple(options.regress, options.weighting),
    "mu_mse": lambda options: mu_mse(),
    "vlb": lambda options: vlb(options.choice, options.chain),
    "hybrid": lambda options: hybrid(options.choice, options.chain, options.regress, options.weighting),
}


def build(name: str, options: LossOptions) -> Objective:
    """The objective called `name`.

    Raises:
      ValueError: no objective has this name, it does not fit the options, or would leave a head or a weighting idle.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}: choose one of {', '.join(OBJECTIVES)}")
    if name not in ("vlb", "hybrid") and options.choice.heads:
        raise ValueError(f"objective {name!r} does not train the head of the variance: choose vlb or hybrid")
    if name not in ("simple", "hybrid") and options.weighting != "uniform":
        raise ValueError(f"weighting {options.weighting!r} has no effect on objective {name!r}: leave it out")
    return OBJECTIVES[name](options)
