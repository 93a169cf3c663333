"""Ho et al. 2020, table 2, trained anew: their figures beside ours, a picture, and which statements our trainings meet.

A row has `prediction`, `objective`, `variance`, `published` (the fields of `published.Trained`) and `networks`, one a
training seed: `diverged`, what the training said when its loss became infinite or NaN, or None; and then a value under
every key of MEASURES, of which less is better.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddpm_jax.report import charts, published
from ddpm_jax.report.charts import COLOURS, MARKERS, Curve
from ddpm_jax.report.claims import STANDARD_ERRORS
from ddpm_jax.report.lookup import Number, Results, Row
from ddpm_jax.report.published import Trained
from ddpm_jax.report.tables import markdown_table, measured, number

MEASURES = {"frechet": "Frechet distance to the training images", "bits_per_dim": "bits/dim of test images"}


def values(row: Row, key: str) -> list[Number]:
    """A measure of the networks that did not diverge."""
    return [network[key] for network in row["networks"] if network["diverged"] is None]


def summary(row: Row, key: str) -> tuple[Number | None, Number | None]:
    """Mean and standard deviation over training seeds; None where there are too few that did not diverge."""
    known = values(row, key)
    mean = float(np.mean(known)) if known else None
    return mean, float(np.std(known, ddof=1)) if len(known) > 1 else None


def over_seeds(row: Row) -> Row:
    """How many diverged, and mean and deviation of every measure, as results.json keeps them."""
    found: Row = {"diverged": len(row["networks"]) - len(values(row, "frechet"))}
    for key in MEASURES:
        found[key], found[f"{key}_std"] = summary(row, key)
    return found


def difference(worse: Row, better: Row, key: str) -> tuple[Number, Number] | None:
    """d = mean(worse) - mean(better) and its standard error, sqrt(s_w^2/n_w + s_b^2/n_b), over training seeds; None
    where a row has fewer than two networks that did not diverge.
    """
    known = [np.asarray(values(row, key)) for row in (worse, better)]
    if min(map(len, known)) < 2:
        return None
    error = math.sqrt(sum(one.var(ddof=1) / len(one) for one in known))
    return float(known[0].mean() - known[1].mean()), error


def clearly(worse: Row, better: Row, key: str) -> bool | None:
    """Whether one row is worse than the other by more than two standard errors: False where it is better by as much,
    None where neither is. A row that always diverged is worse than one that did not.
    """
    there = [bool(values(row, key)) for row in (worse, better)]
    gap = difference(worse, better, key)
    if there[0] != there[1]:
        return there[1]
    if gap is None or not abs(gap[0]) > STANDARD_ERRORS * gap[1]:
        return None
    return gap[0] > 0


def nearer(a: Row, b: Row, c: Row) -> bool | None:
    """Whether b's Frechet distance is nearer to a's than to c's, |a - b| < |b - c|, by more than two standard errors of
    both differences; None where that is not decided.
    """
    near, far = difference(a, b, "frechet"), difference(b, c, "frechet")
    if near is None or far is None:
        return None
    lead, spread = abs(far[0]) - abs(near[0]), math.hypot(near[1], far[1])
    return None if not abs(lead) > STANDARD_ERRORS * spread else lead > 0


def every(verdicts: Iterable[bool | None]) -> bool | None:
    """Whether all hold: False where one does not, None where one is not decided and none fails."""
    found = set(verdicts)
    return False if False in found else None if None in found else True


def _name(row: Row) -> str:
    return f"{row['prediction']}, {row['published']['objective']}"


def _gap(worse: Row, better: Row, key: str) -> str:
    """A difference in words."""
    gap = difference(worse, better, key)
    if gap is None:
        never = [_name(row) for row in (worse, better) if not values(row, key)]
        return f"{' and '.join(never)} diverged" if never else "too few networks for a spread"
    return f"{_name(worse)} minus {_name(better)}: {measured(*gap, '+')}"


def _best_samples(rows: Sequence[Row], best: Row) -> Row:
    """Against every other row; the figure is that of the nearest."""
    others = [row for row in rows if row is not best]
    gaps = {i: gap[0] for i, row in enumerate(others) if (gap := difference(row, best, "frechet"))}
    nearest = others[min(gaps, key=lambda i: gaps[i])] if gaps else others[0]
    return dict(
        statement=f"{_name(best)}: the best samples of all rows (published FID {_fid(best)})",
        holds=every(clearly(row, best, "frechet") for row in others),
        figures=_gap(nearest, best, "frechet"),
    )


def _fid(row: Row) -> str:
    return number(row["published"]["fid"], 2)


def _unstable(row: Row, printed: Sequence[Row]) -> Row:
    """A training diverged, or the samples are worse than those of every row whose figures were printed."""
    diverged = len(row["networks"]) - len(values(row, "frechet"))
    worse = every(clearly(row, other, "frechet") for other in printed)
    known = [other for other in printed if values(other, "frechet")]
    worst = max(known, key=lambda other: np.mean(values(other, "frechet")), default=printed[0])
    count = f"{diverged} of {len(row['networks'])} trainings diverged"
    return dict(
        statement=f"{_name(row)}: unstable, it diverges or has worse samples than every row with printed figures",
        holds=True if diverged else worse,
        figures=count if diverged else f"none diverged; {_gap(row, worst, 'frechet')}",
    )


def statements(rows: Sequence[Row]) -> list[Row]:
    """What Ho et al. 2020 say of the table in section 4.2, and section 4.1 of codelengths, judged by our rows.

    Returns:
      One dict a statement: `statement`, `holds` (None where it is not decided) and `figures`.
    """
    by_name = {(row["prediction"], row["objective"], row["variance"]): row for row in rows}
    learned, fixed = by_name["mu", "vlb", "learned"], by_name["mu", "vlb", "large"]
    bound, simple = by_name["eps", "vlb", "large"], by_name["eps", "simple", "large"]
    nll = [number(row["published"]["nll_test"], 2) for row in (bound, simple)]
    return [
        _best_samples(rows, simple),
        dict(
            statement=f"mu under L: a fixed variance gives better samples than a learned one (published FID "
            f"{_fid(fixed)} and {_fid(learned)})",
            holds=clearly(learned, fixed, "frechet"),
            figures=_gap(learned, fixed, "frechet"),
        ),
        dict(
            statement=f"L, fixed variance: the samples of mu and eps are nearer to each other than L is to L_simple "
            f"(published FID {_fid(fixed)} and {_fid(bound)}, against {_fid(simple)})",
            holds=nearer(fixed, bound, simple),
            figures=f"{_gap(fixed, bound, 'frechet')}; {_gap(bound, simple, 'frechet')}",
        ),
        dict(
            statement=f"eps: L gives a better codelength than L_simple (published bits/dim {nll[0]} and {nll[1]})",
            holds=clearly(simple, bound, "bits_per_dim"),
            figures=_gap(simple, bound, "bits_per_dim"),
        ),
        *(
            _unstable(row, [other for other in rows if other["published"]["fid"] is not None])
            for row in rows
            if row["published"]["fid"] is None
        ),
    ]


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
    return f"{markdown_table(header, lines)}\n{published.sources([Trained(**row['published']) for row in rows])}"


def text(results: Results) -> str:
    """The table, what it stands on, and the published pattern, for a terminal or a Markdown file."""
    rows, config, classifier = results["rows"], results["config"], results["classifier"]
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
    if classifier:
        parts.append(
            f"Of held-out images: Frechet distance {classifier['held_out_frechet']:.3g}; of {config['images']} samples "
            f"of a matching model about {classifier['bias']:.3g}."
        )
    return "\n".join(parts).rstrip("\n") + "\n"


def draw(rows: Sequence[Row]) -> Figure:
    """A panel a measure: mean and deviation over training seeds, and every network as a dot; what diverged in words."""
    figure = charts.panels(list(MEASURES.values()), HEIGHT, sharey=False)
    predictions = list(dict.fromkeys(row["prediction"] for row in rows))
    curves = []
    for panel, (axis, key) in enumerate(zip(figure.axes, MEASURES, strict=True)):
        for i, prediction in enumerate(predictions):
            mine = [row for row in rows if row["prediction"] == prediction]
            x = np.arange(len(mine)) + APART * (i - (len(predictions) - 1) / 2)
            mean, deviation = (
                charts.numbers(column) for column in zip(*(summary(row, key) for row in mine), strict=True)
            )
            style = dict(kind="bars", color=COLOURS[i], marker=MARKERS[i], markersize=7, linestyle="none")
            curves.append(Curve(f"{prediction} prediction", panel, x, mean, deviation, TICKS, style))
            _each(axis, mine, key, x, COLOURS[i])
        axis.set_xticks(range(len(TICKS)), TICKS)
        axis.set_xlim(-0.5, len(TICKS) - 0.5)
    drawn = charts.draw(figure, curves)
    for axis, key in zip(figure.axes, MEASURES, strict=True):
        known = [value for row in rows for value in values(row, key)]
        if known and max(known) > DECADE * min(known) > 0:
            axis.set_yscale("log")
            charts.log_ticks(axis.yaxis)
        else:
            charts.plain_ticks(axis.yaxis)
    charts.add_legend(drawn)
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
