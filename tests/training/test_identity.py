"""A network, its heads and a measurement are known by what they are made of, not by how the code is written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import ddpm_jax

SCRIPT = """
import os

import jax
import numpy as np

import ddpm_jax
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.evaluation import moments
from ddpm_jax.models.unet import UNetConfig
from ddpm_jax.runtime import cache
from ddpm_jax.training import model
from ddpm_jax.training.config import Config, Heads


assert ddpm_jax.__file__.startswith(os.getcwd())


class Asked(Exception):
    pass


def keep(kind, inputs, compute):
    print(kind, cache.fingerprint(inputs))
    raise Asked


shape, params = UNetConfig(channels=8, groups=4, image_channels=1), {"kernel": np.arange(6.0)}
data = {"shape": [8, 8, 1], "levels": 17}
found = model.stored_network("trained", "a", Config(T=30), shape, params, 3, data).model
print(found.fingerprint)
print(model.with_heads(found, Heads(heads=("npr",)), shape, params).fingerprint)
try:
    images = np.zeros((2, 8, 8, 1), np.uint8)
    moments.measure(jax.random.key(0), found.schedule, found.denoiser, images, Rules(levels=17), keep=keep)
except Asked:
    pass
"""
RENAMED = {"models/layers.py": "angles", "evaluation/step_kl.py": "farthest"}


def fingerprints(folder: Path) -> list[str]:
    """Of a network, of it with heads, and of a cell of moments, made by the package in a folder."""
    here = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", SCRIPT]
    return subprocess.run(command, env=here, cwd=folder, capture_output=True, text=True, check=True).stdout.splitlines()


def test_a_renamed_local_variable_changes_nothing_that_is_remembered(tmp_path: Path) -> None:
    found = []
    for place in ("as it is", "renamed"):
        shutil.copytree(Path(ddpm_jax.__file__).parent, tmp_path / place / "ddpm_jax")
        for file, name in RENAMED.items() if place == "renamed" else ():
            path = tmp_path / place / "ddpm_jax" / file
            before = path.read_text(encoding="utf-8")
            path.write_text(before.replace(name, f"{name}_called_otherwise"), encoding="utf-8")
            assert path.read_text(encoding="utf-8") != before
        found.append(fingerprints(tmp_path / place))
    assert found[0] == found[1]
    assert len(set(found[0])) == 3
