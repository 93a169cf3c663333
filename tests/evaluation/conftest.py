"""A network that is not exact, in a Gaussian world whose moments are known, under every variance there is."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import process, schedules, timesteps, toy, variances
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.denoiser import Denoiser, Prediction
from ddpm_jax.diffusion.variances import VARIANCES
from ddpm_jax.evaluation import likelihood, moments, step_kl
from ddpm_jax.evaluation.likelihood import Comparison
from ddpm_jax.evaluation.moments import Moments
from ddpm_jax.runtime.sharding import Layout

SCHEDULE = schedules.linear(60)
KS = (2, 5, 10, 60)
NAMES = tuple(VARIANCES)
SHAPE = (4, 4, 1)
RULES = Rules(levels=256, clip_x_0=False)
ONE = Layout(devices=(jax.local_devices()[0],))
OWN_CHAIN = tuple(timesteps.even(60, 10).tolist())  # what `learned` was trained on
C = 0.005 + 0.15 * np.random.default_rng(7).random(SHAPE)  # the data's variance, pixel by pixel
UNMEASURED = variances.Calibration(SCHEDULE, learned_times=OWN_CHAIN)


def crooked(exact: Denoiser) -> Denoiser:
    """A mean that is wrong by a tenth, and heads that bend with x_t."""

    def denoiser(x_t, t):
        said = exact(x_t, t)
        noise = jnp.asarray(SCHEDULE.one_minus_alpha_bar, jnp.float32)[t].reshape(-1, 1, 1, 1)
        eps = said.eps + 0.3 * jnp.sqrt(1 - noise) * jnp.sin(3 * x_t)
        heads = {name: head * (1 + 0.2 * jnp.sin(x_t)) for name, head in (said.heads or {}).items()}
        heads["ocm"] = (1 + said.heads["ocm"]) * (1 + 0.2 * jnp.sin(x_t)) - 1
        heads["learned"] = said.heads["learned"] + 0.2 * jnp.sin(x_t)
        return Prediction(eps, (x_t - jnp.sqrt(noise) * eps) / jnp.sqrt(1 - noise), heads)

    return denoiser


DENOISER = crooked(
    toy.exact_heads(toy.gaussian(SCHEDULE, np.zeros(SHAPE), C), process.steps(SCHEDULE, list(OWN_CHAIN)))
)


def grey_levels(seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return np.round(127.5 + 127.5 * np.sqrt(C) * draw.normal(size=(40, *SHAPE))).clip(0, 255).astype(np.uint8)


@cache
def _measured(seed: int) -> tuple[Moments, variances.Calibration]:
    images = grey_levels(seed)
    known = UNMEASURED if seed == 0 else _measured(0)[1]

    def look(names, known):
        fixed = {name: (name, known) for name in names}
        return moments.measure(
            jax.random.key(seed), SCHEDULE, DENOISER, images, RULES, None, ONE, colours=known.colours, tabulated=fixed
        )

    if seed == 0:
        known = likelihood.calibrate(known, look((), known))
    return look([name for name in NAMES if name not in one_number(known)], known), known


@cache
def predicted(seed: int, t: int) -> tuple[jnp.ndarray, Prediction]:
    """What the pass over the images of `noisy_moments` looks at, at one time."""
    x_0 = jnp.asarray(grey_levels(seed) / 127.5 - 1, jnp.float32)
    keys = [jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), i), t) for i in range(len(x_0))]
    eps = jnp.stack([jax.random.normal(key, SHAPE) for key in keys])
    x_t = process.diffuse(SCHEDULE, x_0, t, eps)
    return x_t, DENOISER(x_t, jnp.full(len(x_0), t))


def noisy_moments(seed: int) -> Moments:
    """Of forty images; those of seed 0 calibrate. The caller may change the numbers."""
    found = _measured(seed)[0]
    return found._replace(error=found.error.copy(), excess=found.excess.copy(), decoder=found.decoder.copy())


def one_number(known: variances.Calibration) -> list[str]:
    """The choices that have one variance a step."""
    built = {name: variances.build(name, known) for name in NAMES}
    return [name for name, choice in built.items() if not step_kl.needs_table(choice, known.schedule)]


def defined(choices: likelihood.Choices, name: str, times: np.ndarray) -> bool:
    """The choice has a bound on this chain."""
    return choices.variances[name].bound and variances.fits(choices.variances[name], times)


@pytest.fixture(scope="module")
def calibration() -> variances.Calibration:
    return _measured(0)[1]


@pytest.fixture(scope="module")
def choices(calibration: variances.Calibration) -> likelihood.Choices:
    return likelihood.choose(calibration, Comparison(NAMES, ("even", "quadratic", "optimal"), KS), noisy_moments(0))
