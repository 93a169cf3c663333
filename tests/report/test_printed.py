"""Numbers in words: digits, and the one sentence that answers the page's question."""

from typing import Any

import pytest

from ddpm_jax.report import printed, table

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
    assert printed.measured(value, error, sign) == text


def test_the_answer_names_the_winner_and_its_lead(results: Results) -> None:
    rows = table.likelihood(results)
    bits = {name: rows[name, "even", 10]["bits_per_dim"] for name in ("spectral", "small", "large")}
    answer = printed.answer(results)
    assert "K = 10" in answer
    assert "`spectral` gives the best likelihood" in answer
    for loser in ("small", "large"):
        assert f"{bits[loser] - bits['spectral']:.3f} less than `{loser}`" in answer


def test_a_cell_that_was_not_measured_is_a_dash(results: Results) -> None:
    results["sample_cells"] = [row for row in results["sample_cells"] if (row["variance"], row["K"]) != ("large", 25)]
    lines = {(line["name"], line["trajectory"]): line["cells"] for line in printed.frechet(results)["lines"]}
    assert [cell["text"] == printed.MISSING for cell in lines["large", "even"]] == [False, True, False]


def test_one_seed_has_a_difference_without_its_deviation(results: Results) -> None:
    results["sample_cells"] = [row | dict(std=None, minus_isotropic_std=None) for row in results["sample_cells"]]
    cells = [cell for line in printed.frechet(results)["lines"] for cell in line["cells"]]
    assert all("±" not in cell["text"] + cell["below"] for cell in cells)
    assert sum(bool(cell["below"]) for cell in cells) == len(cells) * 7 // 8


def test_without_a_bound_there_is_no_winner(results: Results) -> None:
    results["likelihood"] = [row for row in results["likelihood"] if row["variance"] == "zero"]
    assert printed.answer(results) == "None of the variances that were compared has a likelihood bound."
