"""The charts of the page: pure functions from the results to a chart."""

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ddpm_jax.report import charts, lookup
from ddpm_jax.report.charts import COLOURS, LIGHT, WIDTH, Chart, Curve
from ddpm_jax.report.lookup import Cell, Number, Results, Row

SYMLOG_THRESHOLD = 0.001  # bits/dim: linear below, logarithmic above
MID_GREY = 127.5  # RMSE on [0, 255] that a picture of mid-grey never exceeds
UNIT = "bits/dim"


def _against_steps(results: Results, value: str, error: str, scale: dict[str, Any]) -> Chart:
    """A number of the likelihood rows against K, one curve a variance, one panel a trajectory."""
    rows = lookup.likelihood(results)
    trajectories = list(dict.fromkeys(trajectory for _, trajectory, _ in rows))
    figure = charts.panels([f"{name} trajectory" for name in trajectories], 4.6)
    x, where = charts.numbers(results["K"]), [f"K = {K}" for K in results["K"]]
    curves = []
    for panel, trajectory in enumerate(trajectories):
        for name, style in charts.styles(results):
            cells = [rows.get((name, trajectory, K), {}) for K in results["K"]]
            y, errors = (charts.numbers([cell.get(key) for cell in cells]) for key in (value, error))
            curves.append(Curve(name, panel, x, y, errors, where, style, results["kinds"][name]))
    for axis in figure.axes:
        axis.set_yscale(**scale)
        axis.set(xscale="log", xlabel="steps K")
    drawn = charts.draw(figure, curves, UNIT)
    for axis in figure.axes:
        charts.log_ticks(axis.xaxis, results["K"])
    return drawn


def likelihood(results: Results) -> Chart:
    """bits/dim of test images against K."""
    drawn = _against_steps(results, "bits_per_dim", "standard_error", dict(value="log"))
    first = drawn.figure.axes[0]
    first.set_ylabel("bits/dim, log scale")
    charts.log_ticks(first.yaxis)
    return drawn


def likelihood_difference(results: Results) -> Chart | None:
    """bits/dim above `isotropic`, with the paired standard error: what the other figure cannot resolve.

    None where no variance was compared with it.
    """
    if all(row["minus_isotropic"] is None for row in lookup.likelihood(results).values()):
        return None
    scale = dict(value="symlog", linthresh=SYMLOG_THRESHOLD, linscale=0.5)
    drawn = _against_steps(results, "minus_isotropic", "paired_standard_error", scale)
    first = drawn.figure.axes[0]
    first.set_ylabel("bits/dim above isotropic")
    charts.plain_ticks(first.yaxis)
    return drawn


def _log_log(figure: Figure) -> None:
    """Every panel on logarithmic axes with readable ticks."""
    for axis in figure.axes:
        axis.set(xscale="log", yscale="log")
        charts.log_ticks(axis.xaxis)
        charts.log_ticks(axis.yaxis)


def _term_curves(results: Results, entry: Row, panel: int) -> list[Curve]:
    """The terms of one chain, one curve a variance."""
    t, where = charts.numbers(entry["t"]), [f"step from t = {t}" for t in entry["t"]]
    curves = []
    for name, style in charts.styles(results):
        choice = entry["choices"].get(name) or dict(kl=[], standard_error=[])
        kl, error = charts.numbers(choice["kl"]), charts.numbers(choice["standard_error"])
        if len(kl) == len(t):
            kind = "bars" if len(t) <= charts.MOST_MARKERS else "band"
            look, group = style | dict(kind=kind), results["kinds"][name]
            curves.append(Curve(name, panel, t, np.where(kl > 0, kl, np.nan), error, where, look, group))
    return curves


def likelihood_terms(results: Results) -> Chart | None:
    """The KL term of every step against its t, one panel a chain; None where no chain has such a step."""
    entries = [entry for entry in results["terms"] if entry["t"]]
    if not entries:
        return None
    figure = charts.panels([f"even trajectory, K = {entry['K']}" for entry in entries], 4.4, sharey=False)
    curves = [curve for panel, entry in enumerate(entries) for curve in _term_curves(results, entry, panel)]
    drawn = charts.draw(figure, curves, UNIT)
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
    figure = charts.panels([f"even trajectory, K = {known['K']}"], 4.4)
    distortion = charts.numbers(known["distortion"])
    curves = []
    for name, style in charts.styles(results):
        rate = charts.numbers(known["choices"].get(name) or [])
        if len(rate) == len(distortion) and np.isfinite(rate).all():
            where = [
                f"x_t known at t = {t}, rate {sent:.4g} bits/dim" for t, sent in zip(known["t"], rate, strict=True)
            ]
            look, group = style | dict(kind="band"), results["kinds"][name]
            curves.append(Curve(name, 0, rate, distortion, None, where, look, group))
    drawn = charts.draw(figure, curves, "RMSE")
    (axis,) = figure.axes
    axis.set(xlabel="rate, bits/dim", ylabel="distortion, RMSE on [0, 255]")
    axis.set_ylim(0, min(axis.get_ylim()[1], MID_GREY))
    return drawn


BOUNDS = "between the bounds"


def _times(values: np.ndarray) -> list[str]:
    """t in words."""
    return [f"t = {value:.6g}" for value in values]


def reverse_variance(results: Results) -> Chart:
    """sigma_t^2 / b of every choice between the bounds tb / b and 1 / a of Analytic-DPM, on an even trajectory."""
    sigma2 = results["sigma2"]
    t, beta = charts.numbers(sigma2["t"]), charts.numbers(sigma2["beta"])
    lower, upper = charts.numbers(sigma2["lower"]) / beta, charts.numbers(sigma2["upper"]) / beta
    area = dict(kind="area", color=LIGHT["area"], linewidth=0)
    curves = [Curve(BOUNDS, 0, t, (lower + upper) / 2, (upper - lower) / 2, [], area)]
    for name, style in charts.styles(results):
        ratio = charts.numbers(sigma2["choices"].get(name, np.full(len(t), np.nan))) / beta
        group = results["kinds"][name]
        curves.append(Curve(name, 0, t, np.where(ratio > 0, ratio, np.nan), None, _times(t), style, group))
    figure = charts.panels([f"even trajectory, K = {sigma2['K']}"], 4.6)
    drawn = charts.draw(figure, curves)
    (axis,) = figure.axes
    axis.set(xscale="log", yscale="log", xlabel="t of the step, log scale", ylabel="variance / b, log scale")
    charts.log_ticks(axis.xaxis)
    charts.log_ticks(axis.yaxis)
    return drawn


def moments(results: Results) -> Chart:
    """M_t and 1 - Gamma_t, and the Gaussian the data look like, c_eff = (1-ab_t) M_t / (ab_t (1-M_t))."""
    per_time = {name: charts.numbers(values) for name, values in results["per_time"].items()}
    t, variance = per_time["t"], results["data"]["variance"]
    excess, c_eff = (np.where(per_time[name] > 0, per_time[name], np.nan) for name in ("excess", "c_eff"))
    figure = charts.panels(["mean squared error of the noise", "the Gaussian the data look like"], 4.0, sharey=False)
    where, band = _times(t), dict(kind="band", linewidth=1.3)
    ends = np.array([0, len(t) - 1])
    rule = dict(kind="rule", color=LIGHT["ink"], linestyle="--", linewidth=1.2)
    curves = [
        Curve("1 − Gamma_t", 0, t, excess, per_time["excess_standard_error"], where, band | dict(color=LIGHT["gold"])),
        Curve("M_t", 0, t, per_time["error"], per_time["error_standard_error"], where, band | dict(color=LIGHT["ink"])),
        Curve("c_eff", 1, t, c_eff, None, where, band | dict(color=LIGHT["green"])),
        Curve(f"variance of the data, {variance:.3f}", 1, t[ends], np.full(2, variance), None, _times(t[ends]), rule),
    ]
    drawn = charts.draw(figure, curves)
    figure.axes[0].set(ylim=(per_time["error"][per_time["error"] > 0].min() / 3, 2))
    for axis in figure.axes:
        axis.set(yscale="log", xlabel="t")
        charts.log_ticks(axis.yaxis)
    return drawn


def spectrum(results: Results) -> Chart | None:
    """M_{t,j} averaged over radial bins against the radius, one curve a t, one panel a colour axis; None without it."""
    if not results["spectrum"]:
        return None
    rows = results["spectrum"]["rows"]
    times, axes = (list(dict.fromkeys(row[key] for row in rows)) for key in ("t", "axis"))
    titles = [f"colour axis {axis + 1}" for axis in axes] if len(axes) > 1 else ["frequencies of the error"]
    figure = charts.panels(titles, 4.2)
    look = dict(zip(times, zip(COLOURS, charts.MARKERS, strict=False), strict=False))
    curves = []
    for row in rows:
        colour, marker = look[row["t"]]
        style = dict(kind="bars", color=colour, marker=marker, markersize=5, markerfacecolor="none", linewidth=1.2)
        radius, mean, error = (charts.numbers(row[key]) for key in ("radius", "mean", "standard_error"))
        where = [f"frequency {value:g}" for value in radius]
        curves.append(Curve(f"t = {row['t']}", row["axis"], radius, mean, error, where, style))
    drawn = charts.draw(figure, curves)
    for axis in figure.axes:
        axis.set(yscale="log", xlabel="radius, half cycles an image")
    figure.axes[0].set_ylabel("M_{t,j}, log scale")
    charts.log_ticks(figure.axes[0].yaxis)
    return drawn


def clamped(results: Results) -> Chart | None:
    """The share of clamped estimates against t, of every variance where there is one; None where there is none."""
    shares = {name: charts.numbers(values) for name, values in results["clamped"].items()}
    moved = {name: share for name, share in shares.items() if (share > 0).any()}
    if not moved:
        return None
    look, t = dict(charts.styles(results)), charts.numbers(results["per_time"]["t"])
    figure = charts.panels(["" if len(moved) > 1 else next(iter(moved))], 3.4)  # one curve has no legend
    curves = [
        Curve(name, 0, t, share, None, _times(t), look[name] | dict(kind="band", marker=None), results["kinds"][name])
        for name, share in moved.items()
    ]
    drawn = charts.draw(figure, curves)
    figure.axes[0].set(xlabel="t", ylabel="share of estimates clamped")
    return drawn


def _distances(results: Results, rows: dict[Cell, Row], trajectory: str, panel: int) -> list[Curve]:
    """Mean and standard deviation over seeds, one curve a K with variances along x, and what to see them against."""
    names, classifier = results["variances"], results["classifier"]
    places = np.arange(len(names), dtype=np.float64)
    shifts = np.linspace(-0.22, 0.22, len(results["sample_K"]))
    style: dict[str, Any] = dict(kind="bars", linestyle="none", markersize=6)
    curves = []
    for K, shift, colour, marker in zip(results["sample_K"], shifts, cycle(COLOURS[1:]), cycle("os^D"), strict=False):
        cells = [rows.get((name, trajectory, K), {}) for name in names]
        mean, std = (charts.numbers([cell.get(key) for cell in cells]) for key in ("mean", "std"))
        look = style | dict(color=colour, marker=marker)
        curves.append(Curve(f"K = {K}", panel, places + shift, mean, std, names, look))
    for name, value, colour, dashes in (
        ("finite-sample bias", classifier["bias"], LIGHT["ink"], "--"),
        ("held-out images", classifier["held_out_frechet"], LIGHT["grey"], ":"),
    ):
        look = dict(kind="rule", color=colour, linestyle=dashes, linewidth=1.3)
        curves.append(Curve(name, panel, places, np.full(len(names), value), None, [""] * len(names), look))
    return curves


def frechet(results: Results) -> Chart:
    """Frechet distance in the classifier's features against variance and K."""
    rows = lookup.samples(results)
    trajectories = list(dict.fromkeys(trajectory for _, trajectory, _ in rows))
    figure = charts.panels([f"{name} trajectory" for name in trajectories], 4.6)
    curves = [curve for i, name in enumerate(trajectories) for curve in _distances(results, rows, name, i)]
    drawn = charts.draw(figure, curves)
    for axis in figure.axes:
        places = range(len(results["variances"]))
        axis.set_xticks(places, labels=results["variances"], rotation=40, ha="right", rotation_mode="anchor")
        axis.set_yscale("log")
    figure.axes[0].set_ylabel("Frechet distance, log scale")
    charts.log_ticks(figure.axes[0].yaxis)
    return drawn


def training_loss(results: Results) -> Chart | None:
    """The loss against the training step; None for a network that was trained elsewhere."""
    if not results["training"] or not results["training"]["loss"]:
        return None
    step, loss = np.array(results["training"]["loss"], dtype=np.float64).T
    figure = charts.panels([""], 3.2)
    style = dict(kind="band", color=COLOURS[1], linewidth=1.3)
    curve = Curve("training loss", 0, step, loss, None, [f"step {value:.0f}" for value in step], style)
    drawn = charts.draw(figure, [curve])
    figure.axes[0].set(yscale="log", xlabel="step", ylabel="training loss, log scale")
    charts.log_ticks(figure.axes[0].yaxis)
    return drawn


def _visits(results: Results, times: dict[str, list[Number]], panel: int) -> list[Curve]:
    """The times of every trajectory of one K, each in a row of its own, the even one first."""
    look = {name: dict(kind="events", color=style["color"]) for name, style in charts.styles(results)}
    visited = {name: charts.numbers(times[name]) for name in ("even", *look) if name in times}
    look["even"] = dict(kind="events", color=LIGHT["grey"])
    kinds = results["kinds"]
    return [
        Curve(name, panel, t, np.full(len(t), float(row)), None, _times(t), look[name], kinds.get(name, ""))
        for row, (name, t) in enumerate(visited.items())
    ]


def trajectories(results: Results) -> Chart | None:
    """The times that the optimal trajectory of each variance visits, above the even one; None where none was chosen."""
    chosen = {int(K): times for K, times in results["trajectories_chosen"].items()}
    if not chosen:
        return None
    shown = [K for K in sorted(chosen) if K in results["sample_K"]] or [min(chosen)]
    rows = [_visits(results, chosen[K], panel) for panel, K in enumerate(shown)]
    height = 0.6 + sum(0.45 + 0.23 * len(curves) for curves in rows)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.subplots(len(shown), 1, sharex=True)
    drawn = charts.draw(figure, [curve for curves in rows for curve in curves], "")
    for K, axis, curves in zip(shown, figure.axes, rows, strict=True):
        axis.set_yticks(range(len(curves)), labels=[curve.name for curve in curves])
        axis.set(title=f"K = {K}", xscale="log")
        axis.invert_yaxis()
    charts.log_ticks(figure.axes[-1].xaxis)
    figure.axes[-1].set_xlabel("t, log scale")
    return drawn


FIGURES: dict[str, Callable[[Results], Chart | None]] = dict(
    likelihood=likelihood,
    likelihood_difference=likelihood_difference,
    likelihood_terms=likelihood_terms,
    rate_distortion=rate_distortion,
    reverse_variance=reverse_variance,
    moments=moments,
    spectrum=spectrum,
    clamped=clamped,
    trajectories=trajectories,
    frechet=frechet,
    training_loss=training_loss,
)


def draw(results: Results) -> dict[str, Chart]:
    """Every chart of the page that has something to show, by name."""
    drawn = {name: figure(results) for name, figure in FIGURES.items()}
    return {name: made for name, made in drawn.items() if made is not None}
