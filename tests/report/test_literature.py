"""Published tables beside ours: the published numbers, ours in the same cell, and the order of the choices in both."""

from typing import Any

import pytest

from ddpm_jax.report import lookup, published

Results = dict[str, Any]
EVERY = [(data, metric) for data in ("cifar10_linear", "cifar10_cosine") for metric in ("nll", "fid")]


def named(results: Results) -> dict[tuple[str, str], Results]:
    """The tables by data and metric."""
    return dict(zip(EVERY, published.page_tables(results), strict=True))


@pytest.mark.parametrize("data, metric", EVERY)
def test_every_published_number_is_printed(results: Results, data: str, metric: str) -> None:
    lines = named(results)[data, metric]["content"]["lines"]
    rows = published.rows(data, metric)
    assert [(line["name"], line["trajectory"]) for line in lines] == [
        (row.variance, f"{row.kernel}, {row.trajectory}") for row in rows
    ]
    for line, row in zip(lines, rows, strict=True):
        texts = ["–" if value is None else f"{value:.2f}" for value in row.values.values()]
        assert [cell["text"] for cell in line["cells"]] == texts


def test_ours_stands_under_the_same_choice(results: Results) -> None:
    rows = lookup.likelihood(results)
    content = named(results)["cifar10_linear", "nll"]["content"]
    for line in content["lines"]:
        trajectory = line["trajectory"].removeprefix("ddpm, ")
        for K, cell in zip(content["K"], line["cells"], strict=True):
            assert cell["below"] == f"here {rows[line['name'], trajectory, K]['bits_per_dim']:.2f}"


def test_another_kernel_and_what_was_not_measured_have_nothing_of_ours(results: Results) -> None:
    content = named(results)["cifar10_linear", "fid"]["content"]
    sampled = {
        (row["variance"], row["K"]): row["mean"] for row in results["sample_cells"] if row["trajectory"] == "even"
    }
    for line in content["lines"]:
        for K, cell in zip(content["K"], line["cells"], strict=True):
            known = sampled.get((line["name"], K)) if line["trajectory"] == "ddpm, even" else None
            assert cell["below"] == ("" if known is None else f"here {known:.2f}")


def test_the_order_is_that_of_the_numbers(results: Results) -> None:
    ten, twenty_five = named(results)["cifar10_linear", "nll"]["orders"]
    assert (ten["K"], twenty_five["K"]) == (10, 25)
    assert ten["published"] == ["ocm", "npr", "analytic", "large", "sn", "small"]  # 5.32 5.40 5.47 6.99 30.79 74.95
    rows = lookup.likelihood(results)
    bits = [rows[name, "even", 10]["bits_per_dim"] for name in ten["here"]]
    assert bits == sorted(bits) and set(ten["here"]) == set(ten["published"])
    assert ten["same"] is (ten["here"] == ten["published"])


def test_fewer_than_two_choices_have_no_order(results: Results) -> None:
    alone = results | dict(likelihood=[row for row in results["likelihood"] if row["variance"] == "small"])
    assert named(alone)["cifar10_linear", "nll"]["orders"] == []


def test_sources_are_named_once() -> None:
    sources = published.all_sources()
    assert len(sources) == len(set(sources)) == 2
    assert any("Analytic-DPM" in source for source in sources)
