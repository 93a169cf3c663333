"""Checks of the likelihood that should come out as foreseen: a control that must lose, a formula, memorising.

All from the moments of one pass; likelihoods in bits/dim. Rows are plain dicts, as results.json keeps them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ddpm_jax import process, reverse, trajectory, variance
from ddpm_jax.eval import elbo
from ddpm_jax.eval.moments import Moments, mean_error
from ddpm_jax.schedule import Schedule
from ddpm_jax.variance import Calibration

Row = dict[str, Any]


def negative_control(schedule: Schedule, moments: Moments, Ks: Sequence[int], factor: float = 1.7) -> list[Row]:
    """`large` and `factor` times it on even chains: the second must lose."""
    right = variance.large(schedule)
    found = []
    for K in Ks:
        steps = process.steps(schedule, trajectory.even(schedule.T, K))
        pair = [elbo.bits_per_dim(steps, choice, moments) for choice in (right, reverse.scaled(right, factor))]
        error = elbo.paired_standard_error(*pair)
        found.append(
            dict(
                K=K,
                large=float(pair[0].total),
                scaled=float(pair[1].total),
                difference=float(pair[1].total - pair[0].total),
                paired_standard_error=error,
            )
        )
    return found


def gap_check(calibration: Calibration, moments: Moments) -> Row:
    """`large` minus `isotropic` at K = T on the judging images, from the table's code and from the closed forms.

    large: 1/2 [rho (1 + u M) - 1 - log rho]; isotropic fixed by M' and judged by M: 1/2 [(1 + u M)/(1 + u M') - 1 +
    log(1 + u M')].
    """
    schedule = calibration.schedule
    steps = process.steps(schedule, trajectory.even(schedule.T, schedule.T))
    pair = [
        elbo.bits_per_dim(steps, variance.build(name, calibration), moments).total for name in ("large", "isotropic")
    ]
    t = np.arange(2, schedule.T + 1)
    snr = np.asarray(schedule.alpha_bar[1:] / schedule.one_minus_alpha_bar[1:])
    u = np.divide(snr[:-1], snr[1:], out=snr[:-1] + 1, where=snr[1:] > 0) - 1  # SNR(s) where no data are left at t
    rho = schedule.one_minus_alpha_bar[t - 1] / schedule.one_minus_alpha_bar[t]
    judged, fixed = mean_error(moments)[t], variance.measured(calibration.error, "M_t", schedule)[t]
    large = 0.5 * (rho * (1 + u * judged) - 1 - np.log(rho))
    isotropic = 0.5 * ((1 + u * judged) / (1 + u * fixed) - 1 + np.log1p(u * fixed))
    formula = (large - isotropic).sum() / elbo.NATS_PER_BIT
    return dict(K=schedule.T, from_table=float(pair[0] - pair[1]), from_formula=float(formula))


def memorising(calibration: Calibration, train: Moments, test: Moments, K: int) -> Row:
    """How much better the bound of training images is, under `isotropic` on the even chain of K steps."""
    steps = process.steps(calibration.schedule, trajectory.even(calibration.schedule.T, K))
    choice = variance.build("isotropic", calibration)
    seen, unseen = (elbo.bits_per_dim(steps, choice, split) for split in (train, test))
    return dict(
        K=K,
        train_bits_per_dim=float(seen.total),
        test_bits_per_dim=float(unseen.total),
        gap=float(unseen.total - seen.total),
        gap_standard_error=float(np.hypot(seen.standard_error, unseen.standard_error)),
        train_images=len(seen.per_image),
    )
