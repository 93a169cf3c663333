"""Differences between what is asked and what is there are all named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="module")
def run() -> setup.Run:
    return setup.resolve(Config(T=30))


def without(values: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != field}


def test_a_run_goes_on_from_before_an_option_was_there(run: setup.Run) -> None:
    """What is absent counts as the value that the option came with; another one is another run."""
    stored = setup.describe(run)
    for part, field in (("config", "weighting"), ("config", "steps"), ("network", "heads"), ("data", "levels")):
        setup.check_same(run, {**stored, part: without(stored[part], field)}, Path("runs/a"))
    other = run._replace(config=replace(run.config, weighting="min_snr"))
    with pytest.raises(ValueError, match="runs/a holds a run with weighting = uniform, not min_snr"):
        setup.check_same(other, {**stored, "config": without(stored["config"], "weighting")}, Path("runs/a"))
    with pytest.raises(ValueError, match=r"holds a run with network = .*'dropout': 0.1"):  # it came with 0.1
        setup.check_same(run, {**stored, "network": without(stored["network"], "dropout")}, Path("runs/a"))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("config", "Config has no sneed = 1: made by a newer version, update ddpm_jax"),
        ("network", "UNetConfig has no sneed = 1: made by a newer version, update ddpm_jax"),
        ("data", "runs/a says of its data sneed = 1: made by a newer version, update ddpm_jax"),
    ],
)
def test_what_a_newer_version_wrote_is_refused_by_name(run: setup.Run, part: str, message: str) -> None:
    stored = setup.describe(run)
    with pytest.raises(ValueError, match=f"^{message}$"):
        setup.check_same(run, {**stored, part: {**stored[part], "sneed": 1}}, Path("runs/a"))
