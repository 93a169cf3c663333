"""How the rows of an ablation vary over networks that were trained alike from different seeds."""

from collections.abc import Sequence

import numpy as np

from ddpm_jax.eval.ablation import Cell, Row


def over_networks(tables: Sequence[list[Row]], samples: Sequence[list[Row]]) -> list[Row]:
    """Mean and standard deviation of the test likelihoods and Frechet distances over networks, m = sum of x_i / n.

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
        row["mean"], row["std"] = _summary(row["values"])
        differences = [table[cell]["minus_isotropic"] for table in test]
        row["minus_isotropic"], row["minus_isotropic_std"] = _summary(differences)
        row["frechet_mean"], row["frechet_std"] = _summary([rows.get(cell, {}).get("mean") for rows in drawn])
        found.append(row)
    return found


def _cell(row: Row) -> Cell:
    return row["variance"], row["trajectory"], row["K"]


def _summary(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return None, None
    return float(np.mean(numbers)), float(np.std(numbers, ddof=1))
