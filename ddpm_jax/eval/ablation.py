"""The likelihood table: every variance x trajectory x K, from the moments of calibration and test images.

Calibration moments fix the variances and the optimal trajectories; test moments judge them. Rows are plain dicts, as
results.json keeps them; likelihoods in bits/dim.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax import cells, process, reverse, trajectory, variance
from ddpm_jax.cells import Keep
from ddpm_jax.eval import costs, decoders, elbo
from ddpm_jax.eval.moments import Moments, mean_error, mean_excess
from ddpm_jax.process import DDPM, Kernel
from ddpm_jax.reverse import ReverseVariance
from ddpm_jax.schedule import Schedule
from ddpm_jax.variance import Calibration

Row = dict[str, Any]
Cell = tuple[str, str, int]
CODE = cells.code_version(__name__)
OPTIMAL = "optimal"
FREE = "optimal_free"  # the first time is chosen, too, with a decoder variance of its own
REFERENCE = "isotropic"  # what differences are taken to


class Wanted(NamedTuple):
    """The cells of a likelihood table.

    Attributes:
      variances: names of VARIANCES.
      trajectories: of TRAJECTORIES, or "optimal", chosen for each variance on the calibration moments; for K > 1, as
        chains end at t = 1; or "optimal_free", which may end at any time with the decoder that is best there.
      K: numbers of steps.
      decoder: see `protocols.Rules`.
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
      decoder: that of the other trajectories, see `protocols.Rules`.
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


def calibrate(known: Calibration, moments: Moments, c: float | None) -> Calibration:
    """What the registry needs, from the moments of the calibration images; c defaults to their mean variance."""
    return known._replace(
        c=moments.variance if c is None else c,
        excess=mean_excess(moments),
        error=mean_error(moments),
        spectrum=moments.spectrum,
        colours=moments.colours,
    )


def choose(calibration: Calibration, wanted: Wanted, moments: Moments, keep: Keep = cells.compute_always) -> Choices:
    """Build the variances and every chain's times.

    Args:
      calibration: see `calibrate`.
      wanted: the cells.
      moments: of the calibration images, with the tables of the variances that look at x_t.
      keep: remembers the optimal trajectories.

    Raises:
      ValueError: an unknown name, or K outside 1..T.
    """
    T = calibration.schedule.T
    times: dict[Cell, np.ndarray] = {}
    variances = {name: variance.build(name, calibration) for name in wanted.variances}
    for name, choice in variances.items():
        for path in wanted.trajectories:
            if path not in (OPTIMAL, FREE):
                visited = {K: trajectory.named(path, T, K) for K in wanted.K}
                times |= {(name, path, K): chain for K, chain in visited.items() if reverse.fits(choice, chain)}
            elif choice.bound and choice.times is None:
                several = wanted._replace(K=[K for K in wanted.K if K > 1 or path == FREE])
                found = _optimal(calibration, name, path, several, moments, keep)
                times |= {(name, path, K): chain for K, chain in found.items()}
    free = _best_decoder(calibration.schedule, moments)[0] if FREE in wanted.trajectories else None
    return Choices(calibration, variances, times, free, wanted.decoder)


def _best_decoder(schedule: Schedule, moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """The decoder's log variance at every first time and its term, fixed by calibration images, in nats.

    Raises:
      ValueError: the moments lack the decoders' terms.
    """
    if moments.decoders is None:
        raise ValueError(f"the trajectory {FREE!r} needs the decoders' terms: measure the moments of the network first")
    return decoders.best(schedule, moments.decoders.mean(axis=0, dtype=np.float64).T)


def _optimal(
    calibration: Calibration, name: str, path: str, wanted: Wanted, moments: Moments, keep: Keep
) -> dict[int, np.ndarray]:
    """The cheapest path of every K under one variance; one dynamic programme finds all that are not remembered."""
    schedule, tabulated = calibration.schedule, moments.tables.get(name)
    decoder = _best_decoder(schedule, moments)[1] if path == FREE else None
    own = wanted.decoder == "own" and path == OPTIMAL

    def paths() -> dict[int, np.ndarray]:
        choice = variance.build(name, calibration)
        cost = elbo.cost(schedule, choice, moments, tabulated, decoder)
        if own:
            t = np.arange(2, schedule.T + 1)
            into_1 = process.pairs(schedule, np.ones_like(t), t).log_tb
            cost[1, 2:] += elbo.own_decoder(schedule, choice, 1, into_1, moments, tabulated).mean(axis=0)
        return trajectory.cheapest_paths(cost, wanted.K)

    found, table = cache(paths), cells.fingerprint(tabulated)
    inputs = dict(calibration=calibration._asdict(), variance=name, table=table, decoder=decoder, own=own, code=CODE)
    return {K: keep("trajectories", {**inputs, "K": K}, partial(_times, found, K))["times"] for K in wanted.K}


def _times(paths: Callable[[], dict[int, np.ndarray]], K: int) -> cells.Arrays:
    return dict(times=paths()[K])


def likelihoods(
    choices: Choices, moments: Moments, keep: Keep = cells.compute_always
) -> dict[Cell, elbo.Likelihood | None]:
    """The bound of every cell, None where the variance has none.

    Args:
      choices: variances and the times they visit.
      moments: of the images whose likelihood is wanted, with the tables of the variances that need one; a variance
        whose table is missing has no bound here.
      keep: remembers the bounds.
    """
    found: dict[Cell, elbo.Likelihood | None] = {}
    known = dict(moments=cells.fingerprint(moments._replace(tables={})), schedule=choices.schedule, code=CODE)
    tables = {name: cells.fingerprint(table) for name, table in moments.tables.items()}
    for cell, times in choices.times.items():
        name, choice = cell[0], choices.variances[cell[0]]
        if not choice.bound or (costs.needs_table(choice, choices.schedule) and name not in tables):
            found[cell] = None
            continue
        steps = process.steps(choices.schedule, times)
        decoder = _decoder(choices, cell, steps, moments)
        inputs = {**known, "times": times, "log_var": identity(choices, name, steps), "table": tables.get(name)}
        inputs["decoder"] = decoder
        compute = partial(_arrays, steps, choice, moments, moments.tables.get(name), decoder)
        found[cell] = elbo.Likelihood(
            **{name: _plain(value) for name, value in keep("likelihood", inputs, compute).items()}
        )
    return found


def identity(choices: Choices, name: str, steps: process.Steps) -> Any:
    """What tells a variance on a chain from others: its table, or, if it looks at x_t, its name and what it knows."""
    choice = choices.variances[name]
    if choice.headless:
        return dict(table=reverse.table(choice, steps), basis=choice.basis.name, colours=choice.basis.colours)
    known = choices.calibration._replace(excess=None, error=None, spectrum=None)
    return dict(name=name, known=known._asdict(), code=cells.code_version(variance.VARIANCES[name].__module__))


def _decoder(choices: Choices, cell: Cell, steps: process.Steps, moments: Moments) -> np.ndarray | None:
    """L_0 of every image in nats: with the decoder variance that calibration chose for the chain's first time, with the
    choice's own, or None for that which all share.
    """
    schedule, (name, path, _), t = choices.schedule, cell, int(steps.t[0])
    if path == FREE:
        assert choices.decoder_log_var is not None and moments.decoders is not None
        return decoders.between_nodes(schedule, moments.decoders[:, :, t], choices.decoder_log_var[t : t + 1])[:, 0]
    if choices.decoder == "shared":
        return None
    stand_in = steps.log_tb[1:2] if steps.K > 1 else np.asarray([process.decoder_log_var(schedule)])
    return elbo.own_decoder(schedule, choices.variances[name], t, stand_in, moments, moments.tables.get(name))[:, 0]


def _arrays(
    steps: process.Steps,
    choice: ReverseVariance,
    moments: Moments,
    tabulated: costs.Table | None,
    decoder: np.ndarray | None,
) -> cells.Arrays:
    found = elbo.bits_per_dim(steps, choice, moments, tabulated, decoder)
    return {name: np.asarray(value) for name, value in found._asdict().items()}


def _plain(value: np.ndarray) -> Any:
    return value if value.ndim else float(value)


def rows(found: dict[Cell, elbo.Likelihood | None], split: str) -> list[Row]:
    """One row a cell, with differences to isotropic and to the even trajectory and their paired standard errors."""
    return [_row(cell, likelihood, found, split) for cell, likelihood in found.items()]


def _row(cell: Cell, likelihood: elbo.Likelihood | None, found: dict[Cell, elbo.Likelihood | None], split: str) -> Row:
    name, path, K = cell
    parts = ("prior", "kl", "decoder", "standard_error")
    row = dict(variance=name, trajectory=path, K=K, split=split)
    row["bits_per_dim"] = None if likelihood is None else float(likelihood.total)
    row |= {part: None if likelihood is None else float(getattr(likelihood, part)) for part in parts}
    row["minus_isotropic"], row["paired_standard_error"] = _difference(likelihood, found.get((REFERENCE, path, K)))
    if path != "even":
        row["minus_even"], row["minus_even_standard_error"] = _difference(likelihood, found.get((name, "even", K)))
    return row


def _difference(a: elbo.Likelihood | None, b: elbo.Likelihood | None) -> tuple[float | None, float | None]:
    if a is None or b is None:
        return None, None
    return float(a.total - b.total), elbo.paired_standard_error(a, b)
