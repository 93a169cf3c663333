"""How a chart is drawn: its curves and style, and as SVG inside the page with a legend and points to hover over."""

import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import FuncFormatter, NullLocator
from matplotlib.transforms import Affine2D

from ddpm_jax.report.lookup import Number, Results

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


POINTS_PER_INCH = 72  # the units of an SVG that matplotlib writes
SWATCH = (30, 12)  # width and height
SWATCH_MARKER = 7.5
SVG_DASHES = {"--": ' stroke-dasharray="5 3"', ":": ' stroke-dasharray="2 2"', "-.": ' stroke-dasharray="6 2 1.5 2"'}
LETTERS = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}  # by the codes of matplotlib.path.Path
VARIABLES = {light: f"var(--{name})" for name, light in LIGHT.items()} | {"#ffffff": "none"}
NUMBERS = re.compile(r'\b(d|x|y|width|height|transform)="([^"]*)"')
DECIMAL = re.compile(r"-?\d+\.\d+")


class Drawing(NamedTuple):
    """What stands in the page for one chart.

    Attributes:
      svg: the drawing; every curve's artists are groups with `data-curve`, the curve's name.
      legend: name, swatch (an SVG) and group of every name, in the order of the chart; empty for a single curve.
      points: for every curve its name and points, each x, y (SVG units), where it is and its value in words.
    """

    svg: Markup
    legend: list[dict[str, Any]]
    points: list[dict[str, Any]]


def _short(match: re.Match[str]) -> str:
    """A number with two decimals."""
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")


def _with_variables(svg: str) -> str:
    """Colours as the page's CSS variables, which differ between light and dark; no white background."""
    return re.sub(r"#[0-9a-f]{6}(?=[;\"])", lambda match: VARIABLES.get(match[0], match[0]), svg)


def _cleaned(svg: str) -> str:
    """The svg element alone, without a style or a size of its own and without ids that nothing refers to."""
    svg = re.sub(r"\s*<metadata>.*?</metadata>|\s*<style.*?</style>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<svg .*?(viewBox="[^"]*").*?>', r"<svg \1>", svg, count=1)
    svg = re.sub(r'<g id="\d+\|([^"]*)">', r'<g class="curve" data-curve="\1">', svg)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?|(?<= )transform=\"rotate\(-0 [^\"]*\"", "", svg)
    svg = NUMBERS.sub(lambda match: f'{match[1]}="{DECIMAL.sub(_short, " ".join(match[2].split()))}"', svg)
    return re.sub(r"\n\s*", "\n", _with_variables(svg)).replace("xlink:href", "href")


def svg(figure: Figure, name: str) -> Markup:
    """The figure as an SVG element; the same figure and name give the same text, another name other ids.

    The figure is drawn once, where `savefig` draws twice.
    """
    buffer = io.StringIO()
    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": name, "path.simplify_threshold": 0.4}
    with matplotlib.rc_context(style):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return Markup(_cleaned(buffer.getvalue()))


def _marker(curve: Curve) -> str:
    """The curve's marker as an SVG path, in the middle of a swatch; nothing where it has none."""
    name, colour = curve.line.get("marker"), _colour(curve)
    if not name:
        return ""
    style = MarkerStyle(name)
    size = Affine2D().scale(SWATCH_MARKER, -SWATCH_MARKER)
    path = style.get_path().transformed(style.get_transform() + size)
    fill = "none" if curve.style.get("markerfacecolor") == "none" else colour
    outline = " ".join(
        LETTERS[int(code)] + " ".join(f"{value:.2f}" for value in points if LETTERS[int(code)] != "Z")
        for points, code in path.iter_segments(curves=True)
    )
    middle = f"translate({SWATCH[0] / 2:g} {SWATCH[1] / 2:g})"
    return f'<path d="{outline}" transform="{middle}" stroke="{colour}" fill="{fill}"/>'


def _colour(curve: Curve) -> str:
    """The curve's colour in CSS."""
    return VARIABLES.get(curve.style["color"], curve.style["color"])


def _swatch(curve: Curve) -> Markup:
    """A piece of the curve with its marker; a filled square for an area."""
    (width, height), dash = SWATCH, curve.style.get("linestyle", "-")
    if curve.style["kind"] == "area":
        outline = f"M4 .5h{width - 8}v{height - 1}h{8 - width}z"
        shape = f'<path d="{outline}" fill="{_colour(curve)}" stroke="currentColor" stroke-width="0.5"/>'
    elif dash == "none":
        shape = ""
    else:
        dashes = SVG_DASHES.get(dash, "")
        shape = f'<path d="M1 {height / 2:g}H{width - 1}" stroke="{_colour(curve)}" stroke-width="1.6"{dashes}/>'
    return Markup(f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{shape}{_marker(curve)}</svg>')


def _said(made: Chart, curve: Curve, i: int) -> str:
    """The value of a point with its error and unit; nothing where only x means something."""
    if curve.style["kind"] == "events":
        return ""
    text = f"{curve.y[i]:.4g}"
    if curve.error is not None and curve.error[i] > 0:
        text += f" ± {curve.error[i]:.2g}"
    return f"{text} {made.unit}".strip().replace("-", "−")


def _points(made: Chart, curve: Curve) -> list[list[Any]]:
    """Those points of a curve that lie in its panel, at most `MOST_POINTS` of them."""
    axis, count = made.figure.axes[curve.panel], len(curve.where)
    places = axis.transData.transform(np.column_stack([curve.x[:count], curve.y[:count]]))
    low, high = axis.bbox.get_points()
    inside = np.all((places > low - 1) & (places < high + 1), axis=1)
    kept = np.flatnonzero(inside)
    places *= POINTS_PER_INCH / made.figure.dpi
    height = made.figure.get_size_inches()[1] * POINTS_PER_INCH
    return [
        [round(float(places[i, 0]), 2), round(float(height - places[i, 1]), 2), curve.where[i], _said(made, curve, i)]
        for i in kept[thinned(len(kept))].tolist()
    ]


def drawing(made: Chart, name: str) -> Drawing:
    """The chart for the page; points are where the drawing has just put them."""
    drawn = svg(made.figure, name)
    first = {curve.name: curve for curve in reversed(made.curves)}
    names = dict.fromkeys(curve.name for curve in made.curves)
    entries = [dict(name=each, swatch=_swatch(first[each]), group=first[each].group) for each in names]
    legend = entries if len(entries) > 1 else []
    points = [dict(name=curve.name, points=_points(made, curve)) for curve in made.curves]
    return Drawing(drawn, legend, [entry for entry in points if entry["points"]])
