"""What the figures and checks of an ablation show, from the moments of one pass: functions of t rather than totals.

Among the checks are a control that must lose, a difference against its formula, and memorising. Rows are plain dicts,
as results.json keeps them; KL terms, rates and likelihoods in bits/dim.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ddpm_jax.diffusion import bases, process, timesteps, variances
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.variances import Calibration, ReverseVariance
from ddpm_jax.evaluation import likelihood, step_kl
from ddpm_jax.evaluation.likelihood import OPTIMAL, Choices
from ddpm_jax.evaluation.moments import Moments, effective_variance, mean_error, mean_excess, standard_error
from ddpm_jax.evaluation.step_kl import Table

Row = dict[str, Any]


SPECTRA = (0.05, 0.1, 0.3, 0.6)  # of T: the times whose spectra are shown


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
            even = timesteps.even(choices.schedule.T, K).tolist()
            found.setdefault(str(K), {"even": even})[name] = times.tolist()
    return found


def kinds(choices: Choices) -> dict[str, str]:
    """What fixes every variance, see `variances.Variance`."""
    return {name: variances.find(name)[0].kind for name in choices.variances}


def shown_times(T: int) -> list[int]:
    """The times whose spectra are shown."""
    return sorted({max(round(share * T), 1) for share in SPECTRA})


def spectrum(moments: Moments) -> Row | None:
    """M_{t,j} of calibration images against the radius of its frequency at a few t; None where it was not measured.

    Returns:
      rows: at every t and colour axis (0 is the widest) the mean of M_{t,j} over each radial bin, with its standard
        error over images. noise: at every t the median relative standard error of the full table and of its radial
        averages, which says how much of what the full table shows is noise.
    """
    if moments.spectrum is None or moments.spectrum_error is None or moments.radial_error is None:
        return None
    T, (height, width, colours) = len(moments.spectrum) - 1, moments.spectrum.shape[1:]
    bins = bases.radial_bins((height, width, colours))
    first = np.unique(bins.ravel(), return_index=True)[1]
    radius, axis = bins.ravel()[first] % (bins[..., 0].max() + 1), first % colours
    rows, noise = [], []
    for t in shown_times(T):
        full = moments.spectrum[t]
        mean, error = bases.averaged(full, bins).ravel()[first], moments.radial_error[t].ravel()[first]
        relative = np.median(moments.spectrum_error[t] / full), np.median(error / mean)
        noise.append(dict(t=t, full=float(relative[0]), radial=float(relative[1])))
        for each in range(colours):
            columns = dict(radius=radius, mean=mean, standard_error=error)
            rows.append(dict(t=t, axis=each) | {key: column[axis == each].tolist() for key, column in columns.items()})
    return dict(rows=rows, noise=noise)


def between_the_bounds(choices: Choices, K: int, moments: Moments) -> Row:
    """sigma^2 of every choice on the even chain of K steps, with tb, b and the upper bound b/a; s = 0 left out.

    Of a choice that is not one number a step, its geometric mean over coefficients and images.
    """
    every = process.steps(choices.schedule, timesteps.even(choices.schedule.T, K))
    typical = {
        name: np.exp(_log_var(choice, every, moments.tables.get(name)))
        for name, choice in choices.variances.items()
        if choice.bound and variances.fits(choice, every.t)
    }
    return dict(
        K=K,
        t=every.t[1:].tolist(),
        lower=every.tb[1:].tolist(),
        beta=every.b[1:].tolist(),
        upper=(every.b[1:] / every.a[1:]).tolist(),
        choices={name: values.tolist() for name, values in typical.items()},
    )


def _log_var(choice: ReverseVariance, steps: process.Steps, tabulated: Table | None) -> np.ndarray:
    """log sigma^2 of the steps with s >= 1, averaged where it is not one number."""
    if choice.headless:
        log_var = variances.table(choice, steps)
        return log_var.reshape(steps.K, -1).mean(axis=1)[1:]
    if tabulated is None:
        return np.full(steps.K - 1, np.nan)
    later = zip(steps.t[1:], steps.u[1:], strict=True)
    ratio = [np.interp(np.log(u), np.log(tabulated.u[t]), tabulated.log_ratio[t]) for t, u in later]
    return steps.log_base[1:] + np.asarray(ratio)


def evaluations(choices: Choices, measured: dict[str, Moments]) -> Row:
    """Network evaluations that the likelihood table took, as counted, and what one cell at a time would take:
    images x K for every cell of the test table.
    """
    test = len(measured["test"].error)
    bounds = [cell for cell in choices.times if choices.variances[cell[0]].bound]
    return dict(
        counted={split: found.evaluations for split, found in measured.items()},
        one_pass={split: found.error.shape[0] * choices.schedule.T for split, found in measured.items()},
        cells=len(bounds),
        one_cell_at_a_time=test * sum(K for _, _, K in bounds),
    )


def clamped(moments: Moments) -> dict[str, list[float]]:
    """The share of estimates that were moved into their bounds at t = 1..T, of every variance that looks at x_t."""
    return {name: table.clamped[1:].tolist() for name, table in moments.tables.items()}


def terms(choices: Choices, moments: Moments, Ks: Sequence[int]) -> list[Row]:
    """The KL terms of every choice on even chains, step by step with s >= 1, and their standard errors over images."""
    found = []
    for K in Ks:
        every = process.steps(choices.schedule, timesteps.even(choices.schedule.T, K))
        rows = {
            name: dict(kl=kl.mean(axis=0).tolist(), standard_error=standard_error(kl).tolist())
            for name, kl in _terms(choices, moments, every).items()
        }
        found.append(dict(K=K, t=every.t[1:].tolist(), choices=rows))
    return found


def _terms(choices: Choices, moments: Moments, steps: process.Steps) -> dict[str, np.ndarray]:
    """The steps' KL of every choice that has them, (n, K - 1), bits/dim."""
    return {
        name: likelihood.step_terms(steps, choice, moments, moments.tables.get(name)) / likelihood.NATS_PER_BIT
        for name, choice in choices.variances.items()
        if choice.bound
        and variances.fits(choice, steps.t)
        and (name in moments.tables or not step_kl.needs_table(choice, choices.schedule))
    }


def rate_distortion(choices: Choices, moments: Moments, K: int) -> Row:
    """Progressive lossy coding along the even chain of K steps. Ho et al. 2020, section 4.3 and figure 5.

    Once x_t is known, L_T and the KL terms of the steps down to t have been sent (the rate, bits/dim), and x_0_hat(x_t)
    is off by the distortion: root mean square, in units of a scale 0..255, sqrt((1 - alpha_bar_t)/alpha_bar_t M_t) on
    [-1, 1].
    """
    every = process.steps(choices.schedule, timesteps.even(choices.schedule.T, K))
    distortion = np.sqrt(mean_error(moments)[every.t] / every.excess_max) * 127.5
    prior = moments.prior.mean() / likelihood.NATS_PER_BIT
    rates = {
        name: (prior + np.append(kl.mean(axis=0)[::-1].cumsum()[::-1], 0.0)).tolist()
        for name, kl in _terms(choices, moments, every).items()
    }
    return dict(K=K, t=every.t.tolist(), distortion=distortion.tolist(), choices=rates)


def negative_control(schedule: Schedule, moments: Moments, Ks: Sequence[int], factor: float = 1.7) -> list[Row]:
    """`large` and `factor` times it on even chains: the second must lose."""
    right = variances.large(schedule)
    found = []
    for K in Ks:
        steps = process.steps(schedule, timesteps.even(schedule.T, K))
        pair = [likelihood.bits_per_dim(steps, choice, moments) for choice in (right, variances.scaled(right, factor))]
        error = likelihood.paired_standard_error(*pair)
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
    steps = process.steps(schedule, timesteps.even(schedule.T, schedule.T))
    pair = [
        likelihood.bits_per_dim(steps, variances.build(name, calibration), moments).total
        for name in ("large", "isotropic")
    ]
    t = np.arange(2, schedule.T + 1)
    snr = np.asarray(schedule.alpha_bar[1:] / schedule.one_minus_alpha_bar[1:])
    u = np.divide(snr[:-1], snr[1:], out=snr[:-1] + 1, where=snr[1:] > 0) - 1  # SNR(s) where no data are left at t
    rho = schedule.one_minus_alpha_bar[t - 1] / schedule.one_minus_alpha_bar[t]
    judged, fixed = mean_error(moments)[t], np.asarray(calibration.error)[t]
    large = 0.5 * (rho * (1 + u * judged) - 1 - np.log(rho))
    isotropic = 0.5 * ((1 + u * judged) / (1 + u * fixed) - 1 + np.log1p(u * fixed))
    formula = (large - isotropic).sum() / likelihood.NATS_PER_BIT
    return dict(K=schedule.T, from_table=float(pair[0] - pair[1]), from_formula=float(formula))


def memorising(calibration: Calibration, train: Moments, test: Moments, K: int) -> Row:
    """How much better the bound of training images is, under `isotropic` on the even chain of K steps."""
    steps = process.steps(calibration.schedule, timesteps.even(calibration.schedule.T, K))
    choice = variances.build("isotropic", calibration)
    seen, unseen = (likelihood.bits_per_dim(steps, choice, split) for split in (train, test))
    return dict(
        K=K,
        train_bits_per_dim=float(seen.total),
        test_bits_per_dim=float(unseen.total),
        gap=float(unseen.total - seen.total),
        gap_standard_error=float(np.hypot(seen.standard_error, unseen.standard_error)),
        train_images=len(seen.per_image),
    )
