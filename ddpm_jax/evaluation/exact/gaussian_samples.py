"""The sampler against the recursion: what chains of every choice leave of Gaussian data, drawn and computed.

The data are independent along the axes of a choice's own basis, so that every choice is diagonal where they are; heads
are those that perfect training would give.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from jaxtyping import Float, Int

from ddpm_jax.diffusion import conventions, process, toy, variances
from ddpm_jax.diffusion.bases import Basis
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.denoiser import Denoiser, Images, Prediction
from ddpm_jax.diffusion.process import Kernel, Steps
from ddpm_jax.diffusion.random_keys import OneKey
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.toy import ToyData
from ddpm_jax.diffusion.variances import Calibration, ReverseVariance
from ddpm_jax.evaluation import likelihood, samples
from ddpm_jax.evaluation.exact import gaussian_chain
from ddpm_jax.evaluation.exact.gaussian_chain import Final

Row = dict[str, Any]


class Data(NamedTuple):
    """N(mean, c), with independent coefficients.

    Attributes:
      mean: one number.
      c: variances (H, W, C); their distinct values are the levels that results are given for.
    """

    mean: float
    c: Float[np.ndarray, "h w c"]


class _Known(NamedTuple):
    """What all chains of a comparison share."""

    key: OneKey
    schedule: Schedule
    data: Data
    toy_data: ToyData
    n: int


class _Turned(NamedTuple):
    """A denoiser of coefficients as one of pixels; hashes by value, so that the sampler compiles it once."""

    basis: Basis

    def __call__(self, denoiser: Denoiser, x_t: Images, t: Int[Array, " b"]) -> Prediction:
        found = denoiser(self.basis.forward(x_t), t)
        return found._replace(eps=self.basis.inverse(found.eps), x_0=self.basis.inverse(found.x_0))


def compare(
    key: OneKey, schedule: Schedule, data: Data, times: np.ndarray, kernels: dict[str, Kernel], n: int
) -> list[Row]:
    """P_0 and the mean's error of every choice of VARIANCES on one chain: by the recursion P_s = slope^2 P_t + sigma^2,
    and of samples, whose variance has the standard error P sqrt(2/n).

    Numerics: samples are drawn in float32. A head of `ocm` is h - 1, which resolves h to 6e-8; a single step from
    t = T multiplies that by v, 2.5e4 for the linear schedule. Longer chains do not notice.

    Args:
      key: of the noise, which all choices share.
      schedule: the forward process.
      data: what is modelled.
      times: of the chain.
      kernels: by the name that rows carry; choices that are not base + gain h take part with DDPM's alone.
      n: samples a chain.

    Returns:
      One row a choice, kernel and last step; lists have one entry a level of the data, and z counts standard errors.
    """
    fixed = Calibration(schedule, clamp_cov=False, learned_times=tuple(np.asarray(times).tolist()))
    known = likelihood.calibrate(fixed, gaussian_chain.moments(schedule, data.c))
    toy_data = toy.gaussian(schedule, np.full(data.c.shape, data.mean), data.c)
    shared, rows = _Known(key, schedule, data, toy_data, n), []
    for name in variances.VARIANCES:
        choice = variances.build(name, known)
        for label, kernel in kernels.items():
            steps = process.steps(schedule, times, kernel)
            if choice.every_kernel or np.array_equal(steps.base, steps.tb):
                for last_step in ("noise", "mean"):
                    row = dict(variance=name, kernel=label, K=steps.K, last_step=last_step)
                    rows.append(row | _one(shared, choice, steps, last_step))
    return rows


def _one(known: _Known, choice: ReverseVariance, steps: Steps, last_step: str) -> Row:
    """One row's numbers."""
    data, toy_data = known.data, known.toy_data
    rules = Rules(last_step, clip_x_0=False, clamp_cov=False)
    denoiser = toy_data.denoiser if choice.headless else toy.exact_heads(toy_data, steps)
    cap = variances.beside(conventions.log_var_cap(rules, steps), data.c[None])
    log_var = np.minimum(fixed_log_var(choice, steps, denoiser, data.c.shape), cap)
    exact = gaussian_chain.final(known.schedule, steps, log_var, data.c, data.mean)
    seen_in_pixels = Partial(_Turned(choice.basis), denoiser)
    (x_0,) = samples.sample_each(known.key, steps, seen_in_pixels, (choice,), (known.n, *data.c.shape), rules)
    drawn = np.asarray(choice.basis.forward(x_0), np.float64)
    scores = [_score(data, float(level), exact, drawn) for level in np.unique(data.c)]
    return {name: [score[name] for score in scores] for name in scores[0]}


def _score(data: Data, level: float, exact: Final, drawn: np.ndarray) -> dict[str, float]:
    """One level of the data: its coefficients may end with different P_0, so each is counted in its own."""
    at = data.c == level
    P, error, deviation = exact.variance[at], exact.error[at], drawn[:, at] - data.mean - exact.error[at]
    count = deviation.size
    return dict(
        level=float(level),
        variance_exact=float(P.mean()),
        variance_drawn=float((deviation**2).mean()),
        variance_z=float(((deviation**2 / P).mean() - 1) / np.sqrt(2 / count)),
        error_exact=float(error.mean()),
        error_z=float((deviation / np.sqrt(P)).mean() * np.sqrt(count)),
    )


def fixed_log_var(
    choice: ReverseVariance, steps: Steps, denoiser: Denoiser, shape: tuple[int, ...]
) -> Float[np.ndarray, "K *x"]:
    """log sigma^2 of every step, in nats, of a choice that is the same at every x_t for these data: read at x_t = 0.

    Args:
      choice: headless, or with exact heads of Gaussian data.
      steps: the chain.
      denoiser: with the heads that the choice reads.
      shape: (H, W, C) of the data.
    """
    if choice.headless:
        table = variances.table(choice, steps)
        return np.broadcast_to(variances.beside(table, np.empty((1, *shape))), (steps.K, *shape))
    every = Steps(*(variances.beside(column, np.empty((1, *shape))) for column in steps))
    nothing = jnp.zeros((steps.K, *shape), jnp.float32)
    prediction = denoiser(nothing, jnp.asarray(steps.t))
    return np.asarray(choice.log_var(every, nothing, prediction), np.float64)
