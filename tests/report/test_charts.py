"""What the charts share: colours that can be told from the page, ticks that can be read, curves with one id."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddpm_jax.report import charts
from ddpm_jax.report.charts import Curve

PAPER = ("#ffffff", "#14171a")
LEAST_CONTRAST = 3.0  # of graphics, WCAG 2.2, criterion 1.4.11


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def lab(colour: str) -> np.ndarray:
    """CIE 1976 L*a*b* of an sRGB colour, D65."""
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = to_xyz @ linear / to_xyz.sum(axis=1)
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("name", sorted(charts.PALETTE.keys() - {"grid", "area"}))
def test_every_curve_can_be_told_from_the_page(name: str) -> None:
    assert all(
        contrast(colour, paper) >= LEAST_CONTRAST for colour, paper in zip(charts.PALETTE[name], PAPER, strict=True)
    )


def test_no_two_variances_look_alike(results: dict[str, Any]) -> None:
    looks = [(style["color"], style["marker"]) for _, style in charts.styles(results)]
    assert len(looks) == len({colour for colour, _ in looks}) == len(set(looks)) == len(results["variances"])


def test_far_more_variances_than_there_are_colours_can_be_told_apart(results: dict[str, Any]) -> None:
    """The lists of colours and markers have no common factor: a pair returns after their product."""
    names = [f"variance {i}" for i in range(len(charts.COLOURS) * len(charts.MARKERS))]
    many = results | dict(variances=names, kinds=dict.fromkeys(names, "fixed"))
    looks = {(style["color"], style["marker"]) for _, style in charts.styles(many)}
    assert len(looks) == len(names)


def test_the_line_says_what_fixes_a_variance(results: dict[str, Any]) -> None:
    lines = {name: style["linestyle"] for name, style in charts.styles(results)}
    assert len({lines[name] for name in ("small", "isotropic", "spectral", "npr")}) == 4
    assert lines["analytic"] == lines["isotropic"] and lines["ocm"] == lines["npr"]


@pytest.mark.parametrize("scheme", [0, 1])
def test_no_two_colours_are_close(scheme: int) -> None:
    """In CIELAB, where 2.3 is a just noticeable difference (Sharma 2003); 15 leaves room for thin lines."""
    places = [lab(colours[scheme]) for name, colours in charts.PALETTE.items() if name not in ("grid", "area")]
    apart = [float(np.linalg.norm(one - other)) for one, other in combinations(places, 2)]
    assert min(apart) > 15


@pytest.mark.parametrize(
    "value, text",
    [(0, "0"), (200, "200"), (1000.0, "1000"), (0.001, "0.001"), (-0.01, "−0.01"), (1e-4, "10⁻⁴"), (1e5, "10⁵"),
     (2e-6, "2·10⁻⁶"), (-1e-5, "−1·10⁻⁵")],
)  # fmt: skip
def test_a_tick_is_written_plainly(value: float, text: str) -> None:
    assert charts.tick_text(value) == text


@pytest.mark.parametrize("low, high", [(0.9, 4.0), (3.0, 260.0), (0.02, 15.0), (1e-5, 2.0), (1e-12, 3.0)])
def test_a_logarithmic_axis_has_a_few_ticks_inside_its_view(low: float, high: float) -> None:
    axis = Figure().subplots()
    axis.set(yscale="log", ylim=(low, high))
    charts.log_ticks(axis.yaxis)
    ticks = axis.get_yticks()
    assert 3 <= len(ticks) <= 10
    assert all(low <= tick <= high for tick in ticks)
    assert axis.get_ylim() == (low, high)


@pytest.mark.parametrize("count", [0, 1, 2, 99, 100, 101, 1000])
def test_thinned_keeps_the_ends(count: int) -> None:
    kept = charts.thinned(count).tolist()
    assert len(kept) == len(set(kept)) == min(count, charts.MOST_POINTS)
    assert kept == sorted(kept)
    assert count == 0 or (kept[0], kept[-1]) == (0, count - 1)


def drawn(kind: str, count: int = 5) -> tuple[Curve, Axes]:
    figure = charts.panels(["", "one"], 3.0)
    x = np.arange(1.0, count + 1)
    style = dict(kind=kind, color="#000000")
    curve = Curve("a & b", 1, x, x**2, 0.1 * x, [""] * count, style)
    charts.draw(figure, [curve])
    return curve, figure.axes[1]


@pytest.mark.parametrize("kind, least", [("bars", 4), ("band", 2), ("area", 1), ("rule", 1), ("events", 1)])
def test_every_artist_of_a_curve_has_its_id(kind: str, least: int) -> None:
    curve, axis = drawn(kind)
    artists = [*axis.lines, *axis.collections]
    assert len(artists) >= least
    assert {artist.get_gid() for artist in artists} == {"1|a & b"} == {curve.gid}


def test_a_band_is_two_errors_to_both_sides() -> None:
    curve, axis = drawn("band")
    (band,) = axis.collections
    corners = band.get_paths()[0].vertices
    assert curve.error is not None
    for x, y, error in zip(curve.x, curve.y, curve.error, strict=True):
        at = corners[np.isclose(corners[:, 0], x), 1]
        np.testing.assert_allclose([at.min(), at.max()], [y - 2 * error, y + 2 * error])


def test_a_curve_without_a_number_is_left_out() -> None:
    figure = charts.panels([""], 3.0)
    x = np.arange(3.0)
    curves = [Curve(name, 0, x, y, None, [""] * 3, dict(kind="bars")) for name, y in (("a", x), ("b", x * np.nan))]
    assert [curve.name for curve in charts.draw(figure, curves).curves] == ["a"]
