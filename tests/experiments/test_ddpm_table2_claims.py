"""Which published statements made-up trainings meet: the published figures meet all, their reverse none."""

import numpy as np
import pytest

from ddpm_jax.report import published
from experiments import ddpm_table2_report

NAMES = (
    ("mu", "vlb", "learned"),
    ("mu", "vlb", "large"),
    ("mu", "mu_mse", "large"),
    ("eps", "vlb", "learned"),
    ("eps", "vlb", "large"),
    ("eps", "simple", "large"),
)
FID = (23.69, 13.22, None, None, 13.51, 3.17)  # typed from the paper once more
NLL = (3.9, 3.8, 3.9, 3.9, 3.70, 3.75)  # of which the last two are printed
MESSAGE = "loss nan at step 7, t = 3"


def network(seed: int, frechet: float | None, bits: float) -> dict:
    """A network that was judged, or, without a distance, one that diverged."""
    if frechet is None:
        return dict(seed=seed, diverged=MESSAGE)
    return dict(seed=seed, diverged=None, frechet=frechet, bits_per_dim=bits, standard_error=0.02 + bits / 1000)


def made_rows(fid=FID, nll=NLL, spread: tuple[float, ...] = (-0.2, 0.0, 0.2)) -> list[dict]:
    """The table with a spread around each number; no number, and every training diverged."""
    rows = []
    for (prediction, objective, variance), known, far, bits in zip(NAMES, published.table_2(), fid, nll, strict=True):
        networks = [
            network(seed, None if far is None else far + one, bits + one / 100) for seed, one in enumerate(spread)
        ]
        row = dict(prediction=prediction, objective=objective, variance=variance, published=known._asdict())
        rows.append(row | dict(networks=networks))
    return rows


def verdicts(rows: list[dict]) -> list[bool | None]:
    return [one["holds"] for one in ddpm_table2_report.statements(rows)]


def test_the_published_figures_meet_every_statement() -> None:
    assert verdicts(made_rows(spread=(-0.5, 0.0, 0.5))) == [True] * 6


def test_the_reverse_meets_none() -> None:
    far = (3.0, 30.0, 10.0, 10.0, 13.0, 20.0)
    assert verdicts(made_rows(far, (3.9, 3.8, 3.9, 3.9, 3.75, 3.70))) == [False] * 6


def test_a_spread_that_hides_everything_decides_nothing() -> None:
    far = (23.69, 13.22, 30.0, 30.0, 13.51, 3.17)
    assert verdicts(made_rows(far, spread=(-100.0, 0.0, 100.0))) == [None] * 6


@pytest.mark.parametrize(
    ("mu", "holds"), [(13.22, True), (8.5, True), (3.17, None), (23.85, None), (0.1, False), (40.0, False)]
)
def test_mu_and_eps_are_alike_where_they_are_nearer_than_the_losses(mu: float, holds: bool | None) -> None:
    """eps under L at 13.51, L_simple at 3.17: 10.34 apart, as is mu at 3.17 or 23.85 from the first."""
    rows = made_rows((23.69, mu, None, None, 13.51, 3.17), spread=(-1.0, 0.0, 1.0))
    assert ddpm_table2_report.statements(rows)[2]["holds"] is holds


def test_one_network_has_no_spread_and_decides_nothing_but_what_diverged() -> None:
    found = ddpm_table2_report.statements(made_rows(spread=(0.0,)))
    assert [one["holds"] for one in found] == [None] * 4 + [True] * 2
    assert found[3]["figures"] == "too few networks for a spread"
    assert found[4]["figures"] == "1 of 1 trainings diverged"


def test_unstable_is_worse_than_every_row_with_printed_figures() -> None:
    far = [23.69, 13.22, 30.0, 20.0, 13.51, 3.17]
    found = ddpm_table2_report.statements(made_rows(far))
    assert [one["holds"] for one in found[4:]] == [True, False]
    assert "mu, mean squared error of mu minus mu, L, learned diagonal variance: +6.31 ± 0.16" in found[4]["figures"]


def test_one_training_that_diverges_is_unstable_and_the_others_are_compared() -> None:
    rows = made_rows((23.69, 13.22, 10.0, None, 13.51, 3.17))
    rows[2]["networks"][1] = network(1, None, 0.0)
    found = ddpm_table2_report.statements(rows)
    assert found[0]["holds"] is True
    assert found[4]["holds"] is True
    assert found[4]["figures"] == "1 of 3 trainings diverged"


def test_a_row_that_always_diverged_is_worse_than_one_that_did_not() -> None:
    rows = made_rows((None, 13.22, None, None, 13.51, None))
    assert verdicts(rows) == [False, True, None, True, True, True]
    found = ddpm_table2_report.statements(rows)
    assert found[1]["figures"] == "mu, L, learned diagonal variance diverged"
    assert verdicts(made_rows((23.69, None, None, None, None, 3.17)))[1:4] == [False, None, False]


def test_the_figure_of_the_best_is_the_difference_to_the_nearest() -> None:
    words = ddpm_table2_report.statements(made_rows((9.0, 8.0, None, None, 7.0, 3.0)))[0]["figures"]
    assert words == "eps, L, fixed isotropic variance minus eps, L_simple: +4.00 ± 0.16"


def test_the_error_of_a_difference_is_that_of_two_independent_means() -> None:
    """The variance of the difference of means of n and m draws is s^2/n + r^2/m."""
    worse, better = (dict(networks=[network(i, value, 3.0) for i, value in enumerate(draws)]) for draws in DRAWS)
    difference, error = ddpm_table2_report.difference(worse, better, "frechet")
    assert difference == pytest.approx(5.0 - 1.0)
    assert error == pytest.approx(np.sqrt(8 / 2 + 1 / 3))


DRAWS = ((3.0, 7.0), (0.0, 1.0, 2.0))  # variances 8 and 1


@pytest.mark.parametrize(
    ("draws", "clear"),
    [((3.9, 4.1, 4.0), True), ((-2.1, -1.9, -2.0), False), ((0.0, 1.0, 3.0), None), ((0.4, 2.4, 4.4), None)],
    ids=["worse", "better", "alike", "within two standard errors"],
)
def test_clearly_is_by_more_than_two_standard_errors(draws: tuple[float, ...], clear: bool | None) -> None:
    """Against 0, 1, 2: the last is 1.4 away with an error of sqrt(4/3 + 1/3) = 1.29."""
    rows = [dict(networks=[network(i, value, 3.0) for i, value in enumerate(one)]) for one in (draws, DRAWS[1])]
    assert ddpm_table2_report.clearly(*rows, "frechet") is clear


def test_over_seeds_are_mean_deviation_and_how_many_diverged() -> None:
    row = dict(networks=[network(0, 1.0, 3.0), network(1, None, 0.0), network(2, 2.0, 3.5)])
    found = ddpm_table2_report.over_seeds(row)
    assert found == pytest.approx(
        dict(diverged=1, frechet=1.5, frechet_std=0.5**0.5, bits_per_dim=3.25, bits_per_dim_std=0.125**0.5)
    )
    nothing = ddpm_table2_report.over_seeds(dict(networks=[network(0, None, 0.0)]))
    assert nothing == dict(diverged=1, frechet=None, frechet_std=None, bits_per_dim=None, bits_per_dim_std=None)
