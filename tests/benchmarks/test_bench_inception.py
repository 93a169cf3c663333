"""The benchmark of Inception's features: what it compares with, and what it refuses."""

import json
from pathlib import Path

import jax.numpy as jnp
import pytest

from benchmarks import bench_inception, inception_layers
from benchmarks.bench_inception import BenchInception
from ddpm_jax.cli.command import command_line
from ddpm_jax.models import inception, ops


def run(*argv: str) -> None:
    command_line(BenchInception, bench_inception.main, bench_inception.__doc__ or "", list(argv))


def test_the_layers_are_those_of_the_network() -> None:
    """94 convolutions of 5.7 billion multiplications; Szegedy et al. 2016, section 6, say about 5."""
    layers = inception.layers()
    work = 0
    for one in layers:
        height, width, channels = one["input"]
        if one["padding"] == "VALID":
            reach = zip((height, width), one["size"], strict=True)
            height, width = ((side - size) // one["stride"] + 1 for side, size in reach)
        work += height * width * one["size"][0] * one["size"][1] * channels * one["channels"]
    assert len(layers) == 94 and work == pytest.approx(5.71e9, rel=1e-3)
    assert len({one["name"] for one in layers}) == 94


def test_a_dry_run_says_what_it_would_do(capsys: pytest.CaptureFixture) -> None:
    run("--dry-run", "--batch", "4")
    assert json.loads(capsys.readouterr().out)["batch"] == 4


@pytest.mark.parametrize(
    ("argv", "said"),
    [(["--batch", "0"], "batch = 0"), (["--torch-python", "none-such"], "none-such cannot be run")],
)
def test_what_cannot_work_is_one_line(argv: list[str], said: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        run(*argv)
    assert stop.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.oracle
def test_pytorch_runs_the_same_layers(tmp_path: Path) -> None:
    run("--batch", "1", "--turns", "1", "--json", str(tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["images_per_second"]) == {"ours", *inception_layers.LAYOUTS}
    assert all(speed > 0 for speed in found["ratio"])


@pytest.mark.oracle
@pytest.mark.parametrize("place", range(0, 94, 7))
def test_pytorchs_layers_are_of_the_same_shape(place: int) -> None:
    import torch

    one = inception.layers()[place]
    theirs = inception_layers.layer_of(torch, one)(torch.zeros(1, *inception_layers.sizes_of(one)))
    kernel = jnp.zeros((*one["size"], one["input"][2], one["channels"]))
    ours = ops.convolve_window(jnp.zeros((1, *one["input"])), kernel, one["stride"], one["padding"])
    assert tuple(theirs.permute(0, 2, 3, 1).shape) == ours.shape
