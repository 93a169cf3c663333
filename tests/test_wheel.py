"""What is installed: the package ddpm_jax with its data files and its command, and nothing beside it."""

import os
import shutil
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from pathlib import Path

import pytest

import ddpm_jax

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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, as setuptools leaves its files behind; it fetches setuptools."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "source", ignore=ignored)
    words = ["pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(folder), str(folder / "source")]
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False)
    if "Could not find a version that satisfies the requirement setuptools" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("*.whl")
    return made


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_its_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        (entry_points,) = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
        commands = archive.read(entry_points).decode()
    assert inside == FILES
    assert commands.split() == ["[console_scripts]", "ddpm-jax", "=", "ddpm_jax.cli.main:main"]


@pytest.mark.slow
def test_the_lines_of_the_package_run_as_they_stand_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """In a folder that has a package called experiments of its own."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/__init__.py").write_text("raise ImportError('not this one')\n", encoding="utf-8")
    lines = (ddpm_jax.__doc__ or "").partition("when it is first used:\n")[2].partition("Below it lie")[0]
    code = textwrap.dedent(lines) + "\nprint(ddpm.__file__, x_0.shape, len(rows))\n"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0].startswith(str(tmp_path / "site"))
    assert done.stdout.strip().endswith("(16, 8, 8, 1) 6")
