"""Programs that were compiled once are read from the cache folder by the next process, and both are told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddpm_jax.runtime import xla

PROGRAM = """
import jax, jax.numpy as jnp
from ddpm_jax.runtime import xla
xla.SHORTEST = 0
with xla.kept():
    for i in range(3):
        jax.jit(lambda x: jnp.linalg.svd(x @ x)[0] + jnp.sin(x).sum() ** i)(jnp.ones((9, 9))).block_until_ready()
    jax.monitoring.record_event_duration_secs(xla.SPENT, 1)
"""


def start(**environment: str) -> str:
    """What a process says on stderr."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XDG_"))}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=clean | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    first, second = (start(XDG_CACHE_HOME=str(tmp_path)) for _ in range(2))
    folder = tmp_path / "ddpm_jax" / "xla"
    compiled = int(first.split()[0])
    assert compiled >= 3 and f"and 0 read from {folder}" in first
    assert second.startswith("0 programs compiled") and f"and {compiled} read from {folder}" in second
    assert list(folder.iterdir())


def test_a_folder_that_the_user_names_is_taken(tmp_path: Path) -> None:
    said = start(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"), XDG_CACHE_HOME=str(tmp_path / "other"))
    assert f"read from {tmp_path / 'mine'} in" in said
    assert not (tmp_path / "other").exists()


def test_the_folder_is_in_the_home_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert xla.folder() == tmp_path / ".cache" / "ddpm_jax" / "xla"
