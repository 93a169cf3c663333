"""Training losses, one number per example.

An objective is (schedule, denoiser, x_0, t, eps) -> (b,) loss per dimension; it diffuses the data, asks the denoiser
and scores what it says.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from ddpm_jax.predict import PREDICTIONS, Denoiser, Images, target
from ddpm_jax.process import diffuse
from ddpm_jax.schedule import Schedule

Objective = Callable[[Schedule, Denoiser, Images, Int[Array, " b"], Images], Float[Array, " b"]]


def simple(regress: str = "eps") -> Objective:
    """Mean squared error of what the network predicts. Ho et al. 2020, equation 14 for "eps"; the article's loss.

    Args:
      regress: the quantity compared, a name of PREDICTIONS, usually the one that the network outputs. The errors differ
        by a factor of t alone: eps by SNR(t) from x_0, v by 1/(1 - alpha_bar_t) from x_0.

    Raises:
      ValueError: the name is unknown.
    """
    if regress not in PREDICTIONS:
        raise ValueError(f"unknown prediction {regress!r}: choose one of {', '.join(PREDICTIONS)}")

    def loss(
        schedule: Schedule, denoiser: Denoiser, x_0: Images, t: Int[Array, " b"], eps: Images
    ) -> Float[Array, " b"]:
        prediction = denoiser(diffuse(schedule, x_0, t, eps), t)
        wanted = target(schedule, x_0, t, eps, regress)
        got = target(schedule, prediction.x_0, t, prediction.eps, regress)
        return jnp.mean((wanted - got) ** 2, axis=tuple(range(1, x_0.ndim)))

    return loss


OBJECTIVES: dict[str, Callable[[str], Objective]] = {"simple": simple}


def build(name: str, regress: str) -> Objective:
    """The objective called `name`.

    Raises:
      ValueError: no objective has this name.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}: choose one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name](regress)
