"""The table of a slice, with this machine's virtual CPU devices in the place of its chips."""

import json
from pathlib import Path

import jax
import pytest

from benchmarks import tpu, tpu_check
from ddpm_jax.cli.command import command_line
from ddpm_jax.models import unet
from ddpm_jax.runtime import xla
from ddpm_jax.runtime.xla import DoesNotFit
from tests.models.test_unet import LEAST


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(unet.PRESETS, "tiny", LEAST)
    monkeypatch.setattr(tpu, "FAST_TO_COMPILE", {})
    here = tuple(jax.local_devices())
    monkeypatch.setattr(tpu, "slice_of", lambda name: tpu.Slice(name, tpu.CHIPS["v5e"], here))


def check(*more: str) -> None:
    options = ["--preset", "tiny", "--image-size", "8", "--T", "50", "--K", "4", "--batch", "16", *more]
    command_line(tpu_check.TpuCheck, tpu_check.main, tpu_check.__doc__ or "", options)


@pytest.mark.slow
def test_a_row_for_each_program_and_a_file_in_a_new_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    check("--steps-per-call", "1", "--json", str(tmp_path / "new" / "check.json"))
    rows = json.loads((tmp_path / "new" / "check.json").read_text(encoding="utf-8"))["rows"]
    assert [row["program"] for row in rows] == ["training step", "sampler step"]
    assert [one["kind"] for one in rows[0]["collectives"]] == ["all-reduce"] and rows[1]["collectives"] == []
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.slow
def test_what_does_not_fit_is_in_the_table_and_the_exit_code_and_the_search_halves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuse(lowered: object, options: dict) -> None:
        raise DoesNotFit(3 * 2**30, 2**30)

    monkeypatch.setattr(xla, "compiled", refuse)
    with pytest.raises(SystemExit) as stop:
        check("--largest")
    assert stop.value.code == 1
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split(" | ")[2] for line in lines] == ["16", "8", "16", "8"]  # eight devices take no fewer
    assert all("does not fit: 3.0 of 1.0" in line for line in lines)


def test_a_dry_run_prints_what_would_be_compiled(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    check("--dry-run", "--json", str(tmp_path / "check.json"))
    said = json.loads(capsys.readouterr().out)
    assert said["training"]["T"] == 50 and said["slices"] == ["v5e-8"] and said["network"]["channels"] == LEAST.channels
    assert not list(tmp_path.iterdir())


def test_a_batch_that_does_not_split_is_refused(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        check("--batch", "12")
    assert stop.value.code == 2
    assert "error: batch 12 does not split over 8 devices: choose a multiple of 8" in capsys.readouterr().err
