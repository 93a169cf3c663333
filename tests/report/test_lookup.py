"""results.csv has what the results have."""

from typing import Any

from ddpm_jax.report import lookup

Results = dict[str, Any]


def test_csv_has_every_cell(results: Results) -> None:
    rows = lookup.csv_rows(results)
    likelihood = lookup.likelihood(results)
    samples = lookup.samples(results)
    assert {(row["variance"], row["trajectory"], row["K"]) for row in rows} == set(likelihood) | set(samples)
    assert len({tuple(row) for row in rows}) == 1
    for row in rows:
        cell = (row["variance"], row["trajectory"], row["K"])
        assert row["bits_per_dim"] == likelihood.get(cell, {}).get("bits_per_dim")
        assert row["frechet_mean"] == samples.get(cell, {}).get("mean")
        assert row["frechet_std"] == samples.get(cell, {}).get("std")
        assert row["frechet_minus_isotropic"] == samples.get(cell, {}).get("minus_isotropic")
        assert row["frechet_minus_isotropic_std"] == samples.get(cell, {}).get("minus_isotropic_std")


def test_lines_keep_the_order_of_the_results(results: Results) -> None:
    cells = [("zero", "optimal", 10), ("small", "optimal", 25), ("zero", "even", 10)]
    assert lookup.lines(results, cells) == [("zero", "even"), ("small", "optimal"), ("zero", "optimal")]
