"""What the tables of the Gaussian experiment say, from made-up results."""

import math
from typing import Any

import pytest

from experiments import exact_gaussian_report

NAMES = ("small", "isotropic")


@pytest.fixture
def exact_results() -> dict[str, Any]:
    """Small, and with every oddity: a level at 0, an infinite path, a K whose optimum was not sought."""
    lines = [("small", "even", 10, 65.0, 74.95), ("small", "even", 25, 25.0, 24.98)]
    shared = dict(K=10, frechet=2.5, data_kl=0.5, silent=0, t=[1, 1000], over_b=[0, 2.0])
    optima = [
        dict(variance="isotropic", path_kl=1.25, gap=None) | shared,
        dict(variance="frechet", path_kl=math.inf, gap=7e-11) | shared,
    ]
    return dict(
        family=dict(
            K=3,
            t=[500, 1000],
            ratios={"0": [0.5, 0.9], "1": [1.0, 1.0]},
            upper=[1.1, 1.5],
            radius=[0.0, 1.0, 1.0, math.sqrt(2)],
            spectrum=[[30.0, 2.0, 2.0, 0.5]],
            directions=4,
            outside=3,
            outside_at_some_t=3,
            outside_by_axis=[3],
            share_of_variance=34 / 34.5,
            largest=30.0,
        ),
        power_law=dict(
            data="cifar10_linear",
            p=5.2,
            f0=3.0,
            anchor=["analytic", "even", 1000],
            decoder=1.97,
            first_variances=[dict(K=10, published=8.7e-3, fitted=8.86e-3)],
            cells=[dict(variance=v, trajectory=w, K=k, predicted=p, published=q) for v, w, k, p, q in lines],
            unanchored=20,
            median=0.0102,
            worst=0.1285,
            optimal_median=0.001,
            optimal_worst=0.047,
            spectral={"10": 3.53, "25": 3.53},
        ),
        finals=[
            dict(
                variance=name,
                kernel="ddpm",
                K=k,
                last_step=last,
                level=[0.25, 4.0],
                variance_exact=[0.1, 3.9],
                variance_drawn=[0.11, 3.8],
                variance_z=[z, -0.5],
                error_exact=[0.0, 0.0],
                error_z=[0.1, 0.2],
            )
            for name in NAMES
            for k, z in ((4, 2.75), (10, 1.0))
            for last in ("noise", "mean")
        ],
        optima=optima,
        paths=[
            dict(K=10, path_kl=dict(small=4.0, frechet=2.0)),
            dict(K=40, path_kl=dict(small=1.0, frechet=None)),
        ],
    )


def cells(text: str, start: str) -> list[str]:
    """The cells of the first line that starts so."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_family_and_who_lies_outside(exact_results: dict[str, Any]) -> None:
    text = exact_gaussian_report.family(exact_results)
    assert cells(text, "500") == ["500", "0.500000", "1.000000", "1.100000"]
    assert "3 of 4 directions" in text
    assert "98.6 % of the variance" in text


def test_predictions_stand_beside_the_published_with_their_errors(exact_results: dict[str, Any]) -> None:
    text = exact_gaussian_report.power_law(exact_results)
    assert cells(text, "small")[4:6] == ["74.95", "24.98"]
    lines = [line for line in text.splitlines() if "predicted" in line or "off by" in line]
    assert "65.00" in lines[0]
    assert "−13.3 %" in lines[1]
    assert "+0.1 %" in lines[1]
    assert "median error 1.02 %, worst 12.85 %" in text
    assert "Optimistic" in text
    assert cells(text, "spectral") == ["spectral", "3.53", "3.53"]


def test_the_longest_chain_is_shown_and_the_worst_of_all_counted(exact_results: dict[str, Any]) -> None:
    text = exact_gaussian_report.finals(exact_results)
    assert "K = 10" in text.splitlines()[0]
    assert cells(text, "small") == ["small", "ddpm", "0.1 (0.11)", "3.9 (3.8)", "2.8", "2.8"]
    assert "Over everything: 2.75" in text


def test_an_infinite_path_is_said_to_be(exact_results: dict[str, Any]) -> None:
    text = exact_gaussian_report.optima(exact_results)
    assert cells(text, "frechet") == ["frechet", "10", "2.5", "0.5", "∞", "0", "7e−11"]
    assert cells(text, "isotropic")[4:] == ["1.25", "0", ""]
    assert "∞" in exact_gaussian_report.optima(
        {"optima": [exact_results["optima"][1] | {"path_kl": None}]}
    )  # as JSON keeps it


def test_slopes_are_those_of_log_scales(exact_results: dict[str, Any]) -> None:
    text = exact_gaussian_report.paths(exact_results)
    assert cells(text, "10") == ["10", "4.0000", "–", "2.0000", "–"]
    assert cells(text, "40") == ["40", "1.0000", "−1.00", "–", "–"]


def test_the_whole_text_has_every_part(exact_results: dict[str, Any]) -> None:
    text = exact_gaussian_report.text(exact_results)
    assert text.count("## ") == 5
