"""The roofline: what a trace says, joined with what operations do, against speeds that are known."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import roofline
from benchmarks.operations import Operation
from benchmarks.roofline import Peak, Roofline
from ddpm_jax.cli.command import command_line

FEW = ["--preset", "tiny", "--image-size", "8", "--batch", "2", "--steps", "2", "--product-sizes", "16"]
# A device of 100 FLOP/s and 10 bytes/s.
PEAK = Peak(100.0, 10.0)


def run(*argv: str) -> None:
    command_line(Roofline, roofline.main, roofline.__doc__ or "", list(argv))


def test_an_operation_is_held_against_the_longer_of_its_two_floors() -> None:
    known = {
        "a": Operation("convolutions", 400.0, 10),  # 4 s of arithmetic, 1 s of bytes
        "b": Operation("convolutions", 100.0, 30),  # 1 s and 3 s
        "c": Operation("elementwise", 0.0, 20),  # 2 s of bytes
        "unused": Operation("copies", 0.0, 1),
    }
    seconds = {"a": 8.0, "b": 6.0, "c": 2.0, "while.1": 16.0}
    convolutions, elementwise, whole = roofline.rows(seconds, known, PEAK)
    assert convolutions == {
        "kind": "convolutions",
        "operations": 2,
        "milliseconds": 14_000.0,
        "share": 14 / 16,
        "teraflops": pytest.approx(500 / 14 / 1e12),
        "gigabytes": pytest.approx(40 / 14 / 1e9),
        "bound_by_arithmetic": pytest.approx(4 / 7),
        "of_roofline": pytest.approx(7 / 14),
    }
    assert (elementwise["of_roofline"], elementwise["bound_by_arithmetic"]) == (1.0, 0.0)
    assert (whole["kind"], whole["operations"], whole["share"]) == ("all", 3, 1.0)
    assert whole["of_roofline"] == pytest.approx(9 / 16)


def test_the_slowest_kind_comes_first_and_all_last() -> None:
    known = {"a": Operation("copies", 0.0, 1), "b": Operation("reductions", 0.0, 1)}
    assert [one["kind"] for one in roofline.rows({"a": 1.0, "b": 2.0}, known, PEAK)] == ["reductions", "copies", "all"]


def test_what_moves_nothing_is_bound_by_nothing() -> None:
    (found, _) = roofline.rows({"a": 1.0}, {"a": Operation("elementwise", 0.0, 0)}, PEAK)
    assert (found["bound_by_arithmetic"], found["of_roofline"]) == (0.0, 0.0)


def test_events_that_name_no_operation_are_left_out() -> None:
    def event(seconds: float, **stats: str) -> SimpleNamespace:
        return SimpleNamespace(duration_ns=1e9 * seconds, stats=list(stats.items()))

    events = [
        event(1, hlo_op="conv.1"),
        event(2, hlo_op="conv.1", grid="1"),
        event(4, grid="1"),
        event(8, hlo_op="add"),
    ]
    planes = [SimpleNamespace(lines=[SimpleNamespace(events=events)]), SimpleNamespace(lines=[])]
    assert roofline.of_operations(SimpleNamespace(planes=planes)) == {"conv.1": 3.0, "add": 8.0}


@pytest.mark.slow
def test_the_training_step_is_traced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roofline, "COPIED", 2**16)
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    file = tmp_path / "new" / "roofline.json"
    run(*FEW, "--json", str(file))
    said, found = capsys.readouterr().out, json.loads(file.read_text())
    kinds = {one["kind"]: one for one in found["kinds"]}
    assert {"convolutions", "matrix products", "elementwise", "all"} <= kinds.keys()
    assert kinds["convolutions"]["teraflops"] > 0 and kinds["elementwise"]["teraflops"] == 0
    assert all(one["milliseconds"] > 0 and one["gigabytes"] > 0 and one["of_roofline"] > 0 for one in kinds.values())
    assert sum(one["share"] for one in found["kinds"]) == pytest.approx(2)
    assert found["peak"]["flops"] > 0 and found["device"] in said
    assert all(f"| {kind} |" in said for kind in kinds)


def test_a_dry_run_starts_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(roofline, "traced", None)
    run(*FEW, "--dry-run", "--json", "found.json")
    said = json.loads(capsys.readouterr().out)
    assert said["options"]["steps"] == 2 and said["options"]["json"] == "found.json" and said["image_size"] == 8


@pytest.mark.parametrize(("options", "words"), [(["--steps", "0"], "steps = 0"), (["--batch", "0"], "batch = 0")])
def test_bad_options_end_with_one_line(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*FEW, *options)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
