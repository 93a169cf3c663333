"""The charts of the variational bound: against the chain's length, step by step, and as a code."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ddpm_jax.report import chart, table
from ddpm_jax.report.chart import Chart, Curve
from ddpm_jax.report.table import Results, Row

SYMLOG_THRESHOLD = 0.001  # bits/dim: linear below, logarithmic above
MID_GREY = 127.5  # RMSE on [0, 255] that a picture of mid-grey never exceeds
UNIT = "bits/dim"


def _against_steps(results: Results, value: str, error: str, scale: dict[str, Any]) -> Chart:
    """A number of the likelihood rows against K, one curve a variance, one panel a trajectory."""
    rows = table.likelihood(results)
    trajectories = list(dict.fromkeys(trajectory for _, trajectory, _ in rows))
    figure = chart.panels([f"{name} trajectory" for name in trajectories], 4.6)
    x, where = chart.numbers(results["K"]), [f"K = {K}" for K in results["K"]]
    curves = []
    for panel, trajectory in enumerate(trajectories):
        for name, style in chart.styles(results):
            cells = [rows.get((name, trajectory, K), {}) for K in results["K"]]
            y, errors = (chart.numbers([cell.get(key) for cell in cells]) for key in (value, error))
            curves.append(Curve(name, panel, x, y, errors, where, style, results["kinds"][name]))
    for axis in figure.axes:
        axis.set_yscale(**scale)
        axis.set(xscale="log", xlabel="steps K")
    drawn = chart.draw(figure, curves, UNIT)
    for axis in figure.axes:
        chart.log_ticks(axis.xaxis, results["K"])
    return drawn


def likelihood(results: Results) -> Chart:
    """bits/dim of test images against K."""
    drawn = _against_steps(results, "bits_per_dim", "standard_error", dict(value="log"))
    first = drawn.figure.axes[0]
    first.set_ylabel("bits/dim, log scale")
    chart.log_ticks(first.yaxis)
    return drawn


def likelihood_difference(results: Results) -> Chart | None:
    """bits/dim above `isotropic`, with the paired standard error: what the other figure cannot resolve.

    None where no variance was compared with it.
    """
    if all(row["minus_isotropic"] is None for row in table.likelihood(results).values()):
        return None
    scale = dict(value="symlog", linthresh=SYMLOG_THRESHOLD, linscale=0.5)
    drawn = _against_steps(results, "minus_isotropic", "paired_standard_error", scale)
    first = drawn.figure.axes[0]
    first.set_ylabel("bits/dim above isotropic")
    chart.plain_ticks(first.yaxis)
    return drawn


def _log_log(figure: Figure) -> None:
    """Every panel on logarithmic axes with readable ticks."""
    for axis in figure.axes:
        axis.set(xscale="log", yscale="log")
        chart.log_ticks(axis.xaxis)
        chart.log_ticks(axis.yaxis)


def _term_curves(results: Results, entry: Row, panel: int) -> list[Curve]:
    """The terms of one chain, one curve a variance."""
    t, where = chart.numbers(entry["t"]), [f"step from t = {t}" for t in entry["t"]]
    curves = []
    for name, style in chart.styles(results):
        choice = entry["choices"].get(name) or dict(kl=[], standard_error=[])
        kl, error = chart.numbers(choice["kl"]), chart.numbers(choice["standard_error"])
        if len(kl) == len(t):
            kind = "bars" if len(t) <= chart.MOST_MARKERS else "band"
            look, group = style | dict(kind=kind), results["kinds"][name]
            curves.append(Curve(name, panel, t, np.where(kl > 0, kl, np.nan), error, where, look, group))
    return curves


def likelihood_terms(results: Results) -> Chart | None:
    """The KL term of every step against its t, one panel a chain; None where no chain has such a step."""
    entries = [entry for entry in results["terms"] if entry["t"]]
    if not entries:
        return None
    figure = chart.panels([f"even trajectory, K = {entry['K']}" for entry in entries], 4.4, sharey=False)
    curves = [curve for panel, entry in enumerate(entries) for curve in _term_curves(results, entry, panel)]
    drawn = chart.draw(figure, curves, UNIT)
    _log_log(figure)
    for axis in figure.axes:
        axis.set_xlabel("t of the step, log scale")
    figure.axes[0].set_ylabel("bits/dim of the step, log scale")
    return drawn


def rate_distortion(results: Results) -> Chart | None:
    """Distortion against rate, Ho et al. 2020, section 4.3; None where the chain has no step."""
    known = results["rate_distortion"]
    if not known["t"]:
        return None
    figure = chart.panels([f"even trajectory, K = {known['K']}"], 4.4)
    distortion = chart.numbers(known["distortion"])
    curves = []
    for name, style in chart.styles(results):
        rate = chart.numbers(known["choices"].get(name) or [])
        if len(rate) == len(distortion) and np.isfinite(rate).all():
            where = [
                f"x_t known at t = {t}, rate {sent:.4g} bits/dim" for t, sent in zip(known["t"], rate, strict=True)
            ]
            look, group = style | dict(kind="band"), results["kinds"][name]
            curves.append(Curve(name, 0, rate, distortion, None, where, look, group))
    drawn = chart.draw(figure, curves, "RMSE")
    (axis,) = figure.axes
    axis.set(xlabel="rate, bits/dim", ylabel="distortion, RMSE on [0, 255]")
    axis.set_ylim(0, min(axis.get_ylim()[1], MID_GREY))
    return drawn
