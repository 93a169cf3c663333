"""Every claim is judged both ways."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from ddpm_jax.report import claims

Results = dict[str, Any]


def change(split: str, variance: str, trajectory: str, K: int, **values: float) -> Callable[[Results], None]:
    """Sets numbers of one likelihood row."""

    def apply(results: Results) -> None:
        where = dict(split=split, variance=variance, trajectory=trajectory, K=K)
        (row,) = (row for row in results["likelihood"] if where.items() <= row.items())
        assert values.keys() <= row.keys()
        row.update(values)

    return apply


def change_control(results: Results) -> None:
    results["negative_control"][2]["scaled"] = results["negative_control"][2]["large"] - 1e-4


def change_gap(results: Results) -> None:
    results["gap_check"]["from_formula"] += 2e-3


CHANGES = {
    "analytic, even": (0, change("calibration", "analytic", "even", 100, bits_per_dim=5.0)),
    "analytic, optimal": (1, change("calibration", "analytic", "optimal", 400, bits_per_dim=1.0)),
    "optimal": (2, change("calibration", "family", "optimal", 25, bits_per_dim=300.0)),
    "small and large": (3, change("test", "small", "even", 25, bits_per_dim=1.0)),
    "large and isotropic": (3, change("test", "isotropic", "even", 50, bits_per_dim=20.0)),
    "analytic on test": (4, change("test", "analytic", "even", 10, minus_isotropic=-0.3, paired_standard_error=0.1)),
    "optimal on test": (5, change("test", "large", "optimal", 50, minus_even=0.3, minus_even_standard_error=0.1)),
    "negative control": (6, change_control),
    "gap": (7, change_gap),
}


def test_every_claim_holds_on_results_where_it_should(results: Results) -> None:
    judged = claims.judge(results)
    assert [claim["holds"] for claim in judged] == [True] * 8
    assert [claim["split"] for claim in judged] == ["calibration"] * 3 + ["test"] * 5
    assert all(claim["claim"].endswith(".") and claim["figures"] for claim in judged)
    assert {index for index, _ in CHANGES.values()} == set(range(len(judged)))


@pytest.mark.parametrize("name", CHANGES)
def test_a_claim_falls_with_its_numbers_and_no_other_does(results: Results, name: str) -> None:
    index, apply = CHANGES[name]
    apply(results)
    assert [i for i, claim in enumerate(claims.judge(results)) if claim["holds"] is not True] == [index]


@pytest.mark.parametrize("difference, holds", [(-0.19, True), (-0.21, False)])
def test_test_images_allow_two_standard_errors(results: Results, difference: float, holds: bool) -> None:
    change("test", "analytic", "even", 25, minus_isotropic=difference, paired_standard_error=0.1)(results)
    change("test", "analytic", "optimal", 25, minus_even=-difference, minus_even_standard_error=0.1)(results)
    assert [claims.judge(results)[i]["holds"] for i in (4, 5)] == [holds, holds]


@pytest.mark.parametrize("below, holds", [(5e-10, True), (2e-9, False)])
def test_calibration_images_allow_rounding_alone(results: Results, below: float, holds: bool) -> None:
    rows = {(row["split"], row["variance"], row["trajectory"], row["K"]): row for row in results["likelihood"]}
    isotropic = rows["calibration", "isotropic", "even", 50]["bits_per_dim"]
    change("calibration", "analytic", "even", 50, bits_per_dim=isotropic - below)(results)
    assert claims.judge(results)[0]["holds"] is holds


def test_figures_name_the_closest_case(results: Results) -> None:
    change("calibration", "analytic", "even", 100, bits_per_dim=1.0)(results)
    isotropic = next(
        row["bits_per_dim"]
        for row in results["likelihood"]
        if (row["split"], row["variance"], row["trajectory"], row["K"]) == ("calibration", "isotropic", "even", 100)
    )
    figures = claims.judge(results)[0]["figures"]
    assert f"smallest difference {1.0 - isotropic:.4g} at K = 100 (7 cases)" in figures


def test_not_a_number_does_not_hold(results: Results) -> None:
    change("calibration", "analytic", "even", 100, bits_per_dim=float("nan"))(results)
    claim = claims.judge(results)[0]
    assert claim["holds"] is False
    assert "nan at K = 100" in claim["figures"]


def test_what_was_not_measured_is_not_said_to_hold(results: Results) -> None:
    results["likelihood"] = [row for row in results["likelihood"] if row["trajectory"] == "even"]
    judged = claims.judge(results)
    assert [claim["holds"] for claim in judged] == [True, None, None, True, True, None, True, True]
    assert judged[1]["figures"] == "not measured"


def test_verdicts_are_plain_json(results: Results) -> None:
    assert json.loads(json.dumps(claims.judge(results))) == claims.judge(results)


def test_claims_about_isotropic_need_it(results):
    """Every claim is judged or left open where `isotropic` was not compared."""
    for row in results["likelihood"]:
        row["minus_isotropic"] = row["paired_standard_error"] = None
    results["likelihood"] = [row for row in results["likelihood"] if row["variance"] != "isotropic"]
    judged = {claim["claim"]: claim["holds"] for claim in claims.judge(results)}
    assert [holds for claim, holds in judged.items() if "`isotropic`" in claim][:4].count(None) >= 3
