"""What fits into a budget: samples are given up first, alike in every cell, then the longest chains."""

import pytest

from ddpm_jax.eval import budget
from ddpm_jax.eval.budget import Work

WORK = Work(1000, {10: 3, 100: 3}, 50_000)


def test_evaluations_are_those_of_the_passes_and_of_every_step_of_every_sample() -> None:
    assert budget.evaluations(WORK) == 1000 + 50_000 * 3 * (10 + 100)


def test_what_fits_is_left_as_it_is() -> None:
    assert budget.cut(WORK, budget.evaluations(WORK)) == WORK


def test_samples_are_given_up_first() -> None:
    half = budget.cut(WORK, 1000 + 25_000 * 330)
    assert half == WORK._replace(n=25_000)
    assert budget.cut(WORK, 999 + 25_000 * 330).n == 24_999


def test_then_the_longest_chains_are() -> None:
    found = budget.cut(WORK, 1000 + (budget.ENOUGH - 1) * 330)
    assert found.chains == {10: 3}
    assert found.n == (budget.ENOUGH - 1) * 330 // 30


def test_the_last_chain_takes_what_there_is_and_no_less_than_two_samples() -> None:
    assert budget.cut(WORK, 1000 + 2 * 30) == Work(1000, {10: 3}, 2)
    with pytest.raises(ValueError, match=r"1\.06e\+03 network evaluations are fewer than 1\.06e\+03, the least"):
        budget.cut(WORK, 1000 + 2 * 30 - 1)


@pytest.mark.parametrize("most", [1100, 5_000, 100_000, 3_000_000])
def test_what_is_cut_fits(most: int) -> None:
    assert budget.evaluations(budget.cut(WORK, most)) <= most
