"""The page an ablation leaves behind: report.html, the figures beside it, the rows of results.csv."""

import csv
import io
import math
import re
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from ddpm_jax.report import figures, mosaics, table
from ddpm_jax.report.mosaics import Pictures
from ddpm_jax.report.table import Cell, Number, Results, Row

DOTS_PER_INCH = 120
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.h_pad": 0.07,
    "figure.constrained_layout.w_pad": 0.07,
}
DECIMALS = 3  # of a number without a standard error
MOST_DECIMALS = 5
NO_BOUND = "no bound"
MISSING = "–"
LIKELIHOOD_COLUMNS = (
    "bits_per_dim",
    "standard_error",
    "prior",
    "kl",
    "decoder",
    "minus_isotropic",
    "paired_standard_error",
    "minus_even",
    "minus_even_standard_error",
)


def number(value: Number | None, decimals: int = DECIMALS) -> str:
    """A number with a true minus sign, a dash for None."""
    return MISSING if value is None else f"{value:.{decimals}f}".replace("-", "−")


def measured(value: Number | None, error: Number | None, sign: str = "") -> str:
    """value ± error, both to the decimal that gives the error two digits."""
    if value is None:
        return MISSING
    if not error:
        return f"{value:{sign}.{DECIMALS}f}".replace("-", "−")
    decimals = min(max(1 - math.floor(math.log10(error)), 0), MOST_DECIMALS)
    least = 10.0**-decimals
    shown = f"{error:.{decimals}f}" if error >= least / 2 else f"<{least:.{decimals}f}"
    return f"{value:{sign}.{decimals}f} ± {shown}".replace("-", "−")


def _code(text: str) -> Markup:
    """Plain text whose `names` are set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _lines(results: Results, rows: dict[Cell, Row]) -> list[tuple[str, str]]:
    """The (variance, trajectory) pairs that have a row, in the order of the page."""
    present = {(variance, trajectory) for variance, trajectory, _ in rows}
    pairs = ((variance, trajectory) for trajectory in results["trajectories"] for variance in results["variances"])
    return [pair for pair in pairs if pair in present]


def _least(rows: dict[Cell, Row], key: str) -> dict[int, Number]:
    """The least value of every K."""
    values: dict[int, list[Number]] = {}
    for (_, _, K), row in rows.items():
        if row[key] is not None:
            values.setdefault(K, []).append(row[key])
    return {K: min(column) for K, column in values.items()}


def _likelihood_cell(row: Row | None, best: Number | None) -> Row:
    """bits/dim ± standard error, and under it the difference to isotropic with its paired standard error."""
    if row is None:
        return dict(text=MISSING, below="", best=False)
    if row["bits_per_dim"] is None:
        return dict(text=NO_BOUND, below="", best=False)
    is_reference = row["variance"] == "isotropic" or row["minus_isotropic"] is None
    below = "" if is_reference else measured(row["minus_isotropic"], row["paired_standard_error"], "+")
    text = measured(row["bits_per_dim"], row["standard_error"])
    return dict(text=text, below=below, best=row["bits_per_dim"] == best)


def _likelihood_table(results: Results) -> list[Row]:
    """One line a variance and trajectory, one cell a K, test images."""
    rows = table.likelihood(results)
    best = _least(rows, "bits_per_dim")
    return [
        dict(
            name=name,
            trajectory=way,
            cells=[_likelihood_cell(rows.get((name, way, K)), best.get(K)) for K in results["K"]],
        )
        for name, way in _lines(results, rows)
    ]


def _decomposition(results: Results) -> list[Row]:
    """L_T, the sum of the KL terms, L_0 and their total for every line at one K."""
    rows = table.likelihood(results)
    K = table.few_steps(results)
    lines = []
    for name, way in _lines(results, rows):
        row = rows.get((name, way, K))
        if row:
            terms = [number(row[key]) for key in ("prior", "kl", "decoder")]
            total = NO_BOUND if row["bits_per_dim"] is None else number(row["bits_per_dim"])
            lines.append(dict(name=name, trajectory=way, cells=[*terms, total]))
    return lines


def _frechet_cell(row: Row | None, best: Number | None) -> Row:
    """Mean ± standard deviation over seeds."""
    if row is None:
        return dict(text=MISSING, best=False)
    return dict(text=measured(row["mean"], row["std"]), best=row["mean"] == best)


def _frechet_table(results: Results) -> list[Row]:
    """One line a variance and trajectory, one cell a K that was sampled."""
    rows = table.samples(results)
    best = _least(rows, "mean")
    return [
        dict(
            name=name,
            trajectory=way,
            cells=[_frechet_cell(rows.get((name, way, K)), best.get(K)) for K in results["sample_K"]],
        )
        for name, way in _lines(results, rows)
    ]


def answer(results: Results) -> str:
    """The one sentence: which variance wins in likelihood with few steps, and by how much."""
    K = table.few_steps(results)
    rows = table.likelihood(results)
    even = {name: rows[name, "even", K] for name in results["variances"] if (name, "even", K) in rows}
    bits = {name: row["bits_per_dim"] for name, row in even.items() if row["bits_per_dim"] is not None}
    winner = min(bits, key=lambda name: bits[name])
    losses = [
        f"{number(bits[name] - bits[winner])} less than `{name}`"
        for name in ("small", "large")
        if name in bits and name != winner
    ]
    best = f"{measured(bits[winner], even[winner]['standard_error'])} bits/dim"
    parts = [f"With K = {K} even steps the variance `{winner}` gives the best likelihood of test images", best]
    return ", ".join([*parts, *filter(None, [" and ".join(losses)])]) + "."


def csv_rows(results: Results) -> list[Row]:
    """results.csv: one row a variance, trajectory and K; None where a number was not measured.

    Args:
      results: results.json.

    Returns:
      Likelihood of the test split in bits/dim, and the Frechet distance where images were sampled.
    """
    likelihood, samples = table.likelihood(results), table.samples(results)
    every_K = sorted({K for _, _, K in [*likelihood, *samples]})
    rows = []
    for name, trajectory in _lines(results, likelihood | samples):
        for K in every_K:
            cell = (name, trajectory, K)
            if cell in likelihood or cell in samples:
                terms = {key: likelihood.get(cell, {}).get(key) for key in LIKELIHOOD_COLUMNS}
                distance = {f"frechet_{key}": samples.get(cell, {}).get(key) for key in ("mean", "std")}
                rows.append(dict(variance=name, trajectory=trajectory, K=K, **terms, **distance))
    return rows


def _flat(options: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested options as dotted names with their values."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _png(figure: Figure) -> bytes:
    """The figure as a PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def _render(results: Results, images: dict[str, bytes]) -> str:
    """The HTML of the page, images inside it."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=number, code=_code)
    return environment.get_template("template.html").render(
        results,
        answer=answer(results),
        few=table.few_steps(results),
        likelihood_table=_likelihood_table(results),
        decomposition=_decomposition(results),
        frechet_table=_frechet_table(results),
        seeds=sorted({row["seed"] for row in results["samples"]}),
        sampled=sorted({row["images"] for row in results["sample_cells"]}),
        gap=measured(results["memorising"]["gap"], results["memorising"]["gap_standard_error"], "+"),
        seconds=[(name, number(value, 1)) for name, value in results["about"]["seconds"].items()],
        options=list(_flat(results["config"])),
        images={name: b64encode(png).decode() for name, png in images.items()},
    )


def write(folder: Path, results: Results, pictures: Pictures) -> None:
    """Writes figures/NAME.png, report.html and results.csv into a folder that exists.

    Args:
      folder: where the page goes.
      results: results.json, claims included.
      pictures: uint8 images ready to show, with the numbers under them.
    """
    with matplotlib.rc_context(STYLE):
        drawn = figures.draw(results) | mosaics.draw(results, pictures)
        images = {name: _png(figure) for name, figure in drawn.items()}
    (folder / "figures").mkdir(exist_ok=True)
    for name, png in images.items():
        (folder / "figures" / f"{name}.png").write_bytes(png)
    (folder / "report.html").write_text(_render(results, images), encoding="utf-8")
    rows = csv_rows(results)
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
