"""The rows of results.json, found by variance, trajectory and number of steps."""

from typing import Any

Number = int | float
Results = dict[str, Any]
Row = dict[str, Any]
Cell = tuple[str, str, int]


def _by_cell(rows: list[Row]) -> dict[Cell, Row]:
    """Rows by (variance, trajectory, K)."""
    return {(row["variance"], row["trajectory"], row["K"]): row for row in rows}


def likelihood(results: Results, split: str = "test") -> dict[Cell, Row]:
    """The likelihood rows of one split."""
    return _by_cell([row for row in results["likelihood"] if row["split"] == split])


def samples(results: Results) -> dict[Cell, Row]:
    """The Frechet distances, mean and standard deviation over seeds."""
    return _by_cell(results["sample_cells"])


def few_steps(results: Results) -> int:
    """The K of the headline and of the decomposition: 10, or the smallest K that was measured."""
    return 10 if 10 in results["K"] else min(results["K"])
