"""The SVG in the page: nothing outside the page is needed, and points lie where the drawing has them."""

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import pytest

from ddpm_jax.report import charts, figures
from ddpm_jax.report.charts import POINTS_PER_INCH, Chart, Drawing

Results = dict[str, Any]
ROUNDING = 0.006  # SVG units: two decimals


@pytest.fixture(scope="module")
def drawn(made_up: Results) -> dict[str, tuple[Chart, Drawing]]:
    """Every chart with its drawing."""
    return {name: (made, charts.drawing(made, name)) for name, made in figures.draw(made_up).items()}


@pytest.mark.parametrize("name", figures.FIGURES)
def test_positions_agree_with_values(drawn: dict[str, tuple[Chart, Drawing]], name: str) -> None:
    made, drawing = drawn[name]
    height = made.figure.get_size_inches()[1] * POINTS_PER_INCH
    shown = {entry["name"] for entry in drawing.points}
    assert shown == {curve.name for curve in made.curves} - {figures.BOUNDS}
    with_points = [curve for curve in made.curves if curve.style["kind"] != "area"]
    assert len(with_points) == len(drawing.points)
    for curve, entry in zip(with_points, drawing.points, strict=True):
        assert (curve.name, len(entry["points"]) <= charts.MOST_POINTS) == (entry["name"], True)
        places = np.array([(x, height - y) for x, y, *_ in entry["points"]])
        axis = made.figure.axes[curve.panel]
        to_units = POINTS_PER_INCH / made.figure.dpi
        known = axis.transData.transform(np.column_stack([curve.x, curve.y])) * to_units
        for place in places:
            (found,) = np.flatnonzero(np.isclose(known, place, rtol=0, atol=ROUNDING).all(axis=1))[:1]
            x, y = axis.transData.inverted().transform(place / to_units)
            tolerance = np.abs(
                np.diff(axis.transData.inverted().transform([place / to_units - 1, place / to_units + 1]).T)
            )
            assert np.all(np.abs([x - curve.x[found], y - curve.y[found]]) <= tolerance[:, 0])


def test_a_marker_is_drawn_where_its_point_is(drawn: dict[str, tuple[Chart, Drawing]]) -> None:
    _, drawing = drawn["likelihood"]
    root = ElementTree.fromstring(drawing.svg)
    for entry in drawing.points:
        groups = [group for group in root.iter("g") if group.get("data-curve") == entry["name"]]
        uses = {(float(use.attrib["x"]), float(use.attrib["y"])) for group in groups for use in group.iter("use")}
        assert {(x, y) for x, y, *_ in entry["points"]} <= uses


def test_a_point_says_its_value_and_error(results: Results, drawn: dict[str, tuple[Chart, Drawing]]) -> None:
    rows = {
        (row["variance"], row["trajectory"], row["K"]): row for row in results["likelihood"] if row["split"] == "test"
    }
    entries = [entry for entry in drawn["likelihood"][1].points if entry["name"] == "large"]
    for entry, trajectory in zip(entries, results["trajectories"], strict=True):
        for (*_, where, said), K in zip(entry["points"], results["K"], strict=True):
            row = rows["large", trajectory, K]
            assert where == f"K = {K}"
            value, error, unit = re.fullmatch(r"(\S+) ± (\S+) (\S+)", said).groups()
            assert (float(value), float(error), unit) == (
                float(f"{row['bits_per_dim']:.4g}"), float(f"{row['standard_error']:.2g}"), "bits/dim",
            )  # fmt: skip


def test_ids_differ_between_charts_and_ink_follows_the_page(drawn: dict[str, tuple[Chart, Drawing]]) -> None:
    ids: list[str] = []
    for name, (_, drawing) in drawn.items():
        root = ElementTree.fromstring(drawing.svg)
        mine = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
        used = re.findall(r'(?:href="|url\()#([^")]+)', drawing.svg)
        assert set(mine) >= set(used), name
        ids += mine
        assert "#000000" not in drawing.svg and "var(--ink)" in drawing.svg
        assert not re.search(r"#[0-9a-f]{6}\b(?![\w\"])", re.sub(r"url\(#\w+\)", "", drawing.svg)), name
        assert not re.search(r"font-family|<style|<metadata|<!DOCTYPE|http", drawing.svg), name
    assert len(ids) == len(set(ids))


def test_every_name_of_the_legend_has_its_curves_in_every_panel(drawn: dict[str, tuple[Chart, Drawing]]) -> None:
    for name, (made, drawing) in drawn.items():
        curves = {curve.name for curve in made.curves}
        assert {entry["name"] for entry in drawing.legend} == (curves if len(curves) > 1 else set()), name
        for curve in made.curves:
            assert f'data-curve="{curve.name}"' in drawing.svg
        for entry in drawing.legend:
            ElementTree.fromstring(entry["swatch"])


def test_names_are_escaped(results: Results) -> None:
    results["variances"] = ["<b>&" if name == "large" else name for name in results["variances"]]
    results["kinds"] = results["kinds"] | {"<b>&": "fixed"}
    for row in results["likelihood"]:
        row["variance"] = "<b>&" if row["variance"] == "large" else row["variance"]
    drawing = charts.drawing(figures.FIGURES["likelihood"](results), "x")
    assert 'data-curve="&lt;b&gt;&amp;"' in drawing.svg
    assert "<b>" not in drawing.svg


def test_the_same_chart_gives_the_same_text(made_up: Results) -> None:
    one, two, other = (charts.drawing(figures.moments(made_up), name) for name in ("moments", "moments", "another"))
    assert one == two
    assert one.svg != other.svg
