"""The charts show the numbers of the results."""

from typing import Any

import numpy as np
import pytest

from ddpm_jax.report import figures
from ddpm_jax.report.charts import Chart, Curve

Results = dict[str, Any]


def curves(made: Chart | None) -> dict[tuple[int, str], Curve]:
    """The curves of a chart by panel and name."""
    assert made is not None
    found = {(curve.panel, curve.name): curve for curve in made.curves}
    assert len(found) == len(made.curves)
    return found


@pytest.mark.parametrize("name", figures.FIGURES)
def test_every_curve_lies_in_a_panel_and_can_be_named(results: Results, name: str) -> None:
    made = figures.draw(results)[name]
    gids = {artist.get_gid() for axis in made.figure.axes for artist in [*axis.lines, *axis.collections]}
    assert gids == {curve.gid for curve in made.curves}
    assert all(0 <= curve.panel < len(made.figure.axes) for curve in made.curves)
    assert all(len(curve.x) == len(curve.y) for curve in made.curves)


def test_ratios_lie_between_their_bounds(results: Results) -> None:
    found = curves(figures.reverse_variance(results))
    bounds = found.pop((0, figures.BOUNDS))
    sigma2 = results["sigma2"]
    beta = np.array(sigma2["beta"])
    np.testing.assert_allclose(bounds.y - bounds.error, np.array(sigma2["lower"]) / beta, rtol=1e-9)
    np.testing.assert_allclose(bounds.y + bounds.error, np.array(sigma2["upper"]) / beta, rtol=1e-9)
    assert {name for _, name in found} == set(results["variances"]) - {"zero", "learned"}
    np.testing.assert_allclose(found[0, "large"].y, 1.0)


def test_moments_are_those_of_every_time(results: Results) -> None:
    found, per_time = curves(figures.moments(results)), results["per_time"]
    np.testing.assert_array_equal(found[0, "M_t"].y, per_time["error"])
    np.testing.assert_array_equal(found[0, "M_t"].error, per_time["error_standard_error"])
    excess = np.array(per_time["excess"])
    np.testing.assert_array_equal(found[0, "1 − Gamma_t"].y, np.where(excess > 0, excess, np.nan))
    np.testing.assert_array_equal(found[1, "c_eff"].y, per_time["c_eff"])


def test_distances_are_those_of_the_cells(results: Results) -> None:
    found = curves(figures.frechet(results))
    for row in results["sample_cells"]:
        curve = found[results["trajectories"].index(row["trajectory"]), f"K = {row['K']}"]
        place = results["variances"].index(row["variance"])
        assert curve.error is not None
        assert (curve.y[place], curve.error[place], curve.where[place]) == (row["mean"], row["std"], row["variance"])
    for name, key in (("finite-sample bias", "bias"), ("held-out images", "held_out_frechet")):
        assert all(set(found[panel, name].y) == {results["classifier"][key]} for panel in (0, 1))


def test_trajectories_are_those_that_were_chosen(results: Results) -> None:
    found = curves(figures.trajectories(results))
    for panel, K in enumerate(results["sample_K"]):
        for name, times in results["trajectories_chosen"][str(K)].items():
            np.testing.assert_array_equal(found[panel, name].x, times)
        shown = results["trajectories_chosen"][str(K)]
        assert len({curve.y[0] for (at, _), curve in found.items() if at == panel}) == len(shown)


def test_the_spectrum_is_that_of_every_time(results: Results) -> None:
    found = curves(figures.spectrum(results))
    for row in results["spectrum"]["rows"]:
        curve = found[row["axis"], f"t = {row['t']}"]
        np.testing.assert_array_equal(curve.x, row["radius"])
        np.testing.assert_array_equal(curve.y, row["mean"])
        np.testing.assert_array_equal(curve.error, row["standard_error"])
    assert figures.spectrum(results | dict(spectrum=None)) is None


def test_every_colour_axis_has_a_panel(results: Results) -> None:
    rows = results["spectrum"]["rows"]
    colours = dict(rows=[row | dict(axis=axis) for axis in range(3) for row in rows], noise=[])
    made = figures.spectrum(results | dict(spectrum=colours))
    assert made is not None
    assert [axis.get_title() for axis in made.figure.axes] == ["colour axis 1", "colour axis 2", "colour axis 3"]
    assert set(curves(made)) == {(axis, f"t = {row['t']}") for axis in range(3) for row in rows}


def test_only_what_is_clamped_is_drawn(results: Results) -> None:
    found = curves(figures.clamped(results))
    assert set(found) == {(0, "sn")}
    np.testing.assert_array_equal(found[0, "sn"].y, results["clamped"]["sn"])
    results["clamped"]["ocm"] = [None, 0.25, *results["clamped"]["ocm"][2:]]
    assert np.isnan(curves(figures.clamped(results))[0, "ocm"].y[0])
    for nothing in ({}, dict(npr=[None, 0.0, 0.0])):
        assert figures.clamped(results | dict(clamped=nothing)) is None


def test_a_network_trained_elsewhere_has_no_loss(results: Results) -> None:
    assert curves(figures.training_loss(results))[0, "training loss"].y[0] == results["training"]["loss"][0][1]
    results["training"] = None
    assert figures.training_loss(results) is None
    assert "training_loss" not in figures.draw(results)
