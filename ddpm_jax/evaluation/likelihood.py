"""Bits per dimension of every variance, kernel and trajectory, from the moments of one pass.

-log p(x_0) <= L_T + sum of the steps' KL + L_0 (Ho et al. 2020, equation 5). With the moments at hand a new variance or
trajectory costs no network evaluation. The table of an ablation is every variance x trajectory x K: calibration moments
fix the variances and the optimal trajectories, test moments judge them. Rows are plain dicts, as results.json keeps
them; likelihoods in bits/dim.
"""

from collections.abc import Callable, Sequence
from functools import cache as once
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from ddpm_jax.diffusion import process, timesteps
from ddpm_jax.diffusion import variances as reverse_variances
from ddpm_jax.diffusion.process import DDPM, Kernel, Steps
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.variances import Calibration, ReverseVariance
from ddpm_jax.evaluation import step_kl
from ddpm_jax.evaluation.moments import Moments, mean_error, mean_excess, standard_error, variance_identity
from ddpm_jax.evaluation.step_kl import Table
from ddpm_jax.runtime import cache
from ddpm_jax.runtime.cache import Keep

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
    reverse_variances.check_steps(choice, steps)
    if choice.headless:
        log_var = reverse_variances.table(choice, steps)
        if log_var.ndim == 1 and not np.isfinite(log_var[1:]).all():
            raise ValueError("no likelihood bound: a step of this chain has variance 0")
        if log_var.ndim == 1:
            return step_kl.step_kl(later.log_base - log_var[1:], later.u, moments.error[:, later.t])
    if tabulated is None:
        raise ValueError("this variance is not one number a step: tabulate it in the pass over the images")
    terms = np.empty((len(moments.error), later.K))
    for k, (t, u) in enumerate(zip(later.t, later.u, strict=True)):
        terms[:, k] = step_kl.between_nodes(tabulated.u[t], tabulated.cost[:, t], np.asarray([u]))[:, 0]
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
    if step_kl.has_own_decoder(choice):
        assert tabulated is not None and tabulated.decoders is not None
        return step_kl.decoder_between_nodes(schedule, tabulated.decoders[:, :, t], stand_in)
    assert moments.decoders is not None
    log_var = stand_in
    if not choice.every_kernel:
        last = process.pairs(schedule, np.zeros_like(stand_in, int), np.full_like(stand_in, t, int))
        log_var = reverse_variances.table(choice, last._replace(log_tb_floored=stand_in))
    return step_kl.decoder_between_nodes(schedule, moments.decoders[:, :, t], log_var)


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
    """cost[s, t] = E KL of the step t -> s under a variance, nats per dimension, for `timesteps.optimal`.

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
    if not step_kl.needs_table(choice, schedule):
        log_var = reverse_variances.table(choice, steps)
        table[s, t] = step_kl.step_kl(steps.log_base - log_var, steps.u, error[t])
    else:
        u = np.full_like(table, np.nan)
        u[s, t] = steps.u
        rows = step_kl.nodes(schedule) if tabulated is None else tabulated.u
        means = _mean_costs(schedule, choice, moments, tabulated)
        for place, later in enumerate(measured[1:], 1):
            earlier = measured[:place]
            table[earlier, later] = step_kl.between_nodes(rows[later], means[later], u[earlier, later])
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
    return step_kl.of_spectrum(schedule, choice, moments.spectrum)


Row = dict[str, Any]
Cell = tuple[str, str, int]
VERSION = 1  # raised by hand when the numbers of a bound or a cheapest path change: step_kl, timesteps
OPTIMAL = "optimal"
FREE = "optimal_free"  # the first time is chosen, too, with a decoder variance of its own
REFERENCE = "isotropic"  # what differences are taken to


class Comparison(NamedTuple):
    """What a likelihood table compares.

    Attributes:
      variances: choices, see `variances.find`.
      trajectories: of TRAJECTORIES, or "optimal", chosen for each variance on the calibration moments; for K > 1, as
        chains end at t = 1; or "optimal_free", which may end at any time with the decoder that is best there.
      K: numbers of steps.
      decoder: see `conventions.Rules`.
    """

    variances: Sequence[str]
    trajectories: Sequence[str]
    K: Sequence[int]
    decoder: str = "shared"


class Choices(NamedTuple):
    """The variances of one ablation, fixed by calibration images, and the times each visits.

    Attributes:
      calibration: what fixed them.
      variances: by name.
      times: by (variance, trajectory, K); `optimal` only where there is a likelihood bound, and of a variance that is
        defined on one chain only that chain.
      decoder_log_var: of `optimal_free` at every first time, in nats; None where it was not asked for.
      decoder: that of the other trajectories, see `conventions.Rules`.
      kernel: of the reverse step; the likelihood bound is that of DDPM's, so others are sampled alone.
    """

    calibration: Calibration
    variances: dict[str, ReverseVariance]
    times: dict[Cell, np.ndarray]
    decoder_log_var: np.ndarray | None = None
    decoder: str = "shared"
    kernel: Kernel = DDPM

    @property
    def schedule(self) -> Schedule:
        """The forward process."""
        return self.calibration.schedule


def calibrate(known: Calibration, moments: Moments) -> Calibration:
    """What the choices are fixed by, from the moments of the calibration images."""
    return known._replace(
        variance=moments.variance,
        excess=mean_excess(moments),
        error=mean_error(moments),
        spectrum=moments.spectrum,
        colours=moments.colours,
    )


def choose(
    calibration: Calibration, comparison: Comparison, moments: Moments, keep: Keep = cache.compute_always
) -> Choices:
    """Build the variances and every chain's times.

    Args:
      calibration: see `calibrate`.
      comparison: variances, trajectories and numbers of steps.
      moments: of the calibration images, with the tables of the variances that look at x_t.
      keep: remembers the optimal trajectories.

    Raises:
      ValueError: an unknown name, or K outside 1..T.
    """
    T = calibration.schedule.T
    times: dict[Cell, np.ndarray] = {}
    variances = {name: reverse_variances.build(name, calibration) for name in comparison.variances}
    for name, choice in variances.items():
        for path in comparison.trajectories:
            if path not in (OPTIMAL, FREE):
                visited = {K: timesteps.named(path, T, K) for K in comparison.K}
                times |= {
                    (name, path, K): chain for K, chain in visited.items() if reverse_variances.fits(choice, chain)
                }
            elif choice.bound and choice.times is None:
                several = comparison._replace(K=[K for K in comparison.K if K > 1 or path == FREE])
                found = _optimal(calibration, name, path, several, moments, keep)
                times |= {(name, path, K): chain for K, chain in found.items()}
    free = _best_decoder(calibration.schedule, moments)[0] if FREE in comparison.trajectories else None
    return Choices(calibration, variances, times, free, comparison.decoder)


def _best_decoder(schedule: Schedule, moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """The decoder's log variance at every first time and its term, fixed by calibration images, in nats.

    Raises:
      ValueError: the moments lack the decoders' terms.
    """
    if moments.decoders is None:
        raise ValueError(f"the trajectory {FREE!r} needs the decoders' terms: measure the moments of the network first")
    return step_kl.best_decoder(schedule, moments.decoders.mean(axis=0, dtype=np.float64).T)


def _optimal(
    calibration: Calibration, name: str, path: str, comparison: Comparison, moments: Moments, keep: Keep
) -> dict[int, np.ndarray]:
    """The cheapest path of every K under one variance; one dynamic programme finds all that are not remembered."""
    schedule, tabulated = calibration.schedule, moments.tables.get(name)
    decoder = _best_decoder(schedule, moments)[1] if path == FREE else None
    own = comparison.decoder == "own" and path == OPTIMAL

    def paths() -> dict[int, np.ndarray]:
        choice = reverse_variances.build(name, calibration)
        costs = cost(schedule, choice, moments, tabulated, decoder)
        if own:
            t = np.arange(2, schedule.T + 1)
            into_1 = process.pairs(schedule, np.ones_like(t), t).log_tb
            costs[1, 2:] += own_decoder(schedule, choice, 1, into_1, moments, tabulated).mean(axis=0)
        return timesteps.cheapest_paths(costs, comparison.K)

    found, table = once(paths), cache.fingerprint(tabulated)
    known = variance_identity(name, calibration, reverse_variances.build(name, calibration))
    inputs = dict(variance=known, table=table, decoder=decoder, own=own, version=VERSION)
    return {K: keep("trajectories", {**inputs, "K": K}, partial(_times, found, K))["times"] for K in comparison.K}


def _times(paths: Callable[[], dict[int, np.ndarray]], K: int) -> cache.Arrays:
    return dict(times=paths()[K])


def likelihoods(choices: Choices, moments: Moments, keep: Keep = cache.compute_always) -> dict[Cell, Likelihood | None]:
    """The bound of every cell, None where the variance has none.

    Args:
      choices: variances and the times they visit.
      moments: of the images whose likelihood is wanted, with the tables of the variances that need one; a variance
        whose table is missing has no bound here.
      keep: remembers the bounds.
    """
    found: dict[Cell, Likelihood | None] = {}
    known = dict(moments=cache.fingerprint(moments._replace(tables={})), schedule=choices.schedule, version=VERSION)
    tables = {name: cache.fingerprint(table) for name, table in moments.tables.items()}
    for cell, times in choices.times.items():
        name, choice = cell[0], choices.variances[cell[0]]
        if not choice.bound or (step_kl.needs_table(choice, choices.schedule) and name not in tables):
            found[cell] = None
            continue
        steps = process.steps(choices.schedule, times)
        decoder = _decoder(choices, cell, steps, moments)
        inputs = {**known, "times": times, "log_var": identity(choices, name, steps), "table": tables.get(name)}
        inputs["decoder"] = decoder
        compute = partial(_arrays, steps, choice, moments, moments.tables.get(name), decoder)
        found[cell] = Likelihood(**{name: _plain(value) for name, value in keep("likelihood", inputs, compute).items()})
    return found


def identity(choices: Choices, name: str, steps: process.Steps) -> Any:
    """The cache identity of a variance on a chain: its table, or, if it looks at x_t, see `variance_identity`."""
    choice = choices.variances[name]
    if choice.headless:
        return dict(table=reverse_variances.table(choice, steps), basis=choice.basis.name, colours=choice.basis.colours)
    # Other calibration images leave what needs none of their moments as it was.
    unused: dict[str, Any] = dict.fromkeys({*reverse_variances.MOMENTS}.difference(reverse_variances.needs(name)))
    return variance_identity(name, choices.calibration._replace(**unused), choice)


def _decoder(choices: Choices, cell: Cell, steps: process.Steps, moments: Moments) -> np.ndarray | None:
    """L_0 of every image in nats: with the decoder variance that calibration chose for the chain's first time, with the
    choice's own, or None for that which all share.
    """
    schedule, (name, path, _), t = choices.schedule, cell, int(steps.t[0])
    if path == FREE:
        assert choices.decoder_log_var is not None and moments.decoders is not None
        return step_kl.decoder_between_nodes(schedule, moments.decoders[:, :, t], choices.decoder_log_var[t : t + 1])[
            :, 0
        ]
    if choices.decoder == "shared":
        return None
    stand_in = steps.log_tb[1:2] if steps.K > 1 else np.asarray([process.decoder_log_var(schedule)])
    return own_decoder(schedule, choices.variances[name], t, stand_in, moments, moments.tables.get(name))[:, 0]


def _arrays(
    steps: process.Steps,
    choice: ReverseVariance,
    moments: Moments,
    tabulated: step_kl.Table | None,
    decoder: np.ndarray | None,
) -> cache.Arrays:
    found = bits_per_dim(steps, choice, moments, tabulated, decoder)
    return {name: np.asarray(value) for name, value in found._asdict().items()}


def _plain(value: np.ndarray) -> Any:
    return value if value.ndim else float(value)


def rows(found: dict[Cell, Likelihood | None], split: str) -> list[Row]:
    """One row a cell, with differences to isotropic and to the even trajectory and their paired standard errors."""
    return [_row(cell, likelihood, found, split) for cell, likelihood in found.items()]


def _row(cell: Cell, likelihood: Likelihood | None, found: dict[Cell, Likelihood | None], split: str) -> Row:
    name, path, K = cell
    parts = ("prior", "kl", "decoder", "standard_error")
    row = dict(variance=name, trajectory=path, K=K, split=split)
    row["bits_per_dim"] = None if likelihood is None else float(likelihood.total)
    row |= {part: None if likelihood is None else float(getattr(likelihood, part)) for part in parts}
    row["minus_isotropic"], row["paired_standard_error"] = _difference(likelihood, found.get((REFERENCE, path, K)))
    if path != "even":
        row["minus_even"], row["minus_even_standard_error"] = _difference(likelihood, found.get((name, "even", K)))
    return row


def _difference(a: Likelihood | None, b: Likelihood | None) -> tuple[float | None, float | None]:
    if a is None or b is None:
        return None, None
    return float(a.total - b.total), paired_standard_error(a, b)
