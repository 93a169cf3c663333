"""One trainer a workdir; numbers that are not finite stop a run with all that is known of them."""

import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.training import loop
from ddpm_jax.training.step import Metrics, Recent, TrainState

HOLDS = """
import sys, time
from pathlib import Path
from ddpm_jax.training import loop
with loop.locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_trainer_is_refused_until_the_first_is_gone_even_by_sigkill(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=r"another process works in .*: wait for it"), loop.locked(tmp_path):
            pass
        holder.kill()
    with loop.locked(tmp_path):
        pass
    with loop.locked(tmp_path):  # and it is given back
        pass


def test_one_of_two_folders_that_is_taken_is_named_and_the_other_is_given_back(tmp_path: Path) -> None:
    mine, shared = tmp_path / "mine", tmp_path / "shared"
    with loop.locked(shared):
        with pytest.raises(ValueError, match=r"another process works in .*shared"), loop.locked(mine, shared):
            pass
        with loop.locked(mine):
            pass


def metrics(loss: list[float], norm: list[float], bad_t: list[int]) -> Metrics:
    as_array = lambda values: jnp.asarray(values, jnp.float32)  # noqa: E731
    return Metrics(as_array(loss), as_array(norm), as_array(norm), jnp.asarray(bad_t, jnp.int32))


def state() -> TrainState:
    recent = Recent(jnp.arange(10.0), jnp.full(10, 2.0))
    return TrainState(jnp.int32(0), None, (), None, None, None, recent)


@pytest.mark.parametrize(
    ("loss", "norm", "bad_t", "message"),
    [
        ([1, np.nan, 1], [1, 1, 1], [0, 7, 0], r"loss nan at step 19, t = 7; loss by t/T up to 0\.1: 0, 0\.2: 0\.5,"),
        ([1, 1, np.inf], [1, 1, 1], [0, 0, 3], r"loss inf at step 20, t = 3;"),
        ([1, 1, 1], [np.nan, 1, 1], [0, 0, 0], r"loss 1 at step 18, gradient norm nan;"),
    ],
)
def test_the_first_step_that_is_not_finite_is_named(
    tmp_path: Path, loss: list, norm: list, bad_t: list, message: str
) -> None:
    with pytest.raises(FloatingPointError, match=message) as stop:
        loop.check_finite(metrics(loss, norm, bad_t), 20, state(), tmp_path)
    assert str(tmp_path) in str(stop.value)


def test_finite_numbers_pass(tmp_path: Path) -> None:
    loop.check_finite(None, 0, state(), tmp_path)
    loop.check_finite(metrics([1, 2], [3, 4], [0, 0]), 2, state(), tmp_path)


@pytest.mark.slow
def test_a_trace_of_the_window_is_written(tmp_path: Path) -> None:
    with loop.tracing(tmp_path, (2, 3)) as at:
        at(1)
        assert not (tmp_path / "profile").exists()
        at(2)
        jnp.ones(3).sum().block_until_ready()
        at(4)
        assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    with loop.tracing(tmp_path / "none", None) as at:
        at(2)
    assert not (tmp_path / "none").exists()
