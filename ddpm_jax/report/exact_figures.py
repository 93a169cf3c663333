"""The figure of `experiments.exact_gaussian`: six panels from its results."""

from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddpm_jax.report import chart
from ddpm_jax.report.chart import COLOURS, LIGHT, MARKERS, Curve
from ddpm_jax.report.table import Results

HEIGHT = 12.5
SHOWN_K = 10  # of the panel with Frechet-optimal variances
SMALLEST = 0.1  # variance / b below which that panel is linear, so that it reaches 0
TICKS = (0, 0.1, 1, 10)
LIMIT = 5.0  # standard errors
PANELS = {  # titles, and what x is
    "one family: variance / b": "t",
    "variance of the directions: above 1 is outside [tb, b]": "spatial frequency |f|",
    "bits/dim: published (marks), predicted (lines)": "steps K",
    f"isotropic variances of a chain of {SHOWN_K} steps": "t",
    "path KL, nats/dim": "steps K",
    "samples against the recursion": "variance by the recursion",
}


def _line(name: str, panel: int, x: Any, y: Any, **style: Any) -> Curve:
    values = chart.numbers(y)
    look: dict[str, Any] = dict(kind="bars", markersize=5, markerfacecolor="none", linewidth=1.3)
    return Curve(name, panel, np.asarray(x, np.float64), values, None, [""] * len(values), look | style)


def _family(results: Results) -> list[Curve]:
    of = results["family"]
    curves = [
        _line(f"c = {c}", 0, of["t"], ratio, color=colour)
        for (c, ratio), colour in zip(of["ratios"].items(), cycle(COLOURS), strict=False)
    ]
    return [*curves, _line("upper bound 1/a", 0, of["t"], of["upper"], color=LIGHT["ink"], linestyle="--")]


def _spectrum(results: Results) -> list[Curve]:
    of = results["family"]
    order = np.argsort(of["radius"])
    radius = np.asarray(of["radius"])[order]
    curves = [
        _line(f"colour axis {i + 1}", 1, radius, np.asarray(axis)[order], color=colour)
        for i, (axis, colour) in enumerate(zip(of["spectrum"], COLOURS, strict=False))
    ]
    rule = dict(kind="rule", color=LIGHT["ink"], linestyle="--", linewidth=1.2)
    return [*curves, Curve("c = 1: variance b", 1, radius[[0, -1]], np.ones(2), None, ["", ""], rule)]


def _table(results: Results) -> list[Curve]:
    curves, cells = [], results["power_law"]["cells"]
    lines = dict.fromkeys((cell["variance"], cell["trajectory"]) for cell in cells)
    for (name, way), colour, marker in zip(lines, cycle(COLOURS), cycle(MARKERS), strict=False):
        mine = [cell for cell in cells if (cell["variance"], cell["trajectory"]) == (name, way)]
        Ks = [cell["K"] for cell in mine]
        curves.append(_line(f"{name}, {way}", 2, Ks, [cell["predicted"] for cell in mine], color=colour))
        marks = dict(color=colour, marker=marker, linestyle="none")
        curves.append(_line("", 2, Ks, [cell["published"] for cell in mine], **marks))
    spectral = results["power_law"]["spectral"]
    look = dict(color=LIGHT["grey"], linestyle=":")
    return [*curves, _line("spectral (optimistic)", 2, [int(K) for K in spectral], list(spectral.values()), **look)]


def _optima(results: Results) -> list[Curve]:
    rows = [row for row in results["optima"] if row["K"] == SHOWN_K]
    curves = []
    for row, colour, marker in zip(rows, cycle(COLOURS), cycle(MARKERS), strict=False):
        curves.append(_line(row["variance"], 3, row["t"], row["over_b"], color=colour, marker=marker))
    return curves


def _paths(results: Results) -> list[Curve]:
    rows = results["paths"]
    Ks = [row["K"] for row in rows]
    return [
        _line(name, 4, Ks, [row["path_kl"][name] for row in rows], color=colour, marker=marker)
        for name, colour, marker in zip(rows[0]["path_kl"], COLOURS, MARKERS, strict=False)
    ]


def _samples(axis: Axes, results: Results) -> None:
    """Deviations of the drawn variances, one mark a choice, chain and level of the data."""
    kernels = dict.fromkeys(row["kernel"] for row in results["finals"])
    for kernel, colour, marker in zip(kernels, COLOURS, MARKERS, strict=False):
        rows = [row for row in results["finals"] if row["kernel"] == kernel]
        x = [P for row in rows for P in row["variance_exact"]]
        z = [value for row in rows for value in row["variance_z"]]
        style: dict[str, Any] = dict(
            color=colour, marker=marker, linestyle="none", markersize=4, markerfacecolor="none"
        )
        axis.plot(x, z, label=kernel, **style)
    for level in (-LIMIT, LIMIT):
        axis.axhline(level, color=LIGHT["ink"], linestyle="--", linewidth=1.0)
    reach = max(LIMIT + 0.5, max(abs(z) for row in results["finals"] for z in row["variance_z"]))
    axis.set(yscale="linear", ylim=(-reach, reach), ylabel="deviation of the drawn variance, standard errors")


def draw(results: Results) -> Figure:
    """All six panels."""
    figure = Figure(figsize=(chart.WIDTH * 1.35, HEIGHT), layout="constrained")
    for axis, (title, label) in zip(figure.subplots(3, 2).ravel(), PANELS.items(), strict=True):
        axis.set(xlabel=label, xscale="log", yscale="log")
        axis.set_title(title, fontsize=11)
        axis.grid(color=LIGHT["grid"], linewidth=0.7)
        axis.set_axisbelow(True)
    chart.draw(figure, [curve for part in (_family, _spectrum, _table, _optima, _paths) for curve in part(results)])
    family, spectrum, _, optima, _, samples = figure.axes
    family.set(yscale="linear")
    spectrum.set(xscale="linear")
    optima.set(xscale="linear", ylabel="variance / b")
    optima.set_yscale("symlog", linthresh=SMALLEST)
    optima.set_yticks(TICKS, labels=[chart.tick_text(tick) for tick in TICKS])
    optima.set_ylim(bottom=-SMALLEST / 4)
    _samples(samples, results)
    for axis in figure.axes:
        for part in (axis.xaxis, axis.yaxis):
            if part.get_scale() == "log":
                chart.log_ticks(part)
        axis.legend(fontsize=8, framealpha=0.85, edgecolor=LIGHT["grid"])
    return figure
