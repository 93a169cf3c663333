"""Reverse variances that are trained: they read extra outputs of the denoiser, its heads, and depend on x_t.

Heads come in natural units (`predict.Prediction.heads`), each under the name of the choice that reads it: a network of
their own on a frozen denoiser (`frozen`), extra channels trained with the mean, or the closed form of a world.

Equal arguments give the same object, so that jitted users do not compile again.
"""

from functools import lru_cache
from typing import Any

from ddpm_jax.predict import Prediction
from ddpm_jax.process import Steps
from ddpm_jax.reverse import LogVar, ReverseVariance, estimated


def read(prediction: Prediction | None, name: str) -> Any:
    """One head of a prediction: heads[name].

    Raises:
      ValueError: the denoiser has no such head.
    """
    there = (prediction.heads if prediction else None) or {}
    if name not in there:
        raise ValueError(
            f"the variance {name!r} reads a head of that name and the denoiser has {', '.join(there) or 'none'}: train "
            "it with experiments.train_heads, or a network with it"
        )
    return there[name]


@lru_cache
def learned(times: tuple[int, ...] | None) -> ReverseVariance:
    """log sigma^2 is the head itself. Ho et al. 2020, table 2 ("learned diagonal").

    Args:
      times: of the chain it was trained on, whose steps alone it knows; None where it is exact for the steps it meets.
    """

    def log_var(step: Steps, x_t: Any, prediction: Prediction | None) -> LogVar:
        return read(prediction, "learned")

    return ReverseVariance(log_var, ("learned",), headless=False, times=times)


@lru_cache
def learned_range(clamp: bool = False) -> ReverseVariance:
    """log sigma^2 = f log b + (1 - f) log tb with f = (head + 1)/2. Nichol & Dhariwal 2021, equation 15.

    f is free: the best one, log(1 + u M)/log(1/rho), exceeds 1 where the data's variance does. At s = 0, where
    log tb = -inf, the step carries a stand-in.

    Args:
      clamp: hold the head within [-1, 1], and so sigma^2 within [tb, b].
    """

    def log_var(step: Steps, x_t: Any, prediction: Prediction | None) -> LogVar:
        head = read(prediction, "learned_range")
        head = head.__array_namespace__().clip(head, -1, 1) if clamp else head
        return step.log_tb_floored + (head + 1) / 2 * (step.log_b - step.log_tb_floored)

    return ReverseVariance(log_var, ("learned_range",), headless=False)


@lru_cache
def npr(clamp_cov: bool = True) -> ReverseVariance:
    """h = g(x_t, t), fitted to (eps - eps_hat)^2: the noise prediction residual. Bao et al. 2022b, section 4.

    Right for a network whose mean is wrong, too: then h is its expected squared error.

    Args:
      clamp_cov: see `reverse.from_bounded_excess`.
    """
    return estimated(lambda step, x_t, prediction: read(prediction, "npr"), clamp_cov, heads=("npr",), headless=False)


@lru_cache
def sn(clamp_cov: bool = True) -> ReverseVariance:
    """h = g(x_t, t) - eps_hat^2, g fitted to eps^2: the squared noise. Bao et al. 2022b, section 3.

    Numerics: a difference of two numbers near 1; where h is small its error is large, and it may be clamped at 0.

    Args:
      clamp_cov: see `reverse.from_bounded_excess`.
    """

    def h(step: Steps, x_t: Any, prediction: Prediction | None) -> Any:
        return read(prediction, "sn") - prediction.eps**2  # type: ignore[union-attr]  # read() refuses None

    return estimated(h, clamp_cov, heads=("sn",), headless=False)


@lru_cache
def ocm(clamp_cov: bool = True) -> ReverseVariance:
    """h = 1 + g(x_t, t), g fitted to (1 - alpha_bar_t) r * (H r), H the Jacobian of the score, r = +-1. Ou et al. 2025
    (optimal covariance matching), section 3: the diagonal of Tweedie's second-order formula.

    Args:
      clamp_cov: see `reverse.from_bounded_excess`.
    """
    return estimated(
        lambda step, x_t, prediction: 1 + read(prediction, "ocm"), clamp_cov, heads=("ocm",), headless=False
    )
