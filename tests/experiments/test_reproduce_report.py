"""The tables of a reproduction: the published columns, the difference, and what does not compare."""

from typing import Any

from ddpm_jax.report import published
from experiments import reproduce_report


def row(variance: str, K: int, value: float, **other: Any) -> dict[str, Any]:
    name = dict(variance=variance, kernel="ddpm", trajectory="even", K=K)
    return {**name, "value": value, "standard_error": 0.01, "mark": "", **other}


def results(schedule: str = "linear", **rows: Any) -> dict[str, Any]:
    return {"config": {"schedule": schedule}, "nll": [], "fid": [], "notes": {"nll": ["of 9"], "fid": []}, **rows}


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]


def test_every_published_number_is_in_the_table_whether_there_is_one_of_ours_or_not() -> None:
    header, _, *lines = cells(reproduce_report.table(results(), "fid"))
    assert header[4:] == [f"K = {K}" for K in (10, 25, 50, 100, 200, 400, 1000)]
    shown = [line[4:] for line in lines]
    known = published.rows("cifar10_linear", "fid")
    assert shown == [["–" if v is None else f"{v:.2f}" for v in one.values.values()] for one in known]
    assert {line[3] for line in lines} == {"published"}


def test_ours_stands_above_the_published_with_the_difference_and_the_standard_error() -> None:
    ours = [row("analytic", 10, 34.5), row("analytic", 1000, 4.0, mark="*", standard_error=None)]
    lines = cells(reproduce_report.table(results(fid=ours), "fid"))
    at = next(i for i, line in enumerate(lines) if line[:3] == ["analytic", "ddpm", "even"])
    here, theirs, apart, error = lines[at : at + 4]
    assert [line[3] for line in (here, theirs, apart, error)] == ["ours", "published", "difference", "standard error"]
    assert (here[4], theirs[4], apart[4], error[4]) == ("34.50", "34.26", "+0.24", "0.010")
    assert (here[-1], theirs[-1], apart[-1], error[-1]) == ("4.00*", "4.03", "−0.03", "–")
    assert here[5] == apart[5] == "–"


def test_a_variance_that_nobody_published_comes_last_and_alone() -> None:
    lines = cells(reproduce_report.table(results(nll=[row("spectral", 10, 5.4321)]), "nll"))
    assert lines[-2][:5] == ["spectral", "ddpm", "even", "ours", "5.432"]
    assert lines[-1][3:5] == ["standard error", "0.0100"]


def test_nothing_was_published_of_other_schedules() -> None:
    said = reproduce_report.text(results("sigmoid", nll=[row("large", 10, 5.0)]))
    assert "published" not in said.lower() and "- of 9" in said
    assert reproduce_report.table_of(results("cosine")) == "cifar10_cosine"
