"""The likelihood table: every variance x trajectory x K, from the moments of calibration and test images.

Calibration moments fix the variances and the optimal trajectories; test moments judge them. Rows are plain dicts, as
results.json keeps them; likelihoods in bits/dim.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax import process, trajectory, variance
from ddpm_jax.eval import elbo
from ddpm_jax.eval.moments import Moments, effective_variance, mean_error, mean_excess, standard_error
from ddpm_jax.schedule import Schedule
from ddpm_jax.variance import Calibration, ReverseVariance

Row = dict[str, Any]
Cell = tuple[str, str, int]
OPTIMAL = "optimal"


class Choices(NamedTuple):
    """The variances of one ablation, fixed by calibration images, and the times each visits.

    Attributes:
      schedule: the forward process.
      variances: by name.
      times: by (variance, trajectory, K); `optimal` only where there is a likelihood bound.
    """

    schedule: Schedule
    variances: dict[str, ReverseVariance]
    times: dict[Cell, np.ndarray]


def calibrate(schedule: Schedule, moments: Moments, frac: float, c: float | None, clamp_cov: bool) -> Calibration:
    """What the registry needs, from the moments of the calibration images; c defaults to their mean variance."""
    c = moments.variance if c is None else c
    return Calibration(schedule, frac, c, mean_excess(moments), mean_error(moments), clamp_cov)


def choose(calibration: Calibration, names: Sequence[str], trajectories: Sequence[str], Ks: Sequence[int]) -> Choices:
    """Build the variances and every chain's times.

    Args:
      calibration: see `calibrate`.
      names: of VARIANCES.
      trajectories: of TRAJECTORIES, or "optimal", chosen for each variance on the calibration moments.
      Ks: numbers of steps.

    Raises:
      ValueError: an unknown name, or K outside 1..T.
    """
    schedule = calibration.schedule
    times: dict[Cell, np.ndarray] = {}
    variances = {name: variance.build(name, calibration) for name in names}
    for name, choice in variances.items():
        for path in trajectories:
            if path == OPTIMAL and not choice.bound:
                continue
            if path == OPTIMAL:
                error = variance.measured(calibration.error, "M_t", schedule)
                found = trajectory.cheapest_paths(elbo.cost(schedule, choice, error), Ks)
            else:
                found = {K: trajectory.named(path, schedule.T, K) for K in Ks}
            times |= {(name, path, K): found[K] for K in Ks}
    return Choices(schedule, variances, times)


def likelihoods(choices: Choices, moments: Moments) -> dict[Cell, elbo.Likelihood | None]:
    """The bound of every cell, None where the variance has none."""
    found: dict[Cell, elbo.Likelihood | None] = {}
    for cell, times in choices.times.items():
        choice = choices.variances[cell[0]]
        if choice.bound:
            steps = process.steps(choices.schedule, times)
            found[cell] = elbo.bits_per_dim(steps, variance.table(choice, steps), moments)
        else:
            found[cell] = None
    return found


def rows(found: dict[Cell, elbo.Likelihood | None], split: str) -> list[Row]:
    """One row a cell, with differences to isotropic and to the even trajectory and their paired standard errors."""
    return [_row(cell, likelihood, found, split) for cell, likelihood in found.items()]


def _row(cell: Cell, likelihood: elbo.Likelihood | None, found: dict[Cell, elbo.Likelihood | None], split: str) -> Row:
    name, path, K = cell
    parts = ("prior", "kl", "decoder", "standard_error")
    row = dict(variance=name, trajectory=path, K=K, split=split)
    row["bits_per_dim"] = None if likelihood is None else float(likelihood.total)
    row |= {part: None if likelihood is None else float(getattr(likelihood, part)) for part in parts}
    row["minus_isotropic"], row["paired_standard_error"] = _difference(likelihood, found.get(("isotropic", path, K)))
    if path != "even":
        row["minus_even"], row["minus_even_standard_error"] = _difference(likelihood, found.get((name, "even", K)))
    return row


def _difference(a: elbo.Likelihood | None, b: elbo.Likelihood | None) -> tuple[float | None, float | None]:
    if a is None or b is None:
        return None, None
    return float(a.total - b.total), elbo.paired_standard_error(a, b)


def negative_control(schedule: Schedule, moments: Moments, Ks: Sequence[int], factor: float = 1.7) -> list[Row]:
    """`large` and `factor` times it on even chains: the second must lose."""
    right = variance.large(schedule)
    found = []
    for K in Ks:
        steps = process.steps(schedule, trajectory.even(schedule.T, K))
        pair = [
            elbo.bits_per_dim(steps, variance.table(choice, steps), moments)
            for choice in (right, variance.scaled(right, factor))
        ]
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
        elbo.bits_per_dim(steps, variance.table(variance.build(name, calibration), steps), moments).total
        for name in ("large", "isotropic")
    ]
    t = np.arange(2, schedule.T + 1)
    snr = schedule.alpha_bar[1:] / schedule.one_minus_alpha_bar[1:]
    u = snr[:-1] / snr[1:] - 1
    rho = schedule.one_minus_alpha_bar[t - 1] / schedule.one_minus_alpha_bar[t]
    judged, fixed = mean_error(moments)[t], variance.measured(calibration.error, "M_t", schedule)[t]
    large = 0.5 * (rho * (1 + u * judged) - 1 - np.log(rho))
    isotropic = 0.5 * ((1 + u * judged) / (1 + u * fixed) - 1 + np.log1p(u * fixed))
    formula = (large - isotropic).sum() / elbo.NATS_PER_BIT
    return dict(K=schedule.T, from_table=float(pair[0] - pair[1]), from_formula=float(formula))


def memorising(calibration: Calibration, train: Moments, test: Moments, K: int) -> Row:
    """How much better the bound of training images is, under `isotropic` on the even chain of K steps."""
    steps = process.steps(calibration.schedule, trajectory.even(calibration.schedule.T, K))
    log_var = variance.table(variance.build("isotropic", calibration), steps)
    seen, unseen = (elbo.bits_per_dim(steps, log_var, split) for split in (train, test))
    return dict(
        K=K,
        train_bits_per_dim=float(seen.total),
        test_bits_per_dim=float(unseen.total),
        gap=float(unseen.total - seen.total),
        gap_standard_error=float(np.hypot(seen.standard_error, unseen.standard_error)),
        train_images=len(seen.per_image),
    )


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
    """The optimal trajectories, by K and variance."""
    found: dict[str, dict[str, list[int]]] = {}
    for (name, path, K), times in choices.times.items():
        if path == OPTIMAL:
            found.setdefault(str(K), {})[name] = times.tolist()
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
