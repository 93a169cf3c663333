"""Published tables, as package data with their sources, to be printed beside ours.

A row is named as ours are: data, metric, kernel, variance, trajectory. What was not published is None. They are of
other data and networks: what compares is the order of the choices.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from ddpm_jax.report import lookup, tables
from ddpm_jax.report.lookup import Number, Results
from ddpm_jax.report.tables import MISSING, number

Values = dict[int, float | None]


class Published(NamedTuple):
    """One row of a published table.

    Attributes:
      data: cifar10_linear or cifar10_cosine: the data set and the schedule of the network.
      metric: nll, in bits/dim, or fid.
      trajectory: even or optimal.
      kernel: ddpm or ddim.
      variance: a name of VARIANCES.
      source: where it was read.
      values: by K.
    """

    data: str
    metric: str
    trajectory: str
    kernel: str
    variance: str
    source: str
    values: Values


class Trained(NamedTuple):
    """One row of Ho et al. 2020, table 2: CIFAR-10, T = 1000.

    Attributes:
      prediction: mu or eps.
      objective: what was minimised, and the variance.
      inception_score: None where training was unstable and no figure was printed.
      fid: likewise.
      nll_test: bits/dim of test images, from table 1.
      source: where it was read.
    """

    prediction: str
    objective: str
    inception_score: float | None
    fid: float | None
    nll_test: float | None
    source: str


@cache
def _tables() -> dict[str, Any]:
    return json.loads(resources.files("ddpm_jax.report").joinpath("published.json").read_text(encoding="utf-8"))


def _by_K(Ks: Sequence[int], row: Mapping[str, Any]) -> Values:
    return dict(zip(Ks, row["values"], strict=True))


def rows(data: str, metric: str) -> list[Published]:
    """The published rows of one data set and metric, in the order of the papers.

    Raises:
      ValueError: nothing of this name was published.
    """
    tables = _tables()
    sources, Ks = tables["sources"], tables["K"]
    every = [row | {"source": sources[row["source"]], "values": _by_K(Ks, row)} for row in tables["rows"]]
    found = [Published(**row) for row in every if (row["data"], row["metric"]) == (data, metric)]
    if not found:
        known = sorted({f"{row['data']} {row['metric']}" for row in every})
        raise ValueError(f"nothing published of {data} {metric}: choose one of {', '.join(known)}")
    return found


def first_variances(data: str, variance: str) -> dict[int, float]:
    """sigma^2 of the step tau_2 -> tau_1 = 1 of even chains, by K. Bao et al. 2022, table 7.

    Raises:
      ValueError: nothing of this name was published.
    """
    for row in _tables()["first_variance"]:
        if (row["data"], row["variance"]) == (data, variance):
            return dict(zip(row["K"], row["values"], strict=True))
    raise ValueError(f"no first-step variances of {data} {variance} were published")


def table_2() -> list[Trained]:
    """Ho et al. 2020, table 2: prediction and objective, in the order of the paper."""
    tables = _tables()
    part = tables["ddpm_table2"]
    return [Trained(**row, source=tables["sources"][part["source"]]) for row in part["rows"]]


def beside(published: Sequence[Published], ours: Mapping[tuple[str, str, str], Values], name: str) -> str:
    """A Markdown table of published rows, each with ours under it and how far ours is off, where there is one.

    Args:
      published: from `rows`.
      ours: by (kernel, variance, trajectory), and then by K.
      name: what ours is called.
    """
    Ks = list(published[0].values)
    lines = []
    for row in published:
        words = [row.variance, row.kernel, row.trajectory]
        lines.append([*words, "published", *(number(row.values[K], 2) for K in Ks)])
        own = ours.get((row.kernel, row.variance, row.trajectory))
        if own is not None:
            lines.append(["", "", "", name, *(number(own.get(K), 2) for K in Ks)])
            lines.append(["", "", "", "off by", *(_percent(own.get(K), row.values[K]) for K in Ks)])
    return tables.markdown_table(["variance", "kernel", "trajectory", "", *(f"K = {K}" for K in Ks)], lines)


def _percent(value: float | None, known: float | None) -> str:
    return MISSING if value is None or known is None else f"{100 * (value / known - 1):+.1f} %".replace("-", "−")


def sources(published: Sequence[Published | Trained]) -> str:
    """Where the rows were read, one line a source."""
    return "\n".join(f"- {source}" for source in dict.fromkeys(row.source for row in published)) + "\n"


DATA = {"cifar10_linear": "CIFAR-10, linear schedule", "cifar10_cosine": "CIFAR-10, cosine schedule"}
METRICS = {"nll": "bits/dim", "fid": "FID"}
KERNEL = "ddpm"  # of our chains
ORDERED_K = 2  # so many of the smallest K that both measured have their order written out

Ours = dict[tuple[str, str, int], Number]


def _ours(results: Results, metric: str) -> Ours:
    """Our numbers by (variance, trajectory, K): test likelihoods, or Frechet distances in place of FID."""
    rows, key = (lookup.likelihood(results), "bits_per_dim") if metric == "nll" else (lookup.samples(results), "mean")
    return {cell: row[key] for cell, row in rows.items() if row[key] is not None}


def _own(row: Published, ours: Ours, K: int) -> Number | None:
    """Our number in the place of a published one."""
    return ours.get((row.variance, row.trajectory, K)) if row.kernel == KERNEL else None


def _line(row: Published, ours: Ours) -> dict[str, Any]:
    own = {K: _own(row, ours, K) for K in row.values}
    cells = [
        dict(text=number(value, 2), below="" if own[K] is None else f"here {number(own[K], 2)}", best=False)
        for K, value in row.values.items()
    ]
    return dict(name=row.variance, trajectory=f"{row.kernel}, {row.trajectory}", cells=cells)


def _order(rows: list[Published], ours: Ours, K: int) -> dict[str, Any] | None:
    """The choices that both measured on the even trajectory, best first; None for fewer than two of them."""
    pairs = {
        row.variance: (known, own)
        for row in rows
        if row.trajectory == "even" and (own := _own(row, ours, K)) is not None and (known := row.values[K]) is not None
    }
    if len(pairs) < 2:
        return None
    theirs, here = (sorted(pairs, key=lambda name: pairs[name][side]) for side in (0, 1))
    return dict(K=K, published=theirs, here=here, same=theirs == here)


def page_tables(results: Results) -> list[dict[str, Any]]:
    """Every published table with our numbers in its cells, and the order of the choices in both."""
    found = []
    for data, words in DATA.items():
        for metric, unit in METRICS.items():
            theirs, ours = rows(data, metric), _ours(results, metric)
            Ks = list(theirs[0].values)
            orders = [order for K in Ks if (order := _order(theirs, ours, K))]
            found.append(
                dict(
                    id=f"published-{data}-{metric}".replace("_", "-"),
                    title=f"{words}: {unit}",
                    content=dict(K=Ks, lines=[_line(row, ours) for row in theirs]),
                    orders=orders[:ORDERED_K],
                )
            )
    return found


def all_sources() -> list[str]:
    """Where the tables were read, each once."""
    every = [row for data in DATA for metric in METRICS for row in rows(data, metric)]
    return list(dict.fromkeys(row.source for row in every))
