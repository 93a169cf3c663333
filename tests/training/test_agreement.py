"""Differences between what is asked and what is there are all named."""

from dataclasses import replace
from pathlib import Path

import pytest

from ddpm_jax.training import setup
from ddpm_jax.training.config import Config


def test_every_difference_is_listed_but_those_that_are_free() -> None:
    wanted = {"seed": 1, "T": 30, "batch": 8, "steps": 10}
    setup.check_agreement(Path("runs/a"), "a run", wanted, wanted, set())
    with pytest.raises(
        ValueError, match="runs/a holds a run with T = 50, not 30, seed = None, not 1: choose another --workdir"
    ):
        setup.check_agreement(Path("runs/a"), "a run", wanted, {"T": 50, "batch": 8, "steps": 20}, {"steps"})


def test_an_option_without_effect_is_named() -> None:
    actual = Config(T=50)
    setup.check_given(replace(Config(), T=50), actual, set(), "the network is there")
    setup.check_given(replace(Config(), seed=7), actual, {"seed"}, "the network is there")
    with pytest.raises(ValueError, match="seed = 7 has no effect, the network is there: leave it out"):
        setup.check_given(replace(Config(), seed=7), actual, set(), "the network is there")


def test_a_choice_between_no_checkpoints_is_refused() -> None:
    setup.check_unused(checkpoint_step=None, checkpoint_ema=None)
    with pytest.raises(ValueError, match="checkpoint_step = 7 has no effect without a checkpoint"):
        setup.check_unused(checkpoint_step=7, checkpoint_ema=None)
