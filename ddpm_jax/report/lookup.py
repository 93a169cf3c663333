"""The rows of results.json, found by variance, trajectory and number of steps, and written as results.csv."""

from collections.abc import Iterable
from typing import Any

Number = int | float
Results = dict[str, Any]
Row = dict[str, Any]
Cell = tuple[str, str, int]

OPTIMAL = ("optimal", "optimal_free")  # trajectories chosen by dynamic programming
REFERENCE = "isotropic"  # the variance that differences are taken to

LIKELIHOOD_COLUMNS = (
    "bits_per_dim",
    "standard_error",
    "prior",
    "kl",
    "decoder",
    "minus_isotropic",
    "paired_standard_error",
    "minus_even",
    "minus_even_standard_error",
)
FRECHET_COLUMNS = ("mean", "std", "minus_isotropic", "minus_isotropic_std")


def _by_cell(rows: list[Row]) -> dict[Cell, Row]:
    """Rows by (variance, trajectory, K)."""
    return {(row["variance"], row["trajectory"], row["K"]): row for row in rows}


def likelihood(results: Results, split: str = "test") -> dict[Cell, Row]:
    """The likelihood rows of one split."""
    return _by_cell([row for row in results["likelihood"] if row["split"] == split])


def samples(results: Results) -> dict[Cell, Row]:
    """The Frechet distances, mean and standard deviation over seeds."""
    return _by_cell(results["sample_cells"])


def spread(results: Results) -> dict[Cell, Row]:
    """Mean and standard deviation over networks; empty where there is one network."""
    return _by_cell(results["spread"])


def few_steps(results: Results) -> int:
    """The K of the headline and of the decomposition: 10, or the smallest K that was measured."""
    return 10 if 10 in results["K"] else min(results["K"])


def lines(results: Results, cells: Iterable[Cell]) -> list[tuple[str, str]]:
    """The (variance, trajectory) pairs that have a cell, in the order of the page."""
    present = {(variance, trajectory) for variance, trajectory, _ in cells}
    pairs = ((variance, trajectory) for trajectory in results["trajectories"] for variance in results["variances"])
    return [pair for pair in pairs if pair in present]


def csv_rows(results: Results) -> list[Row]:
    """results.csv: one row a variance, trajectory and K; None where a number was not measured.

    Args:
      results: results.json.

    Returns:
      Likelihood of the test split in bits/dim, and the Frechet distance where images were sampled.
    """
    bound, sampled = likelihood(results), samples(results)
    every_K = sorted({K for _, _, K in [*bound, *sampled]})
    rows = []
    for name, trajectory in lines(results, bound | sampled):
        for K in every_K:
            cell = (name, trajectory, K)
            if cell in bound or cell in sampled:
                terms = {key: bound.get(cell, {}).get(key) for key in LIKELIHOOD_COLUMNS}
                distance = {f"frechet_{key}": sampled.get(cell, {}).get(key) for key in FRECHET_COLUMNS}
                rows.append(dict(variance=name, trajectory=trajectory, K=K, **terms, **distance))
    return rows
