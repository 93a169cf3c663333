"""The published tables: typed once more from the papers where it matters, and whole everywhere else."""

import json
from importlib import resources

import numpy as np
import pytest

from ddpm_jax.diffusion.variances import VARIANCES
from ddpm_jax.report import published

K = [10, 25, 50, 100, 200, 400, 1000]
EVERY = [(data, metric) for data in ("cifar10_linear", "cifar10_cosine") for metric in ("nll", "fid")]


def row(data: str, metric: str, variance: str, trajectory: str = "even", kernel: str = "ddpm") -> published.Published:
    (found,) = (
        row
        for row in published.rows(data, metric)
        if (row.variance, row.trajectory, row.kernel) == (variance, trajectory, kernel)
    )
    return found


@pytest.mark.parametrize(
    ("data", "metric", "line", "values"),
    [
        ("cifar10_linear", "nll", ("large",), [6.99, 6.11, 5.44, 4.86, 4.39, 4.07, 3.75]),
        ("cifar10_linear", "nll", ("analytic",), [5.47, 4.79, 4.38, 4.07, 3.84, 3.71, 3.59]),
        ("cifar10_linear", "nll", ("analytic", "optimal"), [4.11, 3.68, 3.61, 3.59, 3.59, 3.59, 3.59]),
        ("cifar10_linear", "fid", ("zero", "even", "ddim"), [21.31, 10.70, 7.74, 6.08, 5.07, 4.61, 4.13]),
        ("cifar10_cosine", "nll", ("small",), [75.96, 24.94, 11.96, 7.04, 4.95, 4.19, 3.60]),
        ("cifar10_cosine", "fid", ("ocm",), [14.32, 5.54, 4.10, 3.84, 3.75, None, None]),
    ],
)
def test_rows_are_the_printed_ones(data: str, metric: str, line: tuple[str, ...], values: list[float | None]) -> None:
    assert row(data, metric, *line).values == dict(zip(K, values, strict=True))


@pytest.mark.parametrize(("data", "metric"), EVERY)
def test_every_row_is_named_as_ours_and_has_a_source(data: str, metric: str) -> None:
    rows = published.rows(data, metric)
    assert len({(row.kernel, row.variance, row.trajectory) for row in rows}) == len(rows) == 8
    for line in rows:
        assert line.variance in VARIANCES
        assert line.kernel in ("ddpm", "ddim")
        assert line.trajectory in ("even", "optimal")
        assert list(line.values) == K
        assert "20" in line.source
        assert ("secondary" in line.source) == (line.variance in ("npr", "sn", "ocm"))
        present = [value for value in line.values.values() if value is not None]
        assert len(present) >= 4
        assert all(1 < value < 300 for value in present)


@pytest.mark.parametrize(("data", "metric"), [one for one in EVERY if one[1] == "nll"])
def test_published_likelihoods_do_not_worsen_with_more_steps_or_a_better_trajectory(data: str, metric: str) -> None:
    """A digit typed wrongly would most likely break this."""
    for line in published.rows(data, metric):
        values = [value for value in line.values.values() if value is not None]
        assert (np.diff(values) <= 0).all(), line
        if line.trajectory == "optimal":
            even = row(data, metric, line.variance).values
            assert all(line.values[k] <= even[k] for k in K)


def test_the_variances_of_the_first_step() -> None:
    found = published.first_variances("cifar10_linear", "analytic")
    assert found == {10: 8.70e-3, 25: 2.99e-3, 50: 1.32e-3, 100: 6.54e-4}


def test_table_2_of_ho_et_al() -> None:
    rows = published.table_2()
    assert [(row.prediction, row.inception_score, row.fid) for row in rows] == [
        ("mu", 7.28, 23.69),
        ("mu", 8.06, 13.22),
        ("mu", None, None),
        ("eps", None, None),
        ("eps", 7.67, 13.51),
        ("eps", 9.46, 3.17),
    ]
    assert [row.nll_test for row in rows] == [None] * 4 + [3.70, 3.75]
    assert all("Ho" in row.source for row in rows)


def test_what_was_not_published_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing published of mnist nll: choose one of cifar10_cosine fid"):
        published.rows("mnist", "nll")
    with pytest.raises(ValueError, match="no first-step variances of cifar10_linear small"):
        published.first_variances("cifar10_linear", "small")


def test_ours_stands_under_the_published_row() -> None:
    rows = [row("cifar10_linear", "nll", "small"), row("cifar10_linear", "nll", "sn")]
    text = published.beside(rows, {("ddpm", "small", "even"): {10: 149.9, 25: None}}, "ours")
    header, _, small, ours, off, sn = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()
    )
    assert header == ["variance", "kernel", "trajectory", "", *(f"K = {k}" for k in K)]
    assert small[:6] == ["small", "ddpm", "even", "published", "74.95", "24.98"]
    assert ours[3:] == ["ours", "149.90", *["–"] * 6]
    assert off[3:6] == ["off by", "+100.0 %", "–"]
    assert (sn[0], sn[-1]) == ("sn", "–")


def test_every_source_is_named_once() -> None:
    lines = published.sources([*published.rows("cifar10_linear", "nll"), *published.table_2()]).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("- ") for line in lines)


def test_the_package_carries_the_file() -> None:
    text = resources.files("ddpm_jax.report").joinpath("published.json").read_text(encoding="utf-8")
    tables = json.loads(text)
    assert {row["source"] for row in tables["rows"]} <= tables["sources"].keys()
    assert all(len(row["values"]) == len(tables["K"]) for row in tables["rows"])
