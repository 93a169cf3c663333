"""The claims about the reverse variance, each judged from the likelihood rows.

What is exact on calibration images (the numbers that fix a variance come from them) is statistical on test images. A
claim about a variance that was not compared is not judged.
"""

from typing import NamedTuple

from ddpm_jax.report import lookup
from ddpm_jax.report.lookup import Number, Results, Row

SLACK = 1e-9  # bits/dim: rounding of sums of float64 terms
STANDARD_ERRORS = 2.0
FEW_STEPS = (10, 25, 50)
GAP_TOLERANCE = 1e-3  # bits/dim
TABULATED = 1e-4  # bits/dim: a bound whose steps are interpolated in tables agrees with the direct one within this
DECODERS = 2e-3  # bits/dim: interpolation of L_0 between the tabulated decoder variances


class Margin(NamedTuple):
    """A difference that a claim says is positive, bits/dim; it may fall short by `allowance`."""

    difference: Number
    where: str
    allowance: Number = 0.0
    standard_error: Number | None = None

    @property
    def holds(self) -> bool:
        """Whether the difference is where the claim says; false for NaN."""
        return bool(self.difference > -self.allowance)


def _statistical(difference: Number, standard_error: Number, where: str) -> Margin:
    """A difference that may fall short by two paired standard errors."""
    return Margin(difference, where, STANDARD_ERRORS * standard_error + SLACK, standard_error)


def _clear(difference: Number, standard_error: Number, where: str) -> Margin:
    """A difference that has to exceed two standard errors."""
    return Margin(difference, where, -STANDARD_ERRORS * standard_error, standard_error)


def _summary(margins: list[Margin]) -> str:
    """The case nearest to failing, in words."""
    worst = min(margins, key=lambda margin: (margin.holds, margin.difference + margin.allowance))
    cases = "1 case" if len(margins) == 1 else f"{len(margins)} cases"
    if worst.standard_error is None:
        return f"smallest difference {worst.difference:.4g} at {worst.where} ({cases})"
    return f"closest case {worst.difference:.4g} ± {worst.standard_error:.2g} at {worst.where} ({cases})"


def _claim(sentence: str, split: str, **groups: list[Margin]) -> Row:
    """A judged claim; `holds` is None where a group has no case, for nothing was measured."""
    if not all(groups.values()):
        return dict(claim=sentence, split=split, holds=None, figures="not measured")
    holds = all(margin.holds for margins in groups.values() for margin in margins)
    figures = "; ".join(
        f"{name.replace('_minus_', ' minus ')}: {_summary(margins)}" for name, margins in groups.items()
    )
    return dict(claim=sentence, split=split, holds=holds, figures=figures)


def _gaps(results: Results, split: str, trajectory: str, worse: str, better: str) -> dict[int, Number]:
    """bits/dim of one variance minus that of another, by K, where both were measured."""
    rows = lookup.likelihood(results, split)
    pairs = {K: (rows.get((worse, trajectory, K)), rows.get((better, trajectory, K))) for K in results["K"]}
    known = {K: (a, b) for K, (a, b) in pairs.items() if _bounded(a) and _bounded(b)}
    return {K: a["bits_per_dim"] - b["bits_per_dim"] for K, (a, b) in known.items() if a and b}


def _bounded(row: Row | None) -> bool:
    """There is such a cell, and it has a likelihood bound."""
    return row is not None and row["bits_per_dim"] is not None


def _never_worse(results: Results, better: str, worse: str, trajectory: str, slack: Number) -> Row:
    """An order that is exact where the moments that fix both variances were measured."""
    gaps = _gaps(results, "calibration", trajectory, worse, better)
    margins = [Margin(gap, f"K = {K}", slack) for K, gap in gaps.items()]
    where = "on the even trajectory" if trajectory == "even" else "when each takes its own optimal trajectory"
    within = "" if slack == SLACK else f", within {slack:.4f} bits/dim, which the interpolation of tables may cost"
    sentence = f"`{better}` is never worse than `{worse}` {where}, at every K{within}."
    return _claim(sentence, "calibration", **{f"{worse}_minus_{better}": margins})


def _optimal_is_least(results: Results) -> Row:
    """Dynamic programming finds the cheapest path, and the even trajectory is one of the paths."""
    rows = lookup.likelihood(results, "calibration")
    margins = []
    for (variance, trajectory, K), row in rows.items():
        even = rows.get((variance, "even", K))
        if trajectory == "optimal" and even and _bounded(row) and _bounded(even):
            slack = TABULATED if variance in results["clamped"] else SLACK
            margins.append(Margin(even["bits_per_dim"] - row["bits_per_dim"], f"{variance}, K = {K}", slack))
    sentence = "The optimal trajectory is never worse than the even one, for every variance and K."
    return _claim(sentence, "calibration", even_minus_optimal=margins)


def _free_is_least(results: Results) -> Row:
    """A chain that may choose its first time and decoder may choose t = 1 and the papers' decoder; not judged where
    choices have decoders of their own, which may be better than any of one number.
    """
    rows = lookup.likelihood(results, "calibration") if results["rules"]["decoder"] == "shared" else {}
    margins = []
    for (variance, trajectory, K), row in rows.items():
        fixed = rows.get((variance, "optimal", K))
        if trajectory == "optimal_free" and fixed and _bounded(row) and _bounded(fixed):
            margins.append(Margin(fixed["bits_per_dim"] - row["bits_per_dim"], f"{variance}, K = {K}", DECODERS))
    sentence = (
        "The optimal trajectory with its first time free is never worse than the one that ends at t = 1, within "
        f"{DECODERS:g} bits/dim, which the interpolation between decoder variances may cost."
    )
    return _claim(sentence, "calibration", optimal_minus_optimal_free=margins)


def _order_of_the_answers(results: Results) -> Row:
    """Few steps: the article's two answers lose to the variance fitted to the network's own error."""

    def margins(worse: str, better: str) -> list[Margin]:
        gaps = _gaps(results, "test", "even", worse, better)
        return [Margin(gap, f"K = {K}") for K, gap in gaps.items() if K in FEW_STEPS]

    sentence = "With few steps `small` is worse than `large`, and `large` is worse than `isotropic` (even trajectory)."
    groups = dict(small_minus_large=margins("small", "large"), large_minus_isotropic=margins("large", "isotropic"))
    return _claim(sentence, "test", **groups)


def _isotropic_on_test(results: Results) -> Row:
    """The exact order on calibration images, within two paired standard errors on test images."""
    rows = lookup.likelihood(results)
    analytic = {K: rows.get(("analytic", "even", K)) for K in FEW_STEPS}
    margins = [
        _statistical(row["minus_isotropic"], row["paired_standard_error"], f"K = {K}")
        for K, row in analytic.items()
        if row and row["minus_isotropic"] is not None
    ]
    sentence = "With few steps `analytic` is not better than `isotropic` by more than two paired standard errors."
    return _claim(sentence, "test", analytic_minus_isotropic=margins)


def _spectral_on_test(results: Results) -> Row:
    """One number for every frequency against one for all, on images that fixed neither."""
    rows = lookup.likelihood(results)
    spectral = {K: rows.get(("spectral", "even", K)) for K in FEW_STEPS}
    margins = [
        _clear(-row["minus_isotropic"], row["paired_standard_error"], f"K = {K}")
        for K, row in spectral.items()
        if row and row["minus_isotropic"] is not None
    ]
    sentence = "With few steps `spectral` is better than `isotropic` by more than two paired standard errors."
    return _claim(sentence, "test", isotropic_minus_spectral=margins)


def _npr_on_test(results: Results) -> Row:
    """A claim of Bao et al. 2022b. Its standard error is at most the sum of those of the differences to isotropic."""
    rows = lookup.likelihood(results)
    margins = []
    for K in FEW_STEPS:
        pair = [rows.get((name, "even", K)) or {} for name in ("analytic", "npr")]
        gaps = [row["minus_isotropic"] for row in pair if row.get("minus_isotropic") is not None]
        if len(gaps) == len(pair):
            error = sum(row["paired_standard_error"] for row in pair)
            margins.append(_clear(gaps[0] - gaps[1], error, f"K = {K}"))
    sentence = "With few steps `npr` is better than `analytic` by more than two standard errors (Bao et al. 2022b)."
    return _claim(sentence, "test", analytic_minus_npr=margins)


def _optimal_on_test(results: Results) -> Row:
    """The trajectory chosen on calibration images, judged on test images."""
    margins = [
        _statistical(-row["minus_even"], row["minus_even_standard_error"], f"{variance}, K = {K}")
        for (variance, trajectory, K), row in lookup.likelihood(results).items()
        if trajectory == "optimal" and K in FEW_STEPS and row["bits_per_dim"] is not None
    ]
    sentence = "With few steps the optimal trajectory is not worse than the even one by more than two standard errors."
    return _claim(sentence, "test", even_minus_optimal=margins)


def _negative_control(results: Results) -> Row:
    """A variance that is too large must lose; a step loses exactly when tb + v M_t < 1.2887 b."""
    rows = results["negative_control"]
    margins = [Margin(row["scaled"] - row["large"], f"K = {row['K']}") for row in rows]
    sentence = "Negative control: 1.7 times `large` is worse than `large` at every K (even trajectory)."
    return _claim(sentence, "test", scaled_minus_large=margins)


def _gap_formula(results: Results) -> Row:
    """The gap of `large` to `isotropic`, from the table and from the sum of its formula."""
    check = results["gap_check"]
    apart = abs(check["from_table"] - check["from_formula"])
    figures = f"table {check['from_table']:.6f}, formula {check['from_formula']:.6f}, apart {apart:.1e} bits/dim"
    sentence = f"The gap between `large` and `isotropic` at K = {check['K']} is the sum of its formula over the steps."
    return dict(claim=sentence, split="test", holds=bool(apart < GAP_TOLERANCE), figures=figures)


def verdicts(results: Results) -> list[Row]:
    """Every claim with its verdict.

    Args:
      results: results.json; read are K, rules, likelihood, clamped, negative_control and gap_check.

    Returns:
      One dict a claim: `claim` (a sentence), `split`, `holds` (None where nothing was measured) and `figures`.
    """
    return [
        _never_worse(results, "isotropic", "analytic", "even", SLACK),
        _never_worse(results, "isotropic", "analytic", "optimal", SLACK),
        _never_worse(results, "spectral", "isotropic", "even", TABULATED),
        _never_worse(results, "spectral", "isotropic", "optimal", TABULATED),
        _never_worse(results, "spectral", "spectral_radial", "even", TABULATED),
        _optimal_is_least(results),
        _free_is_least(results),
        _order_of_the_answers(results),
        _isotropic_on_test(results),
        _spectral_on_test(results),
        _npr_on_test(results),
        _optimal_on_test(results),
        _negative_control(results),
        _gap_formula(results),
    ]


def lines(claims: list[Row]) -> list[str]:
    """The judged claims as lines for a terminal."""
    verdicts = {True: "holds", False: "DOES NOT HOLD", None: "not measured"}
    return [f"{verdicts[claim['holds']]}: {claim['claim']} ({claim['figures']})" for claim in claims]
