"""The tables that `experiments.exact_gaussian` prints and keeps, from its results."""

import math

import numpy as np

from ddpm_jax.report import markdown, published
from ddpm_jax.report.printed import number
from ddpm_jax.report.table import Results, Row

SHOWN_TIMES = 6  # rows of the family's table
INFINITE = "∞"


def _short(value: float | None) -> str:
    """Four digits; JSON's null stands for no finite number."""
    return INFINITE if value is None or not math.isfinite(value) else f"{value:.4g}".replace("-", "−")


def family(results: Results) -> str:
    """sigma^2(c)/b at some t, and the directions outside [tb, b]."""
    of = results["family"]
    picked = np.unique(np.linspace(0, len(of["t"]) - 1, SHOWN_TIMES).round().astype(int))
    header = ["t", *(f"c = {c}" for c in of["ratios"]), "bound 1/a"]
    rows = [
        [str(of["t"][k]), *(f"{ratio[k]:.6f}" for ratio in of["ratios"].values()), f"{of['upper'][k]:.6f}"]
        for k in picked
    ]
    return (
        f"## One family: variance / b of the even chain of {of['K']} steps\n\n"
        "c = 0 is `small`, c = 1 is `large`, c → ∞ the upper bound of Analytic-DPM.\n\n"
        f"{markdown.table(header, rows)}\n"
        f"{of['outside']} of {of['directions']} directions of the fitted Gaussian lie above [tb, b] at every t, "
        f"{of['outside_at_some_t'] - of['outside']} at some t only. They hold {100 * of['share_of_variance']:.1f} % of "
        f"the variance of the data. By colour axis: {', '.join(map(str, of['outside_by_axis']))}. The largest c is "
        f"{of['largest']:.1f}.\n"
    )


def power_law(results: Results) -> str:
    """Predicted beside published likelihoods."""
    of = results["power_law"]
    first = [[f"K = {row['K']}", _short(row["published"]), _short(row["fitted"])] for row in of["first_variances"]]
    ours: dict[tuple[str, str, str], published.Values] = {}
    for cell in of["cells"]:
        ours.setdefault(("ddpm", cell["variance"], cell["trajectory"]), {})[cell["K"]] = cell["predicted"]
    rows = published.rows(of["data"], "nll")
    spectral = [["spectral", *(f"{value:.2f}" for value in of["spectral"].values())]]
    return (
        "## A Gaussian with a power-law spectrum predicts a published table\n\n"
        f"Fitted to four published variances of the step into t = 1: p = {of['p']:.4f}, f0 = {of['f0']:.4f}.\n\n"
        f"{markdown.table(['first step', 'published', 'fitted'], first)}\n"
        f"L_0 = {of['decoder']:.4f} bits/dim, from one cell: {', '.join(map(str, of['anchor']))}.\n\n"
        f"{published.beside(rows, ours, 'predicted')}\n{published.sources(rows)}\n"
        f"Even trajectory, {of['unanchored']} cells that fixed nothing: median error {100 * of['median']:.2f} %, worst "
        f"{100 * of['worst']:.2f} %. Optimal trajectory: median {100 * of['optimal_median']:.2f} %, worst "
        f"{100 * of['optimal_worst']:.2f} %.\n\n"
        "The variance of every direction its own, bits/dim. Optimistic: real images are not Gaussian, and their "
        "M_{t,j} must be measured.\n\n"
        f"{markdown.table(['variance', *(f'K = {K}' for K in of['spectral'])], spectral)}"
    )


def _worst(rows: list[Row]) -> float:
    return max(abs(z) for row in rows for name in ("variance_z", "error_z") for z in row[name])


def finals(results: Results) -> str:
    """P_0 of every choice and kernel for the longest chain, and the worst deviation of samples over all chains."""
    rows = results["finals"]
    longest = max(row["K"] for row in rows)
    lines = []
    for name, kernel in dict.fromkeys((row["variance"], row["kernel"]) for row in rows):
        mine = [row for row in rows if (row["variance"], row["kernel"]) == (name, kernel)]
        shown = next(row for row in mine if (row["K"], row["last_step"]) == (longest, "noise"))
        pairs = zip(shown["variance_exact"], shown["variance_drawn"], strict=True)
        worst = [f"{_worst([row for row in mine if row['last_step'] == last]):.1f}" for last in ("noise", "mean")]
        lines.append([name, kernel, *(f"{_short(P)} ({_short(drawn)})" for P, drawn in pairs), *worst])
    Ks = sorted({row["K"] for row in rows})
    header = ["variance", "kernel", *(f"c = {c:g}" for c in rows[0]["level"]), "worst z", "no last noise"]
    return (
        f"## Final variance of every choice, K = {longest}: by the recursion, and (drawn)\n\n"
        f"{markdown.table(header, lines)}\n"
        "Worst z: the largest deviation of a drawn variance or mean, in standard errors, over K = "
        f"{', '.join(map(str, Ks))} and all c. Over everything: {_worst(rows):.2f}.\n"
    )


def optima(results: Results) -> str:
    """The Frechet-optimal isotropic variances against those of least path KL, in all scores."""
    header = ["variance", "K", "Frechet distance", "KL(data, samples)", "path KL", "steps without noise", "gap"]
    lines = [
        [
            row["variance"],
            str(row["K"]),
            _short(row["frechet"]),
            _short(row["data_kl"]),
            _short(row["path_kl"]),
            str(row["silent"]),
            "" if row["gap"] is None else f"{row['gap']:.0e}".replace("-", "−"),
        ]
        for row in results["optima"]
    ]
    return (
        "## Isotropic variances of least Frechet distance, on the fitted Gaussian\n\n"
        "KL in nats/dim. `isotropic` is the least in path KL. The gap bounds what is left to gain in distance.\n\n"
        f"{markdown.table(header, lines)}"
    )


def paths(results: Results) -> str:
    """Path KL against K, and the slope from one K to the next on log scales."""
    rows = results["paths"]
    names = list(rows[0]["path_kl"])
    header = ["K", *(word for name in names for word in (name, "slope"))]
    lines = []
    for row, before in zip(rows, [None, *rows], strict=False):
        steps = [(row["path_kl"][name], before["path_kl"][name] if before else None) for name in names]
        ratio = math.log(row["K"] / before["K"]) if before else math.nan
        slopes = [math.log(new / old) / ratio if new and old else None for new, old in steps]
        words = [(number(new, 4), number(slope, 2)) for (new, _), slope in zip(steps, slopes, strict=True)]
        lines.append([str(row["K"]), *(word for pair in words for word in pair)])
    return f"## Path KL against K, nats/dim, on the fitted Gaussian\n\n{markdown.table(header, lines)}"


def text(results: Results) -> str:
    """All tables, as Markdown."""
    return "\n".join(part(results) for part in (family, power_law, finals, optima, paths))
