"""A chart and its curves: what the figures of the page have in common."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from ddpm_jax.report.table import Number, Results

# On white, and on the page's dark background: a contrast of 3 or more, but for what curves are drawn over.
PALETTE = {
    "vermilion": ("#d55e00", "#ff8f47"),
    "blue": ("#0072b2", "#3f9fe6"),
    "gold": ("#a67a00", "#d8b13a"),
    "sky": ("#0a9bc0", "#3fd3e8"),
    "pink": ("#c4568f", "#f29ac9"),
    "green": ("#008f68", "#35c997"),
    "grey": ("#7a7a7a", "#9aa3ab"),
    "purple": ("#6a3d9a", "#b48cf2"),
    "crimson": ("#b3001e", "#ff6464"),
    "navy": ("#1f2f8f", "#7d8cff"),
    "lime": ("#5f8c00", "#a9d63c"),
    "brown": ("#6b3a1e", "#b98563"),
    "teal": ("#005a5e", "#6fa8a0"),
    "grid": ("#dcdfe3", "#2c333a"),
    "area": ("#dfe6ee", "#28323d"),
}
LIGHT = {name: light for name, (light, _) in PALETTE.items()} | {"ink": "#000000"}
COLOURS = tuple(
    LIGHT[name] for name in "vermilion blue gold sky pink ink green purple crimson navy lime brown teal grey".split()
)
MARKERS = ("v", "^", "<", "s", "D", "o", "P", "X", "*", ">", "h", "d", "p")  # no common factor with the colours
DASHES = {"fixed": "--", "measured": "-", "frequencies": "-.", "trained": ":"}  # by what fixes a variance
WIDTH = 9.0  # inches of a chart
MOST_MARKERS = 60  # a curve with more points is a plain line
MOST_POINTS = 100  # of a shaded band, and of a curve under the pointer
LEGEND_COLUMNS = 4
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Curve(NamedTuple):
    """One curve of one panel.

    Attributes:
      name: what the legend says; curves of one name are shown and hidden together.
      panel: index in figure.axes.
      x: where the points are; for a rule, where it can be read.
      y: their values, NaN where there is none.
      error: standard error or deviation; None for none.
      where: x of every point in words.
      style: keywords of matplotlib's Line2D, and `kind`, a name of `DRAW`.
      group: curves that the legend shows and hides together; nothing for none.
    """

    name: str
    panel: int
    x: np.ndarray
    y: np.ndarray
    error: np.ndarray | None
    where: Sequence[str]
    style: dict[str, Any]
    group: str = ""

    @property
    def gid(self) -> str:
        """The id of all its artists."""
        return f"{self.panel}|{self.name}"

    @property
    def line(self) -> dict[str, Any]:
        """The keywords of Line2D; no marker where there are many points."""
        marker = {} if len(self.x) <= MOST_MARKERS else {"marker": None}
        return {key: value for key, value in self.style.items() if key != "kind"} | marker


class Chart(NamedTuple):
    """A figure whose curves are drawn, without a legend; `unit` is that of their y."""

    figure: Figure
    curves: list[Curve]
    unit: str = ""


def numbers(values: Iterable[Number | None]) -> np.ndarray:
    """float64, NaN where there is no number."""
    return np.array(list(values), dtype=np.float64)


def styles(results: Results) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every variance with its colour and marker, and a line for what fixes it, the same in all figures."""
    common: dict[str, Any] = dict(kind="bars", markersize=6, markerfacecolor="none", linewidth=1.2)
    for name, colour, marker in zip(results["variances"], cycle(COLOURS), cycle(MARKERS), strict=False):
        yield name, common | dict(color=colour, marker=marker, linestyle=DASHES[results["kinds"][name]])


def thinned(count: int, most: int = MOST_POINTS) -> np.ndarray:
    """Indices of at most so many of `count` points, evenly spread, both ends among them."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def _bars(axis: Axes, curve: Curve) -> None:
    """Markers joined by lines, with error bars."""
    drawn = axis.errorbar(curve.x, curve.y, curve.error, capsize=2, label=curve.name, **curve.line)
    for artist in drawn.get_children():
        artist.set_gid(curve.gid)


def _band(axis: Axes, curve: Curve) -> None:
    """A line in a band of two errors; where that reaches zero it ends at a thousandth of the value, for log axes."""
    axis.plot(curve.x, curve.y, label=curve.name, gid=curve.gid, **curve.line)
    if curve.error is not None:
        at = thinned(len(curve.x))
        y, error = curve.y[at], 2 * curve.error[at]
        style = dict(color=curve.style["color"], alpha=0.2, linewidth=0, gid=curve.gid)
        axis.fill_between(curve.x[at], np.maximum(y - error, 1e-3 * np.abs(y)), y + error, **style)


def _area(axis: Axes, curve: Curve) -> None:
    """Everything within y ± error."""
    axis.fill_between(
        curve.x, curve.y - curve.error, curve.y + curve.error, label=curve.name, gid=curve.gid, **curve.line
    )


def _rule(axis: Axes, curve: Curve) -> None:
    """One value across the panel."""
    axis.axhline(curve.y[0], label=curve.name, gid=curve.gid, **curve.line)


def _events(axis: Axes, curve: Curve) -> None:
    """A tick at every x, in the row y."""
    style: dict[str, Any] = dict(colors=curve.style["color"], label=curve.name, gid=curve.gid)
    axis.eventplot(curve.x, lineoffsets=curve.y[0], linelengths=0.7, **style)


DRAW: dict[str, Callable[[Axes, Curve], None]] = dict(bars=_bars, band=_band, area=_area, rule=_rule, events=_events)


def draw(figure: Figure, curves: Iterable[Curve], unit: str = "") -> Chart:
    """The chart with those of the curves that have a point."""
    drawn = [curve for curve in curves if np.isfinite(curve.y).any()]
    for curve in drawn:
        DRAW[curve.style["kind"]](figure.axes[curve.panel], curve)
    return Chart(figure, drawn, unit)


def panels(titles: Sequence[str], height: float, sharey: bool = True) -> Figure:
    """An empty panel a title, side by side; height in inches."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    for axis, title in zip(figure.subplots(1, len(titles), sharey=sharey, squeeze=False)[0], titles, strict=True):
        axis.set_title(title)
        axis.grid(color=LIGHT["grid"], linewidth=0.7)
        axis.set_axisbelow(True)
    return figure


def add_legend(chart: Chart, columns: int = LEGEND_COLUMNS) -> None:
    """One legend for all panels, under them; none for a single curve."""
    handles: dict[str, Any] = {}
    for axis in chart.figure.axes:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    if len(handles) > 1:
        style: dict[str, Any] = dict(ncols=columns, frameon=False)
        chart.figure.legend(list(handles.values()), list(handles), loc="outside lower center", **style)


def tick_text(value: Number, _: int | None = None) -> str:
    """A tick written plainly; powers of ten beyond 0.001 and 10000 with their exponent."""
    exponent = math.log10(abs(value)) if value else 0.0
    if -3.5 < exponent < 4.5:
        return f"{value:g}".replace("-", "−")
    factor = value / 10.0 ** math.floor(exponent + 1e-9)
    power = "10" + str(math.floor(exponent + 1e-9)).translate(SUPERSCRIPTS)
    return power if math.isclose(factor, 1.0) else f"{factor:g}·{power}".replace("-", "−")


def log_ticks(axis: Axis, ticks: Sequence[Number] | None = None) -> None:
    """A logarithmic axis with those of the ticks that lie in view; by default about ten of them or fewer."""
    low, high = sorted(axis.get_view_interval())
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    span = math.log10(high / low)
    digits = (1, 2, 3, 5, 7) if span < 1.3 else (1, 2, 5) if span < 2.6 else (1,)
    step = 1 if span < 8 else 2
    powers = range(first, last + 1, step)
    known = ticks if ticks is not None else [digit * 10.0**power for power in powers for digit in digits]
    shown = [tick for tick in known if low <= tick <= high]
    axis.set_ticks(shown, labels=[tick_text(tick) for tick in shown])
    axis.set_minor_locator(NullLocator())


def plain_ticks(axis: Axis) -> None:
    """Ticks where matplotlib puts them, written as elsewhere on the page."""
    axis.set_major_formatter(FuncFormatter(tick_text))
    axis.set_minor_locator(NullLocator())
