"""What the tables of the page and of Markdown files say: numbers with their errors, one line a choice."""

import math
from collections.abc import Callable, Sequence

from ddpm_jax.report import lookup
from ddpm_jax.report.lookup import Cell, Number, Results, Row


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The lines of a Markdown table; the first column to the left, the others to the right, all padded.

    Args:
      header: one word a column.
      rows: one cell a column each.

    Raises:
      ValueError: a row has another number of cells.
    """
    wrong = [row for row in rows if len(row) != len(header)]
    if wrong:
        raise ValueError(f"a row of {len(wrong[0])} cells under {len(header)} columns: {wrong[0]}")
    widths = [max(3, *(len(cell) for cell in column)) for column in zip(header, *rows, strict=True)]
    rule = [f":{'-' * (width - 1)}" if i == 0 else f"{'-' * (width - 1)}:" for i, width in enumerate(widths)]
    lines = [_line(cells, widths) for cells in (header, rule, *rows)]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
    return f"| {' | '.join(padded)} |"


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
    """A number ± its error, and under it a difference (to isotropic or to even) ± its own; the keys name these four."""
    value, error, difference, its_error = ((row or {}).get(key) for key in keys)
    if value is None:
        return dict(text=MISSING if row is None else nothing, below="", best=False)
    assert row is not None
    to_itself = row["variance"] == "isotropic" and keys[2] != "minus_even"
    below = "" if to_itself or difference is None else measured(difference, its_error, "+")
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
        for name, way in lookup.lines(results, rows)
    ]
    return dict(K=list(columns), lines=lines)


def likelihood(results: Results) -> Row:
    """bits/dim of test images on the trajectories that no data chose."""
    keys = ("bits_per_dim", "standard_error", "minus_isotropic", "paired_standard_error")
    rows = {cell: row for cell, row in lookup.likelihood(results).items() if cell[1] not in lookup.OPTIMAL}
    return _table(results, rows, keys, results["K"], NO_BOUND)


def optimal(results: Results) -> Row:
    """bits/dim of test images on the optimal trajectories, each under the variance it was chosen for."""
    keys = ("bits_per_dim", "standard_error", "minus_even", "minus_even_standard_error")
    rows = {cell: row for cell, row in lookup.likelihood(results).items() if cell[1] in lookup.OPTIMAL}
    content = _table(results, rows, keys, results["K"], NO_BOUND)
    order = {name: place for place, name in enumerate(results["variances"])}
    return content | dict(lines=sorted(content["lines"], key=lambda line: order[line["name"]]))


def never_clamped(results: Results) -> list[str]:
    """The variances that are not one number a step and of which no estimate was moved."""
    return [name for name, shares in results["clamped"].items() if not any(share and share > 0 for share in shares)]


def one_pass(results: Results) -> Row:
    """Network evaluations of the likelihood tables, as counted, and what one cell at a time would take."""
    known, T = results["evaluations"], len(results["per_time"]["t"])
    splits = [
        dict(name=split, images=round(full / T), evaluations=known["counted"][split], full=full)
        for split, full in known["one_pass"].items()
    ]
    counted, alone = known["counted"]["test"], known["one_cell_at_a_time"]
    return dict(T=T, splits=splits, cells=known["cells"], alone=alone, ratio=alone / counted if counted else None)


def frechet(results: Results) -> Row:
    """Frechet distance of the samples, over seeds."""
    keys = ("mean", "std", "minus_isotropic", "minus_isotropic_std")
    return _table(results, lookup.samples(results), keys, results["sample_K"], MISSING)


def spread(results: Results) -> Row:
    """bits/dim of test images, over networks."""
    rows = lookup.spread(results)
    columns = sorted({K for _, _, K in rows})
    return _table(results, rows, ("mean", "std", "minus_isotropic", "minus_isotropic_std"), columns, NO_BOUND)


def spread_frechet(results: Results) -> Row:
    """Frechet distance, over networks, where all of them were sampled."""
    rows = {cell: row for cell, row in lookup.spread(results).items() if row["frechet_mean"] is not None}
    keys = ("frechet_mean", "frechet_std", "", "")
    return _table(results, rows, keys, sorted({K for _, _, K in rows}), MISSING)


def decomposition(results: Results) -> list[Row]:
    """L_T, the sum of the KL terms, L_0 and their total for every line at one K."""
    rows = lookup.likelihood(results)
    K = lookup.few_steps(results)
    lines = []
    for name, way in lookup.lines(results, rows):
        row = rows.get((name, way, K))
        if row:
            terms = [number(row[key]) for key in ("prior", "kl", "decoder")]
            total = NO_BOUND if row["bits_per_dim"] is None else number(row["bits_per_dim"])
            lines.append(dict(name=name, trajectory=way, cells=[*terms, total]))
    return lines


TABLES: dict[str, Callable[[Results], Row]] = dict(
    likelihood=likelihood, optimal=optimal, frechet=frechet, spread=spread, spread_frechet=spread_frechet
)


def answer(results: Results) -> str:
    """The one sentence: which variance wins in likelihood with few steps, and by how much."""
    K = lookup.few_steps(results)
    rows = lookup.likelihood(results)
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
    return ", ".join([*parts, *filter(None, [" and ".join(losses)])]) + "." + _untrained(results, bits, winner)


def _untrained(results: Results, bits: dict[str, Number], winner: str) -> str:
    """The best of the variances that need no trained head, where a head wins."""
    kinds = results["kinds"]
    others = [name for name in bits if kinds[name] != "trained"]
    if kinds[winner] != "trained" or not others:
        return ""
    best = min(others, key=lambda name: bits[name])
    return f" Of those that need no trained head, `{best}` is the best: {number(bits[best] - bits[winner])} more."
