"""When something is due is a function of the step, wherever a run goes on."""

from dataclasses import replace

import pytest

from ddpm_jax.training import config, loop
from ddpm_jax.training.config import Config

CONFIG = Config(steps=23, log_every=6, save_every=9, sample_every=0)


@pytest.mark.parametrize("first", [0, 4, 9, 10, 22])
@pytest.mark.parametrize("most", [1, 4, 100])
def test_calls_are_the_same_wherever_a_run_goes_on(first: int, most: int) -> None:
    """A run that goes on from the end of a call makes the calls that are left."""
    config = replace(CONFIG, steps_per_call=most)
    whole = list(loop.calls(0, config, loops_are_slow=True))
    assert [start for start, _ in whole] == [0, *(end for _, end in whole[:-1])] and whole[-1][1] == 23
    assert all(0 < end - start <= most for start, end in whole)
    assert {6, 9, 12, 18, 23} <= {end for _, end in whole}
    if first in {start for start, _ in whole}:
        assert list(loop.calls(first, config, loops_are_slow=True)) == [call for call in whole if call[0] >= first]


def test_a_call_is_one_step_where_loops_are_slow() -> None:
    assert list(loop.calls(20, CONFIG, loops_are_slow=True)) == [(20, 21), (21, 22), (22, 23)]
    assert list(loop.calls(9, CONFIG, loops_are_slow=False)) == [(9, 10), (10, 12), (12, 18), (18, 20), (20, 23)]


def test_calls_end_where_a_trace_begins_and_ends() -> None:
    """The steps 3 to 8 are traced: no call has steps of both kinds."""
    calls = list(loop.calls(0, replace(CONFIG, profile=(3, 8)), loops_are_slow=False))
    assert calls[:4] == [(0, 2), (2, 6), (6, 8), (8, 9)]


def test_a_finished_run_calls_nothing() -> None:
    assert list(loop.calls(23, CONFIG, loops_are_slow=True)) == []


def test_what_is_due() -> None:
    config = replace(CONFIG, sample_every=6)
    due = {step: loop.due(config, step) for step in range(1, 24)}
    assert {step for step in due if "log" in due[step]} == {6, 12, 18, 23}
    assert {step for step in due if "save" in due[step]} == {9, 18, 23}
    assert {step for step in due if "sample" in due[step]} == {6, 12, 18}
    assert not any("sample" in loop.due(CONFIG, step) for step in due)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps = 0: it is at least 1"),
        ({"microbatches": 0}, "microbatches = 0"),
        ({"keep": 0}, "keep = 0: it is at least 1"),
        ({"keep_every": -1}, "keep_every = -1: it is at least 0"),
        ({"seed": -1}, "seed = -1"),
        ({"steps_per_call": 0}, "steps_per_call = 0"),
        ({"ema_decay": ()}, "give one rate or more"),
        ({"ema_decay": (0.9, 0.9)}, "each once"),
        ({"ema_decay": (1.0,)}, "from 0 to below 1"),
        ({"profile": (5, 4)}, "profile = 5 4: give the first and the last step"),
        ({"profile": (0, 4)}, "profile = 0 4"),
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config.check_config(replace(CONFIG, **change))
