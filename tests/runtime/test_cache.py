"""Cells: found again when nothing they depend on changed, computed anew when anything did, whole or not there."""

import hashlib
import importlib
import json
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import pytest

from ddpm_jax.diffusion import schedules
from ddpm_jax.runtime import cache
from ddpm_jax.runtime.cache import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cells", {"denoiser": "a"}, False, Counter())


def numbers() -> cache.Arrays:
    return {"x": np.arange(3.0), "n": np.asarray(7)}


def never() -> cache.Arrays:
    raise AssertionError("computed again")


def test_a_cell_is_computed_once_and_read_back_exactly(store: Store) -> None:
    first = cache.fetch(store, "sums", {"K": 3}, numbers)
    again = cache.fetch(store, "sums", {"K": 3}, never)
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
        assert first[name].dtype == again[name].dtype
    assert cache.tally(store.used) == {"sums": {"computed": 1, "reused": 1}}


@pytest.mark.parametrize(
    ("kind", "inputs", "common"),
    [
        ("other", {"K": 3}, {}),
        ("sums", {"K": 4}, {}),
        ("sums", {"K": 3, "eta": 0}, {}),
        ("sums", {"K": 3}, {"denoiser": "b"}),
    ],
    ids=["kind", "value", "name", "denoiser"],
)
def test_another_input_is_another_cell(store: Store, kind: str, inputs: dict, common: dict) -> None:
    cache.fetch(store, "sums", {"K": 3}, numbers)
    store = store._replace(common={**store.common, **common})
    cache.fetch(store, kind, inputs, numbers)
    assert sum(count for (_, how), count in store.used.items() if how == "computed") == 2


def test_another_jax_is_another_cell(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.fetch(store, "sums", {}, numbers)
    monkeypatch.setattr(jax, "__version__", "0.0.0")
    cache.fetch(store, "sums", {}, numbers)
    assert store.used["sums", "computed"] == 2


def test_force_computes_and_replaces(store: Store) -> None:
    cache.fetch(store, "sums", {}, numbers)
    cache.fetch(store._replace(force=True), "sums", {}, lambda: {"x": np.ones(2)})
    np.testing.assert_array_equal(cache.fetch(store, "sums", {}, never)["x"], np.ones(2))


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut short", b"not a table"])
def test_a_damaged_cell_is_named_and_computed_again(store: Store, damage: bytes, capsys: pytest.CaptureFixture) -> None:
    cache.fetch(store, "sums", {}, numbers)
    (path,) = (store.folder / "sums").iterdir()
    path.write_bytes(damage)
    np.testing.assert_array_equal(cache.fetch(store, "sums", {}, numbers)["x"], np.arange(3.0))
    warning = capsys.readouterr().err
    assert str(path) in warning
    assert "computed again" in warning
    cache.fetch(store, "sums", {}, never)


def test_what_fails_leaves_nothing(store: Store, tmp_path: Path) -> None:
    def breaks(file) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    path = tmp_path / "whole.json"
    cache.write_json(path, {"a": 1})
    with pytest.raises(OSError, match="No space left"):
        cache.write_whole(path, breaks)
    assert path.read_text() == '{\n "a": 1\n}'
    assert [entry.name for entry in tmp_path.iterdir()] == ["whole.json"]
    with pytest.raises(AssertionError):
        cache.fetch(store, "sums", {}, never)
    assert not (store.folder / "sums").exists()


def test_a_fingerprint_knows_values_types_shapes_and_order() -> None:
    table = schedules.linear(100)
    values = [
        None, 1, 1.0, True, "1", b"1", [1], [[1]], [1, 1], {"a": 1}, {"b": 1}, np.array([1]), np.array([[1]]),
        np.array([1.0]), np.array([1.0], np.float32), jax.random.key(0), jax.random.key(1), table,
        schedules.linear(101),
        [1, [2, 3]], [[1, 2], 3], ["ab", "c"], ["a", "bc"], -0.0, 0.0,
    ]  # fmt: skip
    found = [cache.fingerprint(value) for value in values]
    assert len(set(found)) == len(values)
    assert found == [cache.fingerprint(value) for value in values]
    assert cache.fingerprint({"a": 1, "b": 2}) == cache.fingerprint({"b": 2, "a": 1})
    table = np.arange(6).reshape(2, 3)
    assert cache.fingerprint(np.asfortranarray(table)) == cache.fingerprint(table)
    with pytest.raises(TypeError, match="no fingerprint of a function"):
        cache.fingerprint(numbers)


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, str]:
    """A module with a function and a class, and the hash of its file."""
    path = tmp_path / "made_up.py"
    path.write_text("class C:\n    pass\n\n\ndef f():\n    return 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "made_up", raising=False)
    return importlib.import_module("made_up"), hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_hash_of_a_file_is_that_of_what_it_defines(made_up: tuple[ModuleType, str]) -> None:
    module, known = made_up
    for defined in (module, module.f, module.C, partial(partial(module.f)), jax.jit(module.f)):
        assert cache.file_hash(defined) == known


def test_a_file_edited_while_it_runs_keeps_its_hash(made_up: tuple[ModuleType, str]) -> None:
    """What runs is what was imported; another process finds the new bytes, be it a comment."""
    module, known = made_up
    assert cache.file_hash(module.f) == known
    assert module.__file__
    with open(module.__file__, "a") as file:
        file.write("# said later\n")
    assert cache.file_hash(module.f) == known
    cache.file_hash.cache_clear()
    assert cache.file_hash(module.f) != known


def test_what_no_file_defines_has_no_hash() -> None:
    typed = ModuleType("typed_into_a_notebook")
    exec("def f(): return 2", typed.__dict__)
    for defined in (typed, typed.f, len):
        assert cache.file_hash(defined) == ""


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    cache.check_writable(tmp_path / "new" / "deep")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file; choose another folder"):
        cache.check_writable(tmp_path / "file" / "deep")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_number_that_is_not_finite(tmp_path: Path, value: float) -> None:
    cache.write_json(tmp_path / "a.json", {"a": [1.5, value, {"b": value}], "c": "nan"})
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail) == {
        "a": [1.5, None, {"b": None}],
        "c": "nan",
    }


def test_another_kind_of_device_is_another_cell(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.fetch(store, "sums", {}, numbers)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    cache.fetch(store, "sums", {}, numbers)
    assert store.used["sums", "computed"] == 2
