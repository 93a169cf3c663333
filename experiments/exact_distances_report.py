"""How far samples are from the data, against the number of steps: the figure and the tables of the exact experiments.

Results hold `variances`, `K`, `measures` (key: title) and `rows` by variance and K, with a value under every key, None
where there is none, and its deviation over seeds under key_std where it has one.
"""

import math
from itertools import cycle

import numpy as np
from matplotlib.figure import Figure

from ddpm_jax.report import charts
from ddpm_jax.report.charts import COLOURS, MARKERS, Curve
from ddpm_jax.report.lookup import REFERENCE, Results, Row
from ddpm_jax.report.tables import markdown_table, measured

HEIGHT = 5.2
Cells = dict[tuple[str, int], Row]


def _cells(results: Results) -> Cells:
    return {(row["variance"], row["K"]): row for row in results["rows"]}


def _word(row: Row, key: str) -> str:
    """A value as the tables write it: with its deviation, or four digits."""
    value, deviation = row[key], row.get(f"{key}_std")
    if value is None or deviation is not None:
        return measured(value, deviation)
    return f"{value:.4g}".replace("-", "−") if math.isfinite(value) else "∞"


def alike(results: Results) -> list[tuple[str, ...]]:
    """The variances in groups of those whose every number reads the same."""
    cells, groups = _cells(results), dict[tuple[str, ...], list[str]]()
    for name in results["variances"]:
        words = tuple(_word(cells[name, K], key) for key in results["measures"] for K in results["K"])
        groups.setdefault(words, []).append(name)
    return [tuple(names) for names in groups.values()]


def tables(results: Results) -> str:
    """One table a measure, variances down and K across; variances that read the same share a line."""
    cells, groups = _cells(results), alike(results)
    header = ["variance", *(f"K = {K}" for K in results["K"])]
    parts = []
    for key, title in results["measures"].items():
        rows = [[", ".join(names), *(_word(cells[names[0], K], key) for K in results["K"])] for names in groups]
        parts.append(f"{title}\n\n{markdown_table(header, rows)}")
    return "\n".join(parts)


def _telling(results: Results) -> dict[str, str]:
    """The measures that are not 0 for most variances and K."""
    medians = {key: np.median([row[key] or 0 for row in results["rows"]]) for key in results["measures"]}
    return {key: title for key, title in results["measures"].items() if medians[key] > 0}


def nearest(results: Results) -> list[str]:
    """Which variances are nearest to the data by each measure, and how many times as far the reference is."""
    cells, lines, referred = _cells(results), [], REFERENCE in results["variances"]
    for key, title in _telling(results).items():
        found: dict[tuple[str, ...], list[str]] = {}
        for K in results["K"]:
            known = {names: cells[names[0], K][key] for names in alike(results)}
            values = {names: value for names, value in known.items() if value is not None}
            if values:
                best = min(values, key=lambda names: values[names])
                reference = cells[REFERENCE, K][key] if referred else None
                times = f" (by a factor of {reference / values[best]:.3g})" if reference else ""
                found.setdefault(best, []).append(f"K = {K}{times}")
        known_by = f"nearest by {title}" + f", and how much nearer than {REFERENCE}" * referred
        lines += [f"{known_by}: {', '.join(names)} at {', '.join(at)}" for names, at in found.items()]
    return lines


def text(results: Results) -> str:
    """The tables and what is nearest, for a terminal or a Markdown file."""
    return "\n".join([tables(results), *nearest(results)]) + "\n"


def draw(results: Results) -> Figure:
    """One panel a measure but for those that are mostly 0, one curve a group of variances that read the same."""
    cells, Ks, shown = _cells(results), results["K"], _telling(results)
    figure = charts.panels(list(shown.values()), HEIGHT, sharey=False)
    curves = []
    for panel, key in enumerate(shown):
        for names, colour, marker in zip(alike(results), cycle(COLOURS), cycle(MARKERS), strict=False):
            y, error = (charts.numbers(cells[names[0], K].get(name) for K in Ks) for name in (key, f"{key}_std"))
            style = dict(kind="bars", color=colour, marker=marker, markersize=6, markerfacecolor="none", linewidth=1.2)
            where = [f"K = {K}" for K in Ks]
            curves.append(Curve(", ".join(names), panel, charts.numbers(Ks), y, error, where, style))
    drawn = charts.draw(figure, curves)
    for axis in figure.axes:
        axis.set(xscale="log", yscale="log", xlabel="steps K")
        charts.log_ticks(axis.xaxis, Ks)
        charts.log_ticks(axis.yaxis)
    charts.add_legend(drawn)
    return figure
