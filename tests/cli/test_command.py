"""A command line that refuses in one line."""

from dataclasses import dataclass

import pytest

from ddpm_jax.cli.command import command_line


@dataclass(frozen=True)
class Options:
    """An experiment's options."""

    steps: int = 10


def refused(run: object, capsys: pytest.CaptureFixture, *argv: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        command_line(Options, run, "An experiment.", list(argv))  # type: ignore[arg-type]
    return stop.value.code, capsys.readouterr().err  # type: ignore[return-value]


def test_a_wrong_value_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture) -> None:
    def run(options: Options) -> None:
        raise ValueError(f"steps = {options.steps}: it is at least 1")

    assert refused(run, capsys, "--steps", "0") == (2, "error: steps = 0: it is at least 1\n")


def test_a_typo_exits_2_with_a_suggestion(capsys: pytest.CaptureFixture) -> None:
    code, error = refused(print, capsys, "--stpes", "3")
    assert code == 2
    assert "--steps" in error


def test_a_diverging_run_exits_1_with_one_line(capsys: pytest.CaptureFixture) -> None:
    def run(options: Options) -> None:
        raise FloatingPointError("loss nan at step 3, t = 17")

    assert refused(run, capsys) == (1, "error: loss nan at step 3, t = 17\n")
