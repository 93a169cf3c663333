"""What the tables of the page say: numbers with their errors, one line a variance and trajectory."""

import math
from collections.abc import Callable, Sequence

from ddpm_jax.report import table
from ddpm_jax.report.table import Cell, Number, Results, Row

DECIMALS = 3  # of a number without a standard error
MOST_DECIMALS = 5
NO_BOUND = "no bound"
MISSING = "–"


def number(value: Number | None, decimals: int = DECIMALS) -> str:
    """A number with a true minus sign, a dash for None."""
    return MISSING if value is None else f"{value:.{decimals}f}".replace("-", "−")


def measured(value: Number | None, error: Number | None, sign: str = "") -> str:
    """value ± error, both to the decimal that gives the error two digits."""
    if value is None:
        return MISSING
    if not error:
        return f"{value:{sign}.{DECIMALS}f}".replace("-", "−")
    decimals = min(max(1 - math.floor(math.log10(error)), 0), MOST_DECIMALS)
    least = 10.0**-decimals
    shown = f"{error:.{decimals}f}" if error >= least / 2 else f"<{least:.{decimals}f}"
    return f"{value:{sign}.{decimals}f} ± {shown}".replace("-", "−")


def _least(rows: dict[Cell, Row], key: str) -> dict[int, Number]:
    """The least value of every K."""
    values: dict[int, list[Number]] = {}
    for (_, _, K), row in rows.items():
        if row[key] is not None:
            values.setdefault(K, []).append(row[key])
    return {K: min(column) for K, column in values.items()}


def _cell(row: Row | None, keys: Sequence[str], best: Number | None, nothing: str) -> Row:
    """A number ± its error, and under it the difference to isotropic ± its own; the keys name these four."""
    value, error, difference, its_error = ((row or {}).get(key) for key in keys)
    if value is None:
        return dict(text=MISSING if row is None else nothing, below="", best=False)
    assert row is not None
    is_reference = row["variance"] == "isotropic" or difference is None
    below = "" if is_reference else measured(difference, its_error, "+")
    return dict(text=measured(value, error), below=below, best=value == best)


def _table(results: Results, rows: dict[Cell, Row], keys: Sequence[str], columns: Sequence[int], nothing: str) -> Row:
    """The columns K, and one line a variance and trajectory with one cell a K."""
    best = _least(rows, keys[0])
    lines = [
        dict(
            name=name,
            trajectory=way,
            cells=[_cell(rows.get((name, way, K)), keys, best.get(K), nothing) for K in columns],
        )
        for name, way in table.lines(results, rows)
    ]
    return dict(K=list(columns), lines=lines)


def likelihood(results: Results) -> Row:
    """bits/dim of test images."""
    keys = ("bits_per_dim", "standard_error", "minus_isotropic", "paired_standard_error")
    return _table(results, table.likelihood(results), keys, results["K"], NO_BOUND)


def frechet(results: Results) -> Row:
    """Frechet distance of the samples, over seeds."""
    keys = ("mean", "std", "minus_isotropic", "minus_isotropic_std")
    return _table(results, table.samples(results), keys, results["sample_K"], MISSING)


def spread(results: Results) -> Row:
    """bits/dim of test images, over networks."""
    rows = table.spread(results)
    columns = sorted({K for _, _, K in rows})
    return _table(results, rows, ("mean", "std", "minus_isotropic", "minus_isotropic_std"), columns, NO_BOUND)


def spread_frechet(results: Results) -> Row:
    """Frechet distance, over networks, where all of them were sampled."""
    rows = {cell: row for cell, row in table.spread(results).items() if row["frechet_mean"] is not None}
    keys = ("frechet_mean", "frechet_std", "", "")
    return _table(results, rows, keys, sorted({K for _, _, K in rows}), MISSING)


def decomposition(results: Results) -> list[Row]:
    """L_T, the sum of the KL terms, L_0 and their total for every line at one K."""
    rows = table.likelihood(results)
    K = table.few_steps(results)
    lines = []
    for name, way in table.lines(results, rows):
        row = rows.get((name, way, K))
        if row:
            terms = [number(row[key]) for key in ("prior", "kl", "decoder")]
            total = NO_BOUND if row["bits_per_dim"] is None else number(row["bits_per_dim"])
            lines.append(dict(name=name, trajectory=way, cells=[*terms, total]))
    return lines


TABLES: dict[str, Callable[[Results], Row]] = dict(
    likelihood=likelihood, frechet=frechet, spread=spread, spread_frechet=spread_frechet
)


def answer(results: Results) -> str:
    """The one sentence: which variance wins in likelihood with few steps, and by how much."""
    K = table.few_steps(results)
    rows = table.likelihood(results)
    even = {name: rows[name, "even", K] for name in results["variances"] if (name, "even", K) in rows}
    bits = {name: row["bits_per_dim"] for name, row in even.items() if row["bits_per_dim"] is not None}
    if not bits:
        return "None of the variances that were compared has a likelihood bound."
    winner = min(bits, key=lambda name: bits[name])
    losses = [
        f"{number(bits[name] - bits[winner])} less than `{name}`"
        for name in ("small", "large")
        if name in bits and name != winner
    ]
    best = f"{measured(bits[winner], even[winner]['standard_error'])} bits/dim"
    parts = [f"With K = {K} even steps the variance `{winner}` gives the best likelihood of test images", best]
    return ", ".join([*parts, *filter(None, [" and ".join(losses)])]) + "."
