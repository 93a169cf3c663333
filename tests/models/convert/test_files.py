"""Files of arrays and JSON: every precision by NumPy's own rounding, and what is damaged or not there in one line."""

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from ddpm_jax.models.convert import files

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2806000\n"
VALUES = np.array([[0.0, 1.0, -1.5], [0.25, 448.0, -0.0625]], np.float32)


def write(path: Path, dtype: str, shape: tuple[int, ...], content: bytes) -> Path:
    """A safetensors file of one array, byte by byte: its library writes no precision that NumPy lacks."""
    header = json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(content)]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content)
    return path


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        ("F64", np.float64),
        ("F32", np.float32),
        ("F16", np.float16),
        ("BF16", ml_dtypes.bfloat16),
        ("F8_E4M3", ml_dtypes.float8_e4m3fn),
        ("F8_E5M2", ml_dtypes.float8_e5m2),
    ],
)
def test_every_precision_is_read_as_float32(tmp_path: Path, dtype: str, kind: type) -> None:
    rounded = VALUES.astype(kind)
    found = files.read_tensors(write(tmp_path / "a.safetensors", dtype, VALUES.shape, rounded.tobytes()))
    assert found["a"].dtype == np.float32
    np.testing.assert_array_equal(found["a"], rounded.astype(np.float32))


@pytest.mark.parametrize("byte", range(0, 256, 5))
def test_a_byte_of_eight_bits_is_the_number_of_its_definition(tmp_path: Path, byte: int) -> None:
    """Four bits of exponent with a bias of 7, three of mantissa. Micikevicius et al. 2022, table 1."""
    sign, exponent, mantissa = byte >> 7, byte >> 3 & 15, byte & 7
    size = mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    expected = np.nan if (exponent, mantissa) == (15, 7) else (-size if sign else size)
    found = files.read_tensors(write(tmp_path / "a.safetensors", "F8_E4M3", (1,), bytes([byte])))
    np.testing.assert_array_equal(found["a"], np.float32(expected)[None])


@pytest.mark.parametrize(("dtype", "content"), [("F4", b"\x11\x22"), ("F6_E2M3", b"\x11\x22\x33"), ("C64", bytes(32))])
def test_a_precision_that_is_not_read_is_named(tmp_path: Path, dtype: str, content: bytes) -> None:
    with pytest.raises(ValueError, match=rf"a.safetensors: a is of {dtype}, which is not read: convert it to F32"):
        files.read_tensors(write(tmp_path / "a.safetensors", dtype, (4,), content))


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.bin", "a.json"])
def test_a_pointer_of_git_lfs_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(POINTER)
    read = files.read_json if name.endswith("json") else files.read_tensors
    with pytest.raises(
        ValueError, match=rf"{name} is a pointer of git-lfs, the file itself is not there: git lfs pull"
    ):
        read(tmp_path / name)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 8, b"\xff" * 64, struct.pack("<Q", 4) + b'{"a"', struct.pack("<Q", 2) + b"[]" + b"\0" * 9]
)
def test_damaged_arrays_are_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.safetensors is no safetensors file, or damaged \(.*\): fetch") as error:
        files.read_tensors(tmp_path / "a.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": 1}}', b"1" * 5000])
def test_what_is_no_json_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.json is not JSON: ") as error:
        files.read_json(tmp_path / "a.json")
    assert "\n" not in str(error.value)
