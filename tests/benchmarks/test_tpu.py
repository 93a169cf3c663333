"""Slices of Cloud TPU by name; what needs libtpu is tested where it is installed."""

from importlib.util import find_spec

import pytest

from benchmarks import tpu


@pytest.mark.parametrize("name", ["v5e-3", "v7-8", "v4-4", "v5p", "v6e-", "8"])
def test_an_unknown_slice_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"unknown slice '{name}': choose one of v4-8, .*v5e-8, .*v5p-8"):
        tpu.slice_of(name)


@pytest.mark.skipif(find_spec("libtpu") is not None, reason="libtpu is installed")
def test_a_missing_compiler_is_told() -> None:
    with pytest.raises(ValueError, match=r"no compiler for v5e-8 .*pip install -e '\.\[tpu\]'"):
        tpu.slice_of("v5e-8")


@pytest.mark.skipif(find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.parametrize(
    ("name", "chips"), [("v4-8", 4), ("v5e-8", 8), ("v5p-8", 4), ("v6e-8", 8), ("v5e-64", 64), ("v4-128", 64)]
)
def test_a_slice_has_its_chips_and_one_host(name: str, chips: int) -> None:
    found = tpu.slice_of(name)
    assert len(found.devices) == chips
    assert {device.process_index for device in found.devices} == {0}
