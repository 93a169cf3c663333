"""Numbers in words: digits, and the one sentence that answers the page's question."""

from typing import Any

import pytest

from ddpm_jax.report import lookup, tables

Results = dict[str, Any]


@pytest.mark.parametrize(
    "value, error, sign, text",
    [
        (3.14159, 0.012, "", "3.142 ± 0.012"),
        (-0.5, 0.25, "+", "−0.50 ± 0.25"),
        (0.25, 0.0, "+", "+0.250"),
        (61.25, 1.5, "", "61.2 ± 1.5"),
        (1e-4, 1e-9, "", "0.00010 ± <0.00001"),
        (None, None, "", "–"),
    ],
)
def test_digits_follow_the_error(value: float | None, error: float | None, sign: str, text: str) -> None:
    assert tables.measured(value, error, sign) == text


def test_the_answer_names_the_winner_and_its_lead(results: Results) -> None:
    rows = lookup.likelihood(results)
    bits = {name: rows[name, "even", 10]["bits_per_dim"] for name in ("spectral", "small", "large")}
    answer = tables.answer(results)
    assert "K = 10" in answer
    assert "`spectral` gives the best likelihood" in answer
    for loser in ("small", "large"):
        assert f"{bits[loser] - bits['spectral']:.3f} less than `{loser}`" in answer


def test_a_cell_that_was_not_measured_is_a_dash(results: Results) -> None:
    results["sample_cells"] = [row for row in results["sample_cells"] if (row["variance"], row["K"]) != ("large", 25)]
    lines = {(line["name"], line["trajectory"]): line["cells"] for line in tables.frechet(results)["lines"]}
    assert [cell["text"] == tables.MISSING for cell in lines["large", "even"]] == [False, True, False]


def test_one_seed_has_a_difference_without_its_deviation(results: Results) -> None:
    results["sample_cells"] = [row | dict(std=None, minus_isotropic_std=None) for row in results["sample_cells"]]
    cells = [cell for line in tables.frechet(results)["lines"] for cell in line["cells"]]
    assert all("±" not in cell["text"] + cell["below"] for cell in cells)
    rows = [row for row in results["sample_cells"] if row["minus_isotropic"] is not None]
    assert sum(bool(cell["below"]) for cell in cells) == len(rows)


def test_without_a_bound_there_is_no_winner(results: Results) -> None:
    results["likelihood"] = [row for row in results["likelihood"] if row["variance"] == "zero"]
    assert tables.answer(results) == "None of the variances that were compared has a likelihood bound."


def test_every_likelihood_stands_in_one_table(results: Results) -> None:
    even, optimal = tables.likelihood(results)["lines"], tables.optimal(results)["lines"]
    lines = [(line["name"], line["trajectory"]) for line in (*even, *optimal)]
    cells = {(row["variance"], row["trajectory"]) for row in results["likelihood"]}
    assert len(lines) == len(set(lines)) and set(lines) == cells
    assert {trajectory for _, trajectory in lines[: len(even)]} == {"even"}
    names = [line["name"] for line in optimal]
    assert names[::2] == names[1::2] == [name for name in results["variances"] if name not in ("learned", "zero")]


def test_an_optimal_trajectory_is_compared_with_the_even_one(results: Results) -> None:
    rows = lookup.likelihood(results)
    for line in tables.optimal(results)["lines"]:
        for K, cell in zip(results["K"], line["cells"], strict=True):
            row = rows[line["name"], line["trajectory"], K]
            assert cell["text"] == tables.measured(row["bits_per_dim"], row["standard_error"])
            assert cell["below"] == tables.measured(row["minus_even"], row["minus_even_standard_error"], "+")


def test_a_variance_of_one_chain_has_dashes_elsewhere(results: Results) -> None:
    (line,) = (line for line in tables.likelihood(results)["lines"] if line["name"] == "learned")
    assert [cell["text"] == tables.MISSING for cell in line["cells"]] == [True] * 6 + [False]


def test_one_pass_is_compared_with_one_cell_at_a_time(results: Results) -> None:
    """397 test images: the sum of K over the cells, divided by the 1000 times of one pass."""
    said, rows = tables.one_pass(results), lookup.likelihood(results)
    bounds = [cell for cell, row in rows.items() if row["bits_per_dim"] is not None]
    assert (said["T"], said["cells"]) == (1000, len(bounds))
    assert said["ratio"] == pytest.approx(sum(K for *_, K in bounds) / 1000)
    assert {split["name"]: split["images"] for split in said["splits"]} == dict(calibration=400, test=397, train=1000)
    results["evaluations"]["counted"]["test"] = 0
    assert tables.one_pass(results)["ratio"] is None


def test_what_was_never_clamped_is_named(results: Results) -> None:
    results["clamped"] = dict(npr=[None, 0.0], sn=[0.0, 0.1], ocm=[float("nan"), 0.0])
    assert tables.never_clamped(results) == ["npr", "ocm"]


def test_where_a_head_wins_the_best_without_one_is_named(results: Results) -> None:
    rows = lookup.likelihood(results)
    rows["npr", "even", 10]["bits_per_dim"] = rows["spectral", "even", 10]["bits_per_dim"] - 0.25
    answer = tables.answer(results)
    assert "`npr` gives the best likelihood" in answer
    assert answer.endswith("Of those that need no trained head, `spectral` is the best: 0.250 more.")
    assert "trained head" not in tables.answer(results | dict(kinds=dict.fromkeys(results["variances"], "fixed")))
