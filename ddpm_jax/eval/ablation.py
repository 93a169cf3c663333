"""The likelihood table: every variance x trajectory x K, from the moments of calibration and test images.

Calibration moments fix the variances and the optimal trajectories; test moments judge them. Rows are plain dicts, as
results.json keeps them; likelihoods in bits/dim.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax import cells, process, trajectory, variance
from ddpm_jax.cells import Keep
from ddpm_jax.eval import elbo
from ddpm_jax.eval.moments import Moments, mean_error, mean_excess
from ddpm_jax.schedule import Schedule
from ddpm_jax.variance import Calibration, ReverseVariance

Row = dict[str, Any]
Cell = tuple[str, str, int]
CODE = cells.code_version(__name__)
OPTIMAL = "optimal"
REFERENCE = "isotropic"  # what differences are taken to


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


def choose(
    calibration: Calibration,
    names: Sequence[str],
    trajectories: Sequence[str],
    Ks: Sequence[int],
    keep: Keep = cells.compute_always,
) -> Choices:
    """Build the variances and every chain's times.

    Args:
      calibration: see `calibrate`.
      names: of VARIANCES.
      trajectories: of TRAJECTORIES, or "optimal", chosen for each variance on the calibration moments; for K > 1, as
        chains end at t = 1.
      Ks: numbers of steps.
      keep: remembers the optimal trajectories.

    Raises:
      ValueError: an unknown name, or K outside 1..T.
    """
    T = calibration.schedule.T
    times: dict[Cell, np.ndarray] = {}
    variances = {name: variance.build(name, calibration) for name in names}
    for name, choice in variances.items():
        for path in trajectories:
            if path != OPTIMAL:
                times |= {(name, path, K): trajectory.named(path, T, K) for K in Ks}
            elif choice.bound:
                several = [K for K in Ks if K > 1]
                found = _optimal(calibration, name, choice, several, keep)
                times |= {(name, path, K): found[K] for K in several}
    return Choices(calibration.schedule, variances, times)


def _optimal(
    calibration: Calibration, name: str, choice: ReverseVariance, Ks: Sequence[int], keep: Keep
) -> dict[int, np.ndarray]:
    """The cheapest path of every K under one variance; one dynamic programme finds all that are not remembered."""
    error = variance.measured(calibration.error, "M_t", calibration.schedule)
    paths = cache(lambda: trajectory.cheapest_paths(elbo.cost(calibration.schedule, choice, error), Ks))
    inputs = dict(calibration=calibration._asdict(), variance=name, code=CODE)
    return {K: keep("trajectories", {**inputs, "K": K}, partial(_times, paths, K))["times"] for K in Ks}


def _times(paths: Callable[[], dict[int, np.ndarray]], K: int) -> cells.Arrays:
    return dict(times=paths()[K])


def likelihoods(
    choices: Choices, moments: Moments, keep: Keep = cells.compute_always
) -> dict[Cell, elbo.Likelihood | None]:
    """The bound of every cell, None where the variance has none.

    Args:
      choices: variances and the times they visit.
      moments: of the images whose likelihood is wanted.
      keep: remembers the bounds.
    """
    found: dict[Cell, elbo.Likelihood | None] = {}
    known = dict(moments=cells.fingerprint(moments), schedule=choices.schedule, code=CODE)
    for cell, times in choices.times.items():
        choice = choices.variances[cell[0]]
        if not choice.bound:
            found[cell] = None
            continue
        steps = process.steps(choices.schedule, times)
        table = variance.table(choice, steps)
        inputs = {**known, "times": times, "log_var": table}
        compute = partial(_arrays, steps, table, moments)
        found[cell] = elbo.Likelihood(
            **{name: _plain(value) for name, value in keep("likelihood", inputs, compute).items()}
        )
    return found


def _arrays(steps: process.Steps, log_var: np.ndarray, moments: Moments) -> cells.Arrays:
    found = elbo.bits_per_dim(steps, log_var, moments)
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
