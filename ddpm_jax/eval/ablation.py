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
from ddpm_jax.eval import costs, elbo
from ddpm_jax.eval.moments import Moments, mean_error, mean_excess
from ddpm_jax.reverse import ReverseVariance
from ddpm_jax.schedule import Schedule
from ddpm_jax.variance import Calibration

Row = dict[str, Any]
Cell = tuple[str, str, int]
CODE = cells.code_version(__name__)
OPTIMAL = "optimal"
FREE = "optimal_free"  # the first time is chosen, too, with a decoder variance of its own
REFERENCE = "isotropic"  # what differences are taken to


class Choices(NamedTuple):
    """The variances of one ablation, fixed by calibration images, and the times each visits.

    Attributes:
      calibration: what fixed them.
      variances: by name.
      times: by (variance, trajectory, K); `optimal` only where there is a likelihood bound, and of a variance that is
        defined on one chain only that chain.
      decoder_log_var: of `optimal_free` at every first time, in nats; None where it was not asked for.
    """

    calibration: Calibration
    variances: dict[str, ReverseVariance]
    times: dict[Cell, np.ndarray]
    decoder_log_var: np.ndarray | None = None

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


def choose(
    calibration: Calibration,
    names: Sequence[str],
    trajectories: Sequence[str],
    Ks: Sequence[int],
    moments: Moments,
    keep: Keep = cells.compute_always,
) -> Choices:
    """Build the variances and every chain's times.

    Args:
      calibration: see `calibrate`.
      names: of VARIANCES.
      trajectories: of TRAJECTORIES, or "optimal", chosen for each variance on the calibration moments; for K > 1, as
        chains end at t = 1; or "optimal_free", which may end at any time with the decoder that is best there.
      Ks: numbers of steps.
      moments: of the calibration images, with the tables of the variances that look at x_t.
      keep: remembers the optimal trajectories.

    Raises:
      ValueError: an unknown name, or K outside 1..T.
    """
    T = calibration.schedule.T
    times: dict[Cell, np.ndarray] = {}
    variances = {name: variance.build(name, calibration) for name in names}
    for name, choice in variances.items():
        for path in trajectories:
            if path not in (OPTIMAL, FREE):
                visited = {K: trajectory.named(path, T, K) for K in Ks}
                times |= {(name, path, K): chain for K, chain in visited.items() if reverse.fits(choice, chain)}
            elif choice.bound and choice.times is None:
                several = [K for K in Ks if K > 1 or path == FREE]
                found = _optimal(calibration, name, path, several, moments, keep)
                times |= {(name, path, K): found[K] for K in several}
    free = _best_decoder(calibration.schedule, moments)[0] if FREE in trajectories else None
    return Choices(calibration, variances, times, free)


def _best_decoder(schedule: Schedule, moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """The decoder's log variance at every first time and its term, fixed by calibration images, in nats.

    Raises:
      ValueError: the moments lack the decoders' terms.
    """
    if moments.decoders is None:
        raise ValueError(f"the trajectory {FREE!r} needs the decoders' terms: measure the moments of the network first")
    return costs.best_decoder(schedule, moments.decoders.mean(axis=0, dtype=np.float64).T)


def _optimal(
    calibration: Calibration, name: str, path: str, Ks: Sequence[int], moments: Moments, keep: Keep
) -> dict[int, np.ndarray]:
    """The cheapest path of every K under one variance; one dynamic programme finds all that are not remembered."""
    schedule, tabulated = calibration.schedule, moments.tables.get(name)
    decoder = _best_decoder(schedule, moments)[1] if path == FREE else None

    def paths() -> dict[int, np.ndarray]:
        choice = variance.build(name, calibration)
        return trajectory.cheapest_paths(elbo.cost(schedule, choice, moments, tabulated, decoder), Ks)

    found, table = cache(paths), cells.fingerprint(tabulated)
    inputs = dict(calibration=calibration._asdict(), variance=name, table=table, decoder=decoder, code=CODE)
    return {K: keep("trajectories", {**inputs, "K": K}, partial(_times, found, K))["times"] for K in Ks}


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
        decoder = _decoder(choices, moments, steps) if cell[1] == FREE else None
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


def _decoder(choices: Choices, moments: Moments, steps: process.Steps) -> np.ndarray:
    """L_0 of every image with the decoder variance that calibration chose for the chain's first time, in nats."""
    assert choices.decoder_log_var is not None and moments.decoders is not None
    t = int(steps.t[0])
    return costs.decoded(choices.schedule, moments.decoders[:, :, t], choices.decoder_log_var[t : t + 1])[:, 0]


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


def spread(tables: Sequence[list[Row]], samples: Sequence[list[Row]]) -> list[Row]:
    """How the test likelihoods and Frechet distances vary over networks trained alike from different seeds.

    Args:
      tables: the likelihood rows of each network, in bits/dim; those of the test split are read.
      samples: the rows by (variance, trajectory, K) of each network, from `quality.distances`.

    Returns:
      One row a cell: mean and standard deviation over networks, None where nothing was measured.
    """
    test = [{_cell(row): row for row in table if row["split"] == "test"} for table in tables]
    drawn = [{_cell(row): row for row in rows} for rows in samples]
    found = []
    for cell in test[0]:
        row: Row = dict(zip(("variance", "trajectory", "K"), cell, strict=True))
        row["values"] = [table[cell]["bits_per_dim"] for table in test]
        row["mean"], row["std"] = _over_networks(row["values"])
        differences = [table[cell]["minus_isotropic"] for table in test]
        row["minus_isotropic"], row["minus_isotropic_std"] = _over_networks(differences)
        row["frechet_mean"], row["frechet_std"] = _over_networks([rows.get(cell, {}).get("mean") for rows in drawn])
        found.append(row)
    return found


def _cell(row: Row) -> Cell:
    return row["variance"], row["trajectory"], row["K"]


def _over_networks(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return None, None
    return float(np.mean(numbers)), float(np.std(numbers, ddof=1))
