"""Bits per dimension of every variance, kernel and trajectory, from the moments of one pass.

-log p(x_0) <= L_T + sum of the steps' KL + L_0 (Ho et al. 2020, equation 5). With the moments at hand a new variance or
trajectory costs no network evaluation.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from ddpm_jax import process, reverse
from ddpm_jax.eval import costs, decoders
from ddpm_jax.eval.costs import Table
from ddpm_jax.eval.moments import Moments, mean_error, standard_error
from ddpm_jax.process import Steps
from ddpm_jax.reverse import ReverseVariance
from ddpm_jax.schedule import Schedule

NATS_PER_BIT = np.log(2)


class Likelihood(NamedTuple):
    """A bound on -log2 P(x_0) per dimension and its parts, means over images, all in bits/dim.

    Attributes:
      total: prior + kl + decoder.
      prior: L_T.
      kl: sum of the steps' KL terms.
      decoder: L_0.
      standard_error: of the total, over images.
      per_image: (n,) totals.
    """

    total: float
    prior: float
    kl: float
    decoder: float
    standard_error: float
    per_image: Float64[np.ndarray, " n"]


def step_terms(
    steps: Steps, choice: ReverseVariance, moments: Moments, tabulated: Table | None = None
) -> Float64[np.ndarray, "n later"]:
    """L_(t-1) of every image and step with s >= 1, nats per dimension. Ho et al. 2020, equation 5.

    Args:
      steps: a chain.
      choice: of the variance.
      moments: of the images.
      tabulated: the choice's table of `moments`, where it is not one number a step.

    Raises:
      ValueError: a step with s >= 1 has no noise in the kernel or the model, or the table is missing.
    """
    later = process.Steps(*(column[1:] for column in steps))
    if not (later.base > 0).all() or not choice.bound:
        raise ValueError("no likelihood bound: a step of this chain has variance 0")
    reverse.check_steps(choice, steps)
    if choice.headless:
        log_var = reverse.table(choice, steps)
        if log_var.ndim == 1 and not np.isfinite(log_var[1:]).all():
            raise ValueError("no likelihood bound: a step of this chain has variance 0")
        if log_var.ndim == 1:
            return costs.step_kl(later.log_base - log_var[1:], later.u, moments.error[:, later.t])
    if tabulated is None:
        raise ValueError("this variance is not one number a step: tabulate it in the pass over the images")
    terms = np.empty((len(moments.error), later.K))
    for k, (t, u) in enumerate(zip(later.t, later.u, strict=True)):
        terms[:, k] = costs.between_nodes(tabulated.u[t], tabulated.cost[:, t], np.asarray([u]))[:, 0]
    return terms


def bits_per_dim(
    steps: Steps,
    choice: ReverseVariance,
    moments: Moments,
    tabulated: Table | None = None,
    decoder: Float64[np.ndarray, " n"] | None = None,
) -> Likelihood:
    """The bound for one chain, bits/dim: (L_T + sum of the steps' KL + L_0)/ln 2. Ho et al. 2020, equation 5.

    Args:
      steps: the chain, ending at T; kernels without noise have no bound.
      choice: of the variance; that of the last step is not used: p(x_0 | x_tau_1) is the decoder.
      moments: of the images whose likelihood is wanted.
      tabulated: see `step_terms`.
      decoder: L_0 of every image in nats per dimension; default that of variance tb(1, 2) for every choice, as in the
        papers.

    Raises:
      ValueError: the chain does not start at T, visits a time that was not measured, or has a step with s >= 1 without
        noise in the kernel or the model.
    """
    if steps.t[-1] != moments.error.shape[1] - 1:
        raise ValueError(f"the chain starts at t = {steps.t[-1]}: the bound needs T = {moments.error.shape[1] - 1}")
    unmeasured = np.isnan(moments.error[:, steps.t]).any(axis=0)
    if unmeasured.any():
        raise ValueError(f"the chain visits t = {steps.t[unmeasured.argmax()]}, which was not measured")
    kl = step_terms(steps, choice, moments, tabulated).sum(axis=1)
    decoder = moments.decoder[:, steps.t[0]] if decoder is None else decoder
    kl, decoder, prior = (term / NATS_PER_BIT for term in (kl, decoder, moments.prior))
    total = prior + kl + decoder
    return Likelihood(total.mean(), prior.mean(), kl.mean(), decoder.mean(), float(standard_error(total)), total)


def own_decoder(
    schedule: Schedule,
    choice: ReverseVariance,
    t: int,
    stand_in: Float64[np.ndarray, " k"],
    moments: Moments,
    tabulated: Table | None = None,
) -> Float64[np.ndarray, "n k"]:
    """L_0 with the variance that improved-diffusion gives p(x_0 | x_t): that of the choice itself, with a stand-in for
    tb(0, t); of choices of the form base + gain h the stand-in. Nichol & Dhariwal 2021, released code.

    Args:
      schedule: the forward process.
      choice: of the variance.
      t: tau_1.
      stand_in: for log tb(0, tau_1), nats: log tb(tau_1, tau_2) of the chain.
      moments: of the images.
      tabulated: the choice's table of `moments`, where it looks at x_t.

    Returns:
      Nats per dimension.
    """
    if decoders.has_own(choice):
        assert tabulated is not None and tabulated.decoders is not None
        return decoders.between_nodes(schedule, tabulated.decoders[:, :, t], stand_in)
    assert moments.decoders is not None
    log_var = stand_in
    if not choice.every_kernel:
        last = process.pairs(schedule, np.zeros_like(stand_in, int), np.full_like(stand_in, t, int))
        log_var = reverse.table(choice, last._replace(log_tb_floored=stand_in))
    return decoders.between_nodes(schedule, moments.decoders[:, :, t], log_var)


def paired_standard_error(a: Likelihood, b: Likelihood) -> float:
    """Standard error of d = a.total - b.total over the same images and noise: far smaller than either's own."""
    return float(standard_error(a.per_image - b.per_image))


def cost(
    schedule: Schedule,
    choice: ReverseVariance,
    moments: Moments,
    tabulated: Table | None = None,
    decoder: Float64[np.ndarray, " m"] | None = None,
) -> Float64[np.ndarray, "m m"]:
    """cost[s, t] = E KL of the step t -> s under a variance, nats per dimension, for `trajectory.optimal`.

    Args:
      schedule: the forward process.
      choice: a variance with a bound, defined at any pair of times.
      moments: of the calibration images.
      tabulated: the choice's table of them; a headless choice of the spectrum's basis needs none.
      decoder: L_0 from every time, nats per dimension; default: data are reached from t = 1 only (the papers'
        tau_1 = 1), at cost 0, since the decoder's term is then common to all chains.

    Returns:
      (T + 1, T + 1), [s, t]; inf where no step is allowed: from or to a time that was not measured, too.

    Raises:
      ValueError: the choice is not one number a step and there is nothing to take its cost from.
    """
    error = mean_error(moments)
    measured = 1 + np.flatnonzero(np.isfinite(error[1:]))
    s, t = (measured[i] for i in np.triu_indices(len(measured), 1))
    steps = process.pairs(schedule, s, t)
    table = np.full((schedule.T + 1, schedule.T + 1), np.inf)
    if not costs.needs_table(choice, schedule):
        log_var = reverse.table(choice, steps)
        table[s, t] = costs.step_kl(steps.log_base - log_var, steps.u, error[t])
    else:
        u = np.full_like(table, np.nan)
        u[s, t] = steps.u
        rows = costs.nodes(schedule) if tabulated is None else tabulated.u
        means = _mean_costs(schedule, choice, moments, tabulated)
        for place, later in enumerate(measured[1:], 1):
            earlier = measured[:place]
            table[earlier, later] = costs.between_nodes(rows[later], means[later], u[earlier, later])
    if decoder is None:
        table[0, 1] = 0.0
    else:
        table[0, measured] = decoder[measured]
    return table


def _mean_costs(
    schedule: Schedule, choice: ReverseVariance, moments: Moments, tabulated: Table | None
) -> Float64[np.ndarray, "times nodes"]:
    """Costs at the nodes, averaged over images."""
    if tabulated is not None:
        return tabulated.cost.mean(axis=0, dtype=np.float64)
    of_spectrum = choice.headless and choice.basis.name == "dct" and choice.basis.colours == moments.colours
    if not of_spectrum or moments.spectrum is None:
        raise ValueError("this variance is not one number a step: tabulate it in the pass over the images")
    return costs.of_spectrum(schedule, choice, moments.spectrum)
