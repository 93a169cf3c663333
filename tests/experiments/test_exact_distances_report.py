"""The figure and the tables of distances against K."""

import numpy as np
import pytest

from experiments import exact_distances_report

VALUES = {
    "small": (4.0, 0.5),
    "isotropic": (2.0, 0.25),
    "analytic": (2.0, 0.25),
    "npr": (None, 0.125),
    "zero": (np.inf, 9),
}


def results(**more) -> dict:
    """Two measures, one of which has deviations and is 0 for all."""
    rows = [
        dict(variance=name, K=K, far=value, off=0.0, off_std=0.1)
        for name, values in VALUES.items()
        for K, value in zip((2, 10), values, strict=True)
    ]
    return dict(variances=list(VALUES), K=[2, 10], measures={"far": "distance", "off": "offset"}, rows=rows) | more


def test_variances_that_read_the_same_share_a_line() -> None:
    assert exact_distances_report.alike(results()) == [("small",), ("isotropic", "analytic"), ("npr",), ("zero",)]


def test_the_tables_show_every_number_and_what_is_missing() -> None:
    first, second = exact_distances_report.tables(results()).split("offset")
    lines = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:4]] for line in first.splitlines()[2:-1]
    }
    assert lines["small"] == ["4", "0.5"]
    assert lines["isotropic, analytic"] == ["2", "0.25"]
    assert lines["npr"] == ["–", "0.125"]
    assert lines["zero"] == ["∞", "9"]
    assert "0.00 ± 0.10" in second


def test_the_nearest_variance_and_its_lead_over_isotropic() -> None:
    found = [line for line in exact_distances_report.nearest(results()) if "distance" in line]
    assert found == [
        "nearest by distance, and how much nearer than isotropic: isotropic, analytic at K = 2 (by a factor of 1)",
        "nearest by distance, and how much nearer than isotropic: npr at K = 10 (by a factor of 2)",
    ]
    alone = results(variances=["small", "npr"])
    assert "nearest by distance: small at K = 2" in exact_distances_report.nearest(alone)


def test_the_text_holds_both() -> None:
    text = exact_distances_report.text(results())
    assert exact_distances_report.tables(results()) in text
    assert all(line in text for line in exact_distances_report.nearest(results()))


@pytest.mark.filterwarnings("error")
def test_the_figure_has_a_panel_a_measure_and_a_curve_a_group() -> None:
    figure = exact_distances_report.draw(results())
    (axis,) = figure.axes
    assert axis.get_title() == "distance"
    names = axis.get_legend_handles_labels()[1]
    assert names == ["small", "isotropic, analytic", "npr", "zero"]
    figure.savefig("/dev/null", format="png")
