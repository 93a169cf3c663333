"""What fits into a budget: samples are given up first, alike in every cell, then the longest chains."""

import pytest

from experiments import reproduce_plan
from experiments.reproduce_plan import Work

WORK = Work(1000, {10: 3, 100: 3}, 50_000)


def test_evaluations_are_those_of_the_passes_and_of_every_step_of_every_sample() -> None:
    assert reproduce_plan.evaluations(WORK) == 1000 + 50_000 * 3 * (10 + 100)


def test_what_fits_is_left_as_it_is() -> None:
    assert reproduce_plan.cut(WORK, reproduce_plan.evaluations(WORK)) == WORK


def test_samples_are_given_up_first() -> None:
    half = reproduce_plan.cut(WORK, 1000 + 25_000 * 330)
    assert half == WORK._replace(n=25_000)
    assert reproduce_plan.cut(WORK, 999 + 25_000 * 330).n == 24_999


def test_then_the_longest_chains_are() -> None:
    found = reproduce_plan.cut(WORK, 1000 + (reproduce_plan.ENOUGH - 1) * 330)
    assert found.chains == {10: 3}
    assert found.n == (reproduce_plan.ENOUGH - 1) * 330 // 30


def test_the_last_chain_takes_what_there_is_and_no_less_than_two_samples() -> None:
    assert reproduce_plan.cut(WORK, 1000 + 2 * 30) == Work(1000, {10: 3}, 2)
    with pytest.raises(ValueError, match=r"1\.06e\+03 network evaluations are fewer than 1\.06e\+03, the least"):
        reproduce_plan.cut(WORK, 1000 + 2 * 30 - 1)


@pytest.mark.parametrize("most", [1100, 5_000, 100_000, 3_000_000])
def test_what_is_cut_fits(most: int) -> None:
    assert reproduce_plan.evaluations(reproduce_plan.cut(WORK, most)) <= most
