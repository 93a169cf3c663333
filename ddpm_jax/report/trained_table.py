"""Ho et al. 2020, table 2, trained anew: their figures beside ours, and a picture. For rows see `trained_claims`."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddpm_jax.report import chart, markdown, published
from ddpm_jax.report.chart import COLOURS, MARKERS, Curve
from ddpm_jax.report.printed import measured, number
from ddpm_jax.report.published import Trained
from ddpm_jax.report.table import Results, Row
from ddpm_jax.report.trained_claims import MEASURES, summary, values

HEIGHT = 4.4
TICKS = ("L, learned\nvariance", "L, fixed\nvariance", "squared\nerror")  # of the rows of one prediction
APART = 0.12  # between the predictions of one tick
DECADE = 10  # a panel whose values differ by more is logarithmic
VERDICTS = {True: "met", False: "not met", None: "not decided"}


def _cell(row: Row, key: str) -> str:
    """Mean ± deviation over training seeds, and how many diverged."""
    lost, count = len(row["networks"]) - len(values(row, key)), len(row["networks"])
    words = "diverged" if lost == count else measured(*summary(row, key))
    return f"{words} ({lost} of {count} diverged)" if 0 < lost < count else words


def tables(rows: Sequence[Row]) -> str:
    """Our rows with the published figures beside them, and where those were read."""
    header = ["prediction", "objective", *MEASURES.values(), "published: bits/dim", "FID", "IS"]
    lines = []
    for row in rows:
        known = row["published"]
        theirs = [number(known[name], 2) for name in ("nll_test", "fid", "inception_score")]
        lines.append([row["prediction"], known["objective"], *(_cell(row, key) for key in MEASURES), *theirs])
    return f"{markdown.table(header, lines)}\n{published.sources([Trained(**row['published']) for row in rows])}"


def text(results: Results) -> str:
    """The table, what it stands on, and the published pattern, for a terminal or a Markdown file."""
    rows, config, judge = results["rows"], results["config"], results["classifier"]
    counts = [sum(one["holds"] is holds for one in results["statements"]) for holds in VERDICTS]
    verdict = ", ".join(f"{count} {word}" for count, word in zip(counts, VERDICTS.values(), strict=True))
    errors = [value for row in rows for value in values(row, "standard_error")]
    parts = [
        f"Here: {config['data']}, T = {config['T']}, {config['steps']} steps; mean ± standard deviation over "
        f"{config['training_seeds']} training seeds. Published: CIFAR-10, T = 1000; a dash where none was printed. "
        "Compare the order of the rows: the Frechet distance here is not the FID.\n",
        tables(rows),
        f"The published pattern, by more than two standard errors over training seeds (with three a row, chance alone "
        f"does so about one time in nine): of {len(results['statements'])} statements {verdict}.\n",
        *(f"- {VERDICTS[one['holds']]}: {one['statement']}. Here: {one['figures']}." for one in results["statements"]),
        "",
    ]
    if errors:
        parts.append(
            f"Over test images the bits/dim of one network have a standard error of {max(errors):.2g} at most."
        )
    if judge:
        parts.append(
            f"Of held-out images: Frechet distance {judge['held_out_frechet']:.3g}; of {config['images']} samples of a "
            f"matching model about {judge['bias']:.3g}."
        )
    return "\n".join(parts).rstrip("\n") + "\n"


def draw(rows: Sequence[Row]) -> Figure:
    """A panel a measure: mean and deviation over training seeds, and every network as a dot; what diverged in words."""
    figure = chart.panels(list(MEASURES.values()), HEIGHT, sharey=False)
    predictions = list(dict.fromkeys(row["prediction"] for row in rows))
    curves = []
    for panel, (axis, key) in enumerate(zip(figure.axes, MEASURES, strict=True)):
        for i, prediction in enumerate(predictions):
            mine = [row for row in rows if row["prediction"] == prediction]
            x = np.arange(len(mine)) + APART * (i - (len(predictions) - 1) / 2)
            mean, deviation = (
                chart.numbers(column) for column in zip(*(summary(row, key) for row in mine), strict=True)
            )
            style = dict(kind="bars", color=COLOURS[i], marker=MARKERS[i], markersize=7, linestyle="none")
            curves.append(Curve(f"{prediction} prediction", panel, x, mean, deviation, TICKS, style))
            _each(axis, mine, key, x, COLOURS[i])
        axis.set_xticks(range(len(TICKS)), TICKS)
        axis.set_xlim(-0.5, len(TICKS) - 0.5)
    drawn = chart.draw(figure, curves)
    for axis, key in zip(figure.axes, MEASURES, strict=True):
        known = [value for row in rows for value in values(row, key)]
        if known and max(known) > DECADE * min(known) > 0:
            axis.set_yscale("log")
            chart.log_ticks(axis.yaxis)
        else:
            chart.plain_ticks(axis.yaxis)
    chart.add_legend(drawn)
    return figure


def _each(axis: Axes, rows: Sequence[Row], key: str, x: np.ndarray, colour: str) -> None:
    """The networks one by one, and a word where some diverged."""
    for row, place in zip(rows, x, strict=True):
        known = values(row, key)
        axis.plot(np.full(len(known), place + APART / 3), known, ".", color=colour, markersize=4, alpha=0.6)
        if len(known) < len(row["networks"]):
            word = f"{len(row['networks']) - len(known)} of {len(row['networks'])} diverged"
            low = axis.get_xaxis_transform()
            axis.text(place, 0.03, word, transform=low, rotation=90, ha="center", va="bottom", color=colour)
