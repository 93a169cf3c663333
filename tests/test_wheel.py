"""What is installed: the package ddpm_jax with its data files and its command, and nothing beside it."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ddpm_jax"
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FILES = {
    path.relative_to(ROOT).as_posix()
    for path in PACKAGE.rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}


def test_every_file_of_the_package_is_a_module_or_package_data() -> None:
    named = {
        path.relative_to(ROOT).as_posix()
        for pattern in SETTINGS["tool"]["setuptools"]["package-data"]["ddpm_jax"]
        for path in PACKAGE.glob(pattern)
    }
    assert {name for name in FILES if not name.endswith(".py")} == named
    for name in FILES:
        assert (ROOT / name).with_name("__init__.py").exists() or not name.endswith(".py"), name


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_its_command(tmp_path: Path) -> None:
    """Built from a copy, as setuptools leaves its files behind; it fetches setuptools."""
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Could not find a version that satisfies the requirement setuptools" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        (entry_points,) = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
        commands = archive.read(entry_points).decode()
    assert inside == FILES
    assert commands.split() == ["[console_scripts]", "ddpm-jax", "=", "ddpm_jax.cli.main:main"]
