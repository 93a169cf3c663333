"""Published likelihoods and FIDs beside ours: ours | published | difference | standard error, by variance and K."""

from collections.abc import Iterable, Sequence

from ddpm_jax.report import published, tables
from ddpm_jax.report.lookup import Number, Results, Row
from ddpm_jax.report.published import Published
from ddpm_jax.report.tables import MISSING, number

TITLES = {"nll": "Likelihood, bits/dim", "fid": "FID"}
DECIMALS = {"nll": 3, "fid": 2}
Name = tuple[str, str, str]  # variance, kernel, trajectory


def table_of(results: Results) -> str | None:
    """The published table that the network is meant for: cifar10_linear or cifar10_cosine; None for other schedules."""
    name = f"cifar10_{results['config']['schedule']}"
    return name if name in {"cifar10_linear", "cifar10_cosine"} else None


def known(results: Results, metric: str) -> list[Published]:
    """The published rows; none for schedules that nothing was published of."""
    name = table_of(results)
    return published.rows(name, metric) if name else []


def text(results: Results) -> str:
    """Both tables with how each was made, for a terminal or a Markdown file."""
    parts = []
    for metric, title in TITLES.items():
        parts += [f"## {title}\n", table(results, metric), *(f"- {line}" for line in results["notes"][metric]), ""]
    rows = [row for metric in TITLES for row in known(results, metric)]
    return "\n".join(parts) + (f"\nPublished in\n\n{published.sources(rows)}" if rows else "")


def table(results: Results, metric: str) -> str:
    """Up to four lines a row: ours, published, the difference and the standard error of ours."""
    theirs = {(row.variance, row.kernel, row.trajectory): row.values for row in known(results, metric)}
    ours: dict[Name, dict[int, Row]] = {}
    for row in results[metric]:
        ours.setdefault((row["variance"], row["kernel"], row["trajectory"]), {})[row["K"]] = row
    Ks = sorted({*(row["K"] for row in results[metric]), *(K for values in theirs.values() for K in values)})
    lines = []
    for name in _order(ours, theirs):
        own, other = ours.get(name, {}), theirs.get(name, {})
        lines += _lines(name, [own.get(K) for K in Ks], [other.get(K) for K in Ks], DECIMALS[metric])
    return tables.markdown_table(["variance", "kernel", "trajectory", "", *(f"K = {K}" for K in Ks)], lines)


def _order(ours: Iterable[Name], theirs: Iterable[Name]) -> list[Name]:
    """Published rows first, in the order of the papers."""
    return list(dict.fromkeys((*theirs, *ours)))


def _lines(name: Name, ours: Sequence[Row | None], theirs: Sequence[Number | None], decimals: int) -> list[list[str]]:
    """Only the lines that have a number."""
    values, errors = ([None if row is None else row[key] for row in ours] for key in ("value", "standard_error"))
    marks = ["" if row is None else row["mark"] for row in ours]
    apart = [None if a is None or b is None else a - b for a, b in zip(values, theirs, strict=True)]
    lines = {
        "ours": [number(value, decimals) + mark for value, mark in zip(values, marks, strict=True)],
        "published": [number(value, 2) for value in theirs],
        "difference": [_signed(value, decimals) for value in apart],
        "standard error": [number(value, decimals + 1) for value in errors],
    }
    said = [[word, *shown] for word, shown in lines.items() if any(cell != MISSING for cell in shown)]
    return [[*(name if i == 0 else ("", "", "")), *line] for i, line in enumerate(said)]


def _signed(value: Number | None, decimals: int) -> str:
    return number(value, decimals) if value is None or value < 0 else f"+{number(value, decimals)}"
