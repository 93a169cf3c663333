"""A network that is not exact, in a Gaussian world whose moments are known."""

import numpy as np
import pytest

from ddpm_jax import schedule, variance
from ddpm_jax.eval import ablation
from ddpm_jax.eval.moments import Moments
from ddpm_jax.variance import VARIANCES

SCHEDULE = schedule.linear(60)
KS = (2, 5, 10, 60)
NAMES = tuple(VARIANCES)


def noisy_moments(seed: int, n: int = 40) -> Moments:
    """Per-image errors around those of Gaussian data with c = .4, the network a tenth worse than exact."""
    draw = np.random.default_rng(seed)
    ab, noise = SCHEDULE.alpha_bar, SCHEDULE.one_minus_alpha_bar
    with np.errstate(invalid="ignore"):
        exact = ab * 0.4 / (ab * 0.4 + noise)
    error = 1.1 * exact * draw.gamma(20, 1 / 20, (n, 61))
    excess = exact * draw.gamma(20, 1 / 20, (n, 61))
    error[:, 0] = excess[:, 0] = np.nan
    decoder = np.where(np.arange(61) > 0, draw.gamma(20, 0.05, (n, 61)), np.nan)
    return Moments(error, excess, decoder, draw.gamma(20, 1e-4, n), 0.4)


@pytest.fixture(scope="module")
def calibration() -> variance.Calibration:
    return ablation.calibrate(SCHEDULE, noisy_moments(0), 0.5, None, clamp_cov=True)


@pytest.fixture(scope="module")
def choices(calibration: variance.Calibration) -> ablation.Choices:
    return ablation.choose(calibration, NAMES, ("even", "quadratic", "optimal"), KS)
