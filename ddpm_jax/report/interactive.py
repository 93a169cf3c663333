"""A chart as SVG inside the page, with what the page's script needs: a legend, and points in the drawing's units."""

import io
import re
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.transforms import Affine2D

from ddpm_jax.report import chart
from ddpm_jax.report.chart import LIGHT, Chart, Curve

POINTS_PER_INCH = 72  # the units of an SVG that matplotlib writes
SWATCH = (30, 12)  # width and height
SWATCH_MARKER = 7.5
DASHES = {"--": ' stroke-dasharray="5 3"', ":": ' stroke-dasharray="2 2"', "-.": ' stroke-dasharray="6 2 1.5 2"'}
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
        dashes = DASHES.get(dash, "")
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
    """Those points of a curve that lie in its panel, at most `chart.MOST_POINTS` of them."""
    axis, count = made.figure.axes[curve.panel], len(curve.where)
    places = axis.transData.transform(np.column_stack([curve.x[:count], curve.y[:count]]))
    low, high = axis.bbox.get_points()
    inside = np.all((places > low - 1) & (places < high + 1), axis=1)
    kept = np.flatnonzero(inside)
    places *= POINTS_PER_INCH / made.figure.dpi
    height = made.figure.get_size_inches()[1] * POINTS_PER_INCH
    return [
        [round(float(places[i, 0]), 2), round(float(height - places[i, 1]), 2), curve.where[i], _said(made, curve, i)]
        for i in kept[chart.thinned(len(kept))].tolist()
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
