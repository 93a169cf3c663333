"""What the figures of an ablation draw, from the moments of one pass: functions of t rather than totals.

Rows are plain dicts, as results.json keeps them; KL terms and rates in bits/dim.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ddpm_jax import process, trajectory, variance
from ddpm_jax.eval import elbo
from ddpm_jax.eval.ablation import OPTIMAL, Choices
from ddpm_jax.eval.moments import Moments, effective_variance, mean_error, mean_excess, standard_error
from ddpm_jax.schedule import Schedule

Row = dict[str, Any]


def per_time(schedule: Schedule, moments: Moments, clamp_cov: bool) -> Row:
    """M_t, 1 - Gamma_t and c_eff(t) of the calibration images for t = 1..T, and where the covariance is clamped."""
    times = np.arange(1, schedule.T + 1)
    excess, error = mean_excess(moments), mean_error(moments)
    clamped = ((excess[1:] < 0) | (excess[1:] > process.steps(schedule, times).excess_max)) & clamp_cov
    return dict(
        t=times.tolist(),
        error=error[1:].tolist(),
        error_standard_error=standard_error(moments.error)[1:].tolist(),
        excess=excess[1:].tolist(),
        excess_standard_error=standard_error(moments.excess)[1:].tolist(),
        c_eff=effective_variance(schedule, error)[1:].tolist(),
        clamped_share=clamped.astype(float).tolist(),
    )


def chosen(choices: Choices) -> dict[str, dict[str, list[int]]]:
    """The optimal trajectories, by K and variance, with the even one under "even"."""
    found: dict[str, dict[str, list[int]]] = {}
    for (name, path, K), times in choices.times.items():
        if path == OPTIMAL:
            even = trajectory.even(choices.schedule.T, K).tolist()
            found.setdefault(str(K), {"even": even})[name] = times.tolist()
    return found


def between_the_bounds(choices: Choices, K: int) -> Row:
    """sigma^2 of every choice on the even chain of K steps, with tb, b and the upper bound b/a; s = 0 left out."""
    every = process.steps(choices.schedule, trajectory.even(choices.schedule.T, K))
    tables = {name: np.exp(variance.table(choice, every)) for name, choice in choices.variances.items()}
    return dict(
        K=K,
        t=every.t[1:].tolist(),
        lower=every.tb[1:].tolist(),
        beta=every.b[1:].tolist(),
        upper=(every.b / every.a)[1:].tolist(),
        choices={name: table[1:].tolist() for name, table in tables.items() if choices.variances[name].bound},
    )


def terms(choices: Choices, moments: Moments, Ks: Sequence[int]) -> list[Row]:
    """The KL terms of every choice on even chains, step by step with s >= 1, and their standard errors over images."""
    found = []
    for K in Ks:
        every = process.steps(choices.schedule, trajectory.even(choices.schedule.T, K))
        rows = {}
        for name, choice in choices.variances.items():
            if choice.bound:
                kl = elbo.step_terms(every, variance.table(choice, every), moments) / elbo.NATS_PER_BIT
                rows[name] = dict(kl=kl.mean(axis=0).tolist(), standard_error=standard_error(kl).tolist())
        found.append(dict(K=K, t=every.t[1:].tolist(), choices=rows))
    return found


def rate_distortion(choices: Choices, moments: Moments, K: int) -> Row:
    """Progressive lossy coding along the even chain of K steps. Ho et al. 2020, section 4.3 and figure 5.

    Once x_t is known, L_T and the KL terms of the steps down to t have been sent (the rate, bits/dim), and x_0_hat(x_t)
    is off by the distortion: root mean square, in units of a scale 0..255, sqrt((1 - alpha_bar_t)/alpha_bar_t M_t) on
    [-1, 1].
    """
    every = process.steps(choices.schedule, trajectory.even(choices.schedule.T, K))
    distortion = np.sqrt(mean_error(moments)[every.t] / every.excess_max) * 127.5
    prior, rates = moments.prior.mean() / elbo.NATS_PER_BIT, {}
    for name, choice in choices.variances.items():
        if choice.bound:
            kl = elbo.step_terms(every, variance.table(choice, every), moments).mean(axis=0) / elbo.NATS_PER_BIT
            rates[name] = (prior + np.append(kl[::-1].cumsum()[::-1], 0.0)).tolist()
    return dict(K=K, t=every.t.tolist(), distortion=distortion.tolist(), choices=rates)
