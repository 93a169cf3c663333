"""Published tables of other data and networks, as the page prints them: to compare the order of the choices."""

from typing import Any

from ddpm_jax.report import published, table
from ddpm_jax.report.printed import number
from ddpm_jax.report.published import Published
from ddpm_jax.report.table import Number, Results

DATA = {"cifar10_linear": "CIFAR-10, linear schedule", "cifar10_cosine": "CIFAR-10, cosine schedule"}
METRICS = {"nll": "bits/dim", "fid": "FID"}
KERNEL = "ddpm"  # of our chains
ORDERED_K = 2  # so many of the smallest K that both measured have their order written out

Ours = dict[tuple[str, str, int], Number]


def _ours(results: Results, metric: str) -> Ours:
    """Our numbers by (variance, trajectory, K): test likelihoods, or Frechet distances in place of FID."""
    rows, key = (table.likelihood(results), "bits_per_dim") if metric == "nll" else (table.samples(results), "mean")
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


def tables(results: Results) -> list[dict[str, Any]]:
    """Every published table with our numbers in its cells, and the order of the choices in both."""
    found = []
    for data, words in DATA.items():
        for metric, unit in METRICS.items():
            rows, ours = published.rows(data, metric), _ours(results, metric)
            Ks = list(rows[0].values)
            orders = [order for K in Ks if (order := _order(rows, ours, K))]
            found.append(
                dict(
                    id=f"published-{data}-{metric}".replace("_", "-"),
                    title=f"{words}: {unit}",
                    content=dict(K=Ks, lines=[_line(row, ours) for row in rows]),
                    orders=orders[:ORDERED_K],
                )
            )
    return found


def sources() -> list[str]:
    """Where the tables were read, each once."""
    every = [row for data in DATA for metric in METRICS for row in published.rows(data, metric)]
    return list(dict.fromkeys(row.source for row in every))
