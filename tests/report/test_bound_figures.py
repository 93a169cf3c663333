"""The charts of the bound show the numbers of the results."""

from typing import Any

import numpy as np
import pytest

from ddpm_jax.report import figures, lookup
from ddpm_jax.report.charts import Chart, Curve

Results = dict[str, Any]


def curves(made: Chart | None) -> dict[tuple[int, str], Curve]:
    """The curves of a chart by panel and name."""
    assert made is not None
    return {(curve.panel, curve.name): curve for curve in made.curves}


@pytest.mark.parametrize(
    "draw, value, error",
    [
        (figures.likelihood, "bits_per_dim", "standard_error"),
        (figures.likelihood_difference, "minus_isotropic", "paired_standard_error"),
    ],
)
def test_likelihoods_are_those_of_the_rows(results: Results, draw: Any, value: str, error: str) -> None:
    found, rows = curves(draw(results)), lookup.likelihood(results)
    cells = {(name, trajectory) for (name, trajectory, _), row in rows.items() if row[value] is not None}
    assert {(name, results["trajectories"][panel]) for panel, name in found} == cells
    for (panel, name), curve in found.items():
        assert curve.group == results["kinds"][name]
        for i, K in enumerate(results["K"]):
            row = rows.get((name, results["trajectories"][panel], K))
            assert curve.error is not None
            if row is None:
                assert np.isnan([curve.y[i], curve.error[i]]).all()
                continue
            assert (curve.x[i], curve.y[i], curve.error[i]) == (K, row[value], row[error])
            assert curve.where[i] == f"K = {K}"


def test_a_variance_of_one_chain_has_one_point(results: Results) -> None:
    found = curves(figures.likelihood(results))
    assert np.isfinite(found[0, "learned"].y).tolist() == [K == max(results["K"]) for K in results["K"]]
    assert {panel for panel, name in found if name == "learned"} == {0}


def test_terms_are_those_of_every_chain(results: Results) -> None:
    made = figures.likelihood_terms(results)
    found = curves(made)
    assert made is not None
    assert [axis.get_title() for axis in made.figure.axes] == ["even trajectory, K = 10", "even trajectory, K = 1000"]
    for panel, entry in enumerate(results["terms"]):
        assert {name for at, name in found if at == panel} == set(entry["choices"])
        for name, choice in entry["choices"].items():
            np.testing.assert_array_equal(found[panel, name].x, entry["t"])
            np.testing.assert_array_equal(found[panel, name].y, choice["kl"])
            np.testing.assert_array_equal(found[panel, name].error, choice["standard_error"])


def test_a_term_that_is_not_positive_is_left_out_of_a_log_scale(results: Results) -> None:
    results["terms"][0]["choices"]["large"]["kl"][3] = 0.0
    assert np.isnan(curves(figures.likelihood_terms(results))[0, "large"].y).tolist() == [False] * 3 + [True] + [
        False
    ] * (len(results["terms"][0]["t"]) - 4)


def test_a_chain_of_one_step_has_no_terms(results: Results) -> None:
    results["terms"] = [dict(K=1, t=[], choices={})]
    results["rate_distortion"] = dict(K=1, t=[], distortion=[], choices={})
    assert figures.likelihood_terms(results) is None
    assert figures.rate_distortion(results) is None


def test_distortion_stands_against_rate(results: Results) -> None:
    made = figures.rate_distortion(results)
    found, known = curves(made), results["rate_distortion"]
    assert made is not None
    assert {name for _, name in found} == set(known["choices"])
    for (_, name), curve in found.items():
        np.testing.assert_array_equal(curve.x, known["choices"][name])
        np.testing.assert_array_equal(curve.y, known["distortion"])
        assert str(known["t"][7]) in curve.where[7]
        assert f"{known['choices'][name][7]:.4g}" in curve.where[7]


def test_a_distortion_above_mid_grey_is_cut(results: Results) -> None:
    results["rate_distortion"]["distortion"][-1] = 900.0
    made = figures.rate_distortion(results)
    assert made is not None
    assert made.figure.axes[0].get_ylim() == (0, figures.MID_GREY)
