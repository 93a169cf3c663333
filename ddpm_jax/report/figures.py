"""The charts of the page: pure functions from the results to a matplotlib Figure."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from ddpm_jax.report import table
from ddpm_jax.report.table import Cell, Number, Results, Row

COLOURS = ("#d55e00", "#0072b2", "#b8860b", "#56b4e9", "#cc79a7", "#000000", "#009e73", "#7f7f7f", "#6a3d9a")
MARKERS = ("v", "^", "<", "s", "D", "o", "P", "X", "*")
WIDTH = 9.0  # inches of a chart
TICKS = tuple(round(digit * 10.0**power, 3) for power in range(-3, 4) for digit in (1, 2, 3, 5, 7))
SYMLOG_THRESHOLD = 0.001  # bits/dim: linear below, logarithmic above


def _styles(results: Results) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every variance with its colour and marker, the same in all figures."""
    for name, colour, marker in zip(results["variances"], cycle(COLOURS), cycle(MARKERS), strict=False):
        yield name, dict(color=colour, marker=marker, markersize=6, markerfacecolor="none", linewidth=1.1, label=name)


def _numbers(values: Iterable[Number | None]) -> np.ndarray:
    """float64, NaN where there is no number."""
    return np.array(list(values), dtype=np.float64)


def _plain_log(axis: Axis, ticks: Sequence[Number] = TICKS) -> None:
    """A logarithmic axis with those of the ticks that lie in view, written plainly."""
    low, high = sorted(axis.get_view_interval())
    shown = [tick for tick in ticks if low <= tick <= high]
    axis.set_ticks(shown, labels=[f"{tick:g}" for tick in shown])
    axis.set_minor_locator(NullLocator())


def _panels(rows: dict[Cell, Row]) -> tuple[Figure, dict[str, Axes]]:
    """One panel a trajectory that has rows, side by side, with one y axis."""
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    names = list(dict.fromkeys(trajectory for _, trajectory, _ in rows))
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for name, axis in zip(names, axes, strict=True):
        axis.set_title(f"{name} trajectory")
        axis.grid(alpha=0.3)
    return figure, dict(zip(names, axes, strict=True))


def _legend_below(figure: Figure, axis: Axes) -> None:
    """One legend for all panels, under them."""
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)


def _against_steps(results: Results, value: str, error: str, scale: dict[str, Any]) -> tuple[Figure, Axes]:
    """A number of the likelihood rows against K, one line a variance, one panel a trajectory; and the first panel."""
    rows = table.likelihood(results)
    figure, panels = _panels(rows)
    for trajectory, axis in panels.items():
        axis.set_yscale(**scale)
        for name, style in _styles(results):
            cells = [rows.get((name, trajectory, K), {}) for K in results["K"]]
            values = _numbers([cell.get(value) for cell in cells])
            errors = _numbers([cell.get(error) for cell in cells])
            if np.isfinite(values).any():
                axis.errorbar(results["K"], values, errors, capsize=2, **style)
        axis.set_xscale("log")
        _plain_log(axis.xaxis, results["K"])
        axis.set_xlabel("steps K")
    _legend_below(figure, axis)
    return figure, next(iter(panels.values()))


def likelihood(results: Results) -> Figure:
    """bits/dim of test images against K."""
    figure, axis = _against_steps(results, "bits_per_dim", "standard_error", dict(value="log"))
    axis.set_ylabel("bits/dim, log scale")
    _plain_log(axis.yaxis)
    return figure


def likelihood_difference(results: Results) -> Figure:
    """bits/dim above `isotropic`, with the paired standard error: what the other figure cannot resolve."""
    scale = dict(value="symlog", linthresh=SYMLOG_THRESHOLD, linscale=0.5)
    figure, axis = _against_steps(results, "minus_isotropic", "paired_standard_error", scale)
    axis.set_ylabel("bits/dim above isotropic")
    return figure


def reverse_variance(results: Results) -> Figure:
    """sigma_t^2 / b of every choice between the bounds tb / b and 1 / a of Analytic-DPM, on an even trajectory."""
    sigma2 = results["sigma2"]
    t, beta = _numbers(sigma2["t"]), _numbers(sigma2["beta"])
    figure = Figure(figsize=(WIDTH, 5.0), layout="constrained")
    axis = figure.subplots()
    lower, upper = _numbers(sigma2["lower"]) / beta, _numbers(sigma2["upper"]) / beta
    axis.fill_between(t, lower, upper, color="#dfe6ee", label="between the bounds")
    for name, style in _styles(results):
        ratio = _numbers(sigma2["choices"].get(name, np.full(len(t), np.nan))) / beta
        if (ratio > 0).any():
            axis.plot(t, np.where(ratio > 0, ratio, np.nan), **style)
    axis.set(xscale="log", yscale="log", ylabel="variance / b")
    axis.set_xlabel(f"t of the step, log scale (even trajectory, K = {sigma2['K']})")
    _plain_log(axis.xaxis)
    axis.grid(alpha=0.3)
    _legend_below(figure, axis)
    return figure


def _band(axis: Axes, t: np.ndarray, value: np.ndarray, error: np.ndarray, label: str, colour: str) -> None:
    """A line with two standard errors around it; what is not positive is left out of a log scale."""
    axis.plot(t, np.where(value > 0, value, np.nan), label=label, linewidth=1.2, color=colour)
    low = np.maximum(value - 2 * error, 1e-3 * np.abs(value))
    axis.fill_between(t, low, value + 2 * error, where=value > 0, color=colour, alpha=0.2, linewidth=0)


def moments(results: Results) -> Figure:
    """M_t and 1 - Gamma_t, and the Gaussian the data look like, c_eff = (1-ab_t) M_t / (ab_t (1-M_t))."""
    per_time = {name: _numbers(values) for name, values in results["per_time"].items()}
    t, variance = per_time["t"], results["data"]["variance"]
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _band(left, t, per_time["excess"], per_time["excess_standard_error"], r"$1-\Gamma_t$", "#e69f00")
    _band(left, t, per_time["error"], per_time["error_standard_error"], "$M_t$", "black")
    left.set(
        yscale="log", xlabel="t", title="mean squared error of the noise", ylim=(np.nanmin(per_time["error"]) / 3, 2)
    )
    c_eff = per_time["c_eff"]
    right.plot(t, np.where(c_eff > 0, c_eff, np.nan), linewidth=1.2, color="#009e73", label=r"$c_{\mathrm{eff}}(t)$")
    right.axhline(variance, color="black", linestyle="--", label=f"variance of the data, {variance:.3f}")
    right.set(yscale="log", xlabel="t", title="the Gaussian the data look like")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    return figure


def _distances(axis: Axes, results: Results, rows: dict[Cell, Row], trajectory: str) -> None:
    """Mean and standard deviation over seeds, one colour a K, the variances along x."""
    places = np.arange(len(results["variances"]), dtype=np.float64)
    shifts = np.linspace(-0.22, 0.22, len(results["sample_K"]))
    for K, shift, colour, marker in zip(results["sample_K"], shifts, cycle(COLOURS[1:]), cycle("os^D"), strict=False):
        cells = [rows.get((name, trajectory, K), {}) for name in results["variances"]]
        mean, std = (_numbers([cell.get(key) for cell in cells]) for key in ("mean", "std"))
        axis.errorbar(places + shift, mean, std, fmt=marker, color=colour, capsize=3, label=f"K = {K}")
    axis.set_xticks(places, labels=results["variances"], rotation=40, ha="right", rotation_mode="anchor")


def frechet(results: Results) -> Figure:
    """Frechet distance in the classifier's features against variance and K."""
    classifier, rows = results["classifier"], table.samples(results)
    figure, panels = _panels(rows)
    for trajectory, axis in panels.items():
        _distances(axis, results, rows, trajectory)
        axis.axhline(classifier["bias"], color="black", linestyle="--", label="finite-sample bias")
        axis.axhline(classifier["held_out_frechet"], color="#7f7f7f", linestyle=":", label="held-out images")
        axis.set_yscale("log")
    next(iter(panels.values())).set_ylabel("Frechet distance, log scale")
    _legend_below(figure, axis)
    return figure


def training_loss(results: Results) -> Figure:
    """The loss against the training step."""
    step, loss = np.array(results["training"]["loss"], dtype=np.float64).T
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.plot(step, loss, color=COLOURS[1], linewidth=1.2)
    axis.set(yscale="log", xlabel="step", ylabel="training loss")
    axis.grid(alpha=0.3)
    _plain_log(axis.yaxis)
    return figure


def trajectories(results: Results) -> Figure:
    """The times that the optimal trajectory of each variance visits, above the even one."""
    chosen = {int(K): times for K, times in results["trajectories_chosen"].items()}
    shown = [K for K in sorted(chosen) if K in results["sample_K"]] or [min(chosen)]
    names = [name for name in results["variances"] if any(name in chosen[K] for K in shown)]
    figure = Figure(figsize=(WIDTH, 0.6 + (0.7 + 0.27 * len(names)) * len(shown)), layout="constrained")
    colours = {name: style["color"] for name, style in _styles(results)}
    axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for K, axis in zip(shown, axes, strict=True):
        even = np.linspace(1, max(results["per_time"]["t"]), K)
        times = [even, *(chosen[K].get(name, []) for name in names)]
        axis.eventplot(times, colors=["#7f7f7f", *(colours[name] for name in names)], linelengths=0.7)
        axis.set_yticks(range(len(times)), labels=["even", *names])
        axis.set(title=f"K = {K}", xscale="log")
        axis.invert_yaxis()
        _plain_log(axis.xaxis)
    axes[-1].set_xlabel("t, log scale")
    return figure


def draw(results: Results) -> dict[str, Figure]:
    """Every chart of the page, by name."""
    return dict(
        likelihood=likelihood(results),
        likelihood_difference=likelihood_difference(results),
        reverse_variance=reverse_variance(results),
        moments=moments(results),
        trajectories=trajectories(results),
        frechet=frechet(results),
        training_loss=training_loss(results),
    )
