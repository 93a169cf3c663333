"""The tables and the figure of `experiments.exact_gaussian`, from its results."""

import math
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddpm_jax.report import charts, published, tables
from ddpm_jax.report.charts import COLOURS, LIGHT, MARKERS, Curve
from ddpm_jax.report.lookup import Results, Row
from ddpm_jax.report.tables import number

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
    values = charts.numbers(y)
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
    figure = Figure(figsize=(charts.WIDTH * 1.35, HEIGHT), layout="constrained")
    for axis, (title, label) in zip(figure.subplots(3, 2).ravel(), PANELS.items(), strict=True):
        axis.set(xlabel=label, xscale="log", yscale="log")
        axis.set_title(title, fontsize=11)
        axis.grid(color=LIGHT["grid"], linewidth=0.7)
        axis.set_axisbelow(True)
    charts.draw(figure, [curve for part in (_family, _spectrum, _table, _optima, _paths) for curve in part(results)])
    family, spectrum, _, optima, _, samples = figure.axes
    family.set(yscale="linear")
    spectrum.set(xscale="linear")
    optima.set(xscale="linear", ylabel="variance / b")
    optima.set_yscale("symlog", linthresh=SMALLEST)
    optima.set_yticks(TICKS, labels=[charts.tick_text(tick) for tick in TICKS])
    optima.set_ylim(bottom=-SMALLEST / 4)
    _samples(samples, results)
    for axis in figure.axes:
        for part in (axis.xaxis, axis.yaxis):
            if part.get_scale() == "log":
                charts.log_ticks(part)
        axis.legend(fontsize=8, framealpha=0.85, edgecolor=LIGHT["grid"])
    return figure


SHOWN_TIMES = 6  # rows of the family's table
INFINITE = "∞"


def _short(value: float | None) -> str:
    """Four digits; JSON's null stands for no finite number."""
    return INFINITE if value is None or not math.isfinite(value) else f"{value:.4g}".replace("-", "−")


def family(results: Results) -> str:
    """sigma^2(c)/b at some t, and the directions outside [tb, b]."""
    of = results["family"]
    picked = np.unique(np.linspace(0, len(of["t"]) - 1, SHOWN_TIMES).round().astype(int))
    header = ["t", *(f"c = {c}" for c in of["ratios"]), "bound 1/a"]
    rows = [
        [str(of["t"][k]), *(f"{ratio[k]:.6f}" for ratio in of["ratios"].values()), f"{of['upper'][k]:.6f}"]
        for k in picked
    ]
    return (
        f"## One family: variance / b of the even chain of {of['K']} steps\n\n"
        "c = 0 is `small`, c = 1 is `large`, c → ∞ the upper bound of Analytic-DPM.\n\n"
        f"{tables.markdown_table(header, rows)}\n"
        f"{of['outside']} of {of['directions']} directions of the fitted Gaussian lie above [tb, b] at every t, "
        f"{of['outside_at_some_t'] - of['outside']} at some t only. They hold {100 * of['share_of_variance']:.1f} % of "
        f"the variance of the data. By colour axis: {', '.join(map(str, of['outside_by_axis']))}. The largest c is "
        f"{of['largest']:.1f}.\n"
    )


def power_law(results: Results) -> str:
    """Predicted beside published likelihoods."""
    of = results["power_law"]
    first = [[f"K = {row['K']}", _short(row["published"]), _short(row["fitted"])] for row in of["first_variances"]]
    ours: dict[tuple[str, str, str], published.Values] = {}
    for cell in of["cells"]:
        ours.setdefault(("ddpm", cell["variance"], cell["trajectory"]), {})[cell["K"]] = cell["predicted"]
    rows = published.rows(of["data"], "nll")
    spectral = [["spectral", *(f"{value:.2f}" for value in of["spectral"].values())]]
    return (
        "## A Gaussian with a power-law spectrum predicts a published table\n\n"
        f"Fitted to four published variances of the step into t = 1: p = {of['p']:.4f}, f0 = {of['f0']:.4f}.\n\n"
        f"{tables.markdown_table(['first step', 'published', 'fitted'], first)}\n"
        f"L_0 = {of['decoder']:.4f} bits/dim, from one cell: {', '.join(map(str, of['anchor']))}.\n\n"
        f"{published.beside(rows, ours, 'predicted')}\n{published.sources(rows)}\n"
        f"Even trajectory, {of['unanchored']} cells that fixed nothing: median error {100 * of['median']:.2f} %, worst "
        f"{100 * of['worst']:.2f} %. Optimal trajectory: median {100 * of['optimal_median']:.2f} %, worst "
        f"{100 * of['optimal_worst']:.2f} %.\n\n"
        "The variance of every direction its own, bits/dim. Optimistic: real images are not Gaussian, and their "
        "M_{t,j} must be measured.\n\n"
        f"{tables.markdown_table(['variance', *(f'K = {K}' for K in of['spectral'])], spectral)}"
    )


def _worst(rows: list[Row]) -> float:
    return max(abs(z) for row in rows for name in ("variance_z", "error_z") for z in row[name])


def finals(results: Results) -> str:
    """P_0 of every choice and kernel for the longest chain, and the worst deviation of samples over all chains."""
    rows = results["finals"]
    longest = max(row["K"] for row in rows)
    lines = []
    for name, kernel in dict.fromkeys((row["variance"], row["kernel"]) for row in rows):
        mine = [row for row in rows if (row["variance"], row["kernel"]) == (name, kernel)]
        shown = next(row for row in mine if (row["K"], row["last_step"]) == (longest, "noise"))
        pairs = zip(shown["variance_exact"], shown["variance_drawn"], strict=True)
        worst = [f"{_worst([row for row in mine if row['last_step'] == last]):.1f}" for last in ("noise", "mean")]
        lines.append([name, kernel, *(f"{_short(P)} ({_short(drawn)})" for P, drawn in pairs), *worst])
    Ks = sorted({row["K"] for row in rows})
    header = ["variance", "kernel", *(f"c = {c:g}" for c in rows[0]["level"]), "worst z", "no last noise"]
    return (
        f"## Final variance of every choice, K = {longest}: by the recursion, and (drawn)\n\n"
        f"{tables.markdown_table(header, lines)}\n"
        "Worst z: the largest deviation of a drawn variance or mean, in standard errors, over K = "
        f"{', '.join(map(str, Ks))} and all c. Over everything: {_worst(rows):.2f}.\n"
    )


def optima(results: Results) -> str:
    """The Frechet-optimal isotropic variances against those of least path KL, in all scores."""
    header = ["variance", "K", "Frechet distance", "KL(data, samples)", "path KL", "steps without noise", "gap"]
    lines = [
        [
            row["variance"],
            str(row["K"]),
            _short(row["frechet"]),
            _short(row["data_kl"]),
            _short(row["path_kl"]),
            str(row["silent"]),
            "" if row["gap"] is None else f"{row['gap']:.0e}".replace("-", "−"),
        ]
        for row in results["optima"]
    ]
    return (
        "## Isotropic variances of least Frechet distance, on the fitted Gaussian\n\n"
        "KL in nats/dim. `isotropic` is the least in path KL. The gap bounds what is left to gain in distance.\n\n"
        f"{tables.markdown_table(header, lines)}"
    )


def paths(results: Results) -> str:
    """Path KL against K, and the slope from one K to the next on log scales."""
    rows = results["paths"]
    names = list(rows[0]["path_kl"])
    header = ["K", *(word for name in names for word in (name, "slope"))]
    lines = []
    for row, before in zip(rows, [None, *rows], strict=False):
        steps = [(row["path_kl"][name], before["path_kl"][name] if before else None) for name in names]
        ratio = math.log(row["K"] / before["K"]) if before else math.nan
        slopes = [math.log(new / old) / ratio if new and old else None for new, old in steps]
        words = [(number(new, 4), number(slope, 2)) for (new, _), slope in zip(steps, slopes, strict=True)]
        lines.append([str(row["K"]), *(word for pair in words for word in pair)])
    return f"## Path KL against K, nats/dim, on the fitted Gaussian\n\n{tables.markdown_table(header, lines)}"


def text(results: Results) -> str:
    """All tables, as Markdown."""
    return "\n".join(part(results) for part in (family, power_law, finals, optima, paths))
