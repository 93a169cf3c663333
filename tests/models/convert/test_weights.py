"""Which files of a folder hold the weights: every usual name, what is taken of several, and what is missing."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ddpm_jax.models.convert import weights


def folder(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).touch()
    return path


@pytest.mark.parametrize(
    ("names", "taken", "variant"),
    [
        (["m.safetensors"], ["m.safetensors"], ""),
        (["m.bin", "m.safetensors", "m.fp16.safetensors"], ["m.safetensors"], ""),
        (["m.fp16.safetensors", "m.bin"], ["m.bin"], ""),
        (["m.bf16.safetensors", "m.fp16.bin", "m.fp16.safetensors"], ["m.fp16.safetensors"], "fp16"),
        (["m-00002-of-00002.bin", "m-00001-of-00002.bin"], ["m-00001-of-00002.bin", "m-00002-of-00002.bin"], ""),
        (["m-00001-of-00001.safetensors", "m.safetensors.index.json"], ["m-00001-of-00001.safetensors"], ""),
        (["m.fp16-00001-of-00001.safetensors"], ["m.fp16-00001-of-00001.safetensors"], "fp16"),
        (["m-00001-of-00001.fp16.safetensors"], ["m-00001-of-00001.fp16.safetensors"], "fp16"),
        (["m-00001-of-00002.safetensors", "m.safetensors"], ["m.safetensors"], ""),
        (["m.non_ema.safetensors", "m.ema.safetensors"], ["m.ema.safetensors"], "ema"),
    ],
)
def test_the_best_of_what_is_there_is_taken(tmp_path: Path, names: list[str], taken: list[str], variant: str) -> None:
    found = weights.find(folder(tmp_path, *names, "mx.safetensors", "other.bin", "m.onnx"), "m")
    assert [path.name for path in found.paths] == taken and found.variant == variant
    assert sorted(found.others) == sorted({*names} - {*taken, "m.safetensors.index.json"})
    lines = weights.told(found)
    assert len(lines) == bool(found.others or variant)
    assert all(name in lines[0] for name in (taken[0], *found.others) if lines)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"m.safetensors: no such file, nor .bin, a variant or shards of it"),
        (["m.safetensors.index.json"], r"m.safetensors: no such file"),
        (["m-00002-of-00003.bin", "m-00003-of-00003.bin"], r"m-00001-of-00003.bin: no such file, one of 3 shards"),
        (["m-00001-of-999999999999.safetensors"], r"m-000000000002-of-999999999999.safetensors: no such file"),
        (["m.fp16-00001-of-00002.safetensors"], r"m.fp16-00002-of-00002.safetensors: no such file, one of 2 shards"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weights.find(folder(tmp_path, *names), "m")


def test_shards_are_joined_and_an_array_is_in_one_of_them(tmp_path: Path) -> None:
    for number, arrays in enumerate(({"a": np.ones(2, np.float32)}, {"b": np.zeros(3, np.float32)}), 1):
        save_file(arrays, tmp_path / f"m-0000{number}-of-00002.safetensors")
    found = weights.read(weights.find(tmp_path, "m"))
    assert {name: array.shape for name, array in found.items()} == {"a": (2,), "b": (3,)}
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "m-00002-of-00002.safetensors")
    with pytest.raises(ValueError, match=r"m-00002-of-00002.safetensors holds a, which another shard holds, too"):
        weights.read(weights.find(tmp_path, "m"))
