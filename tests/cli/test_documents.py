"""What README and docs show: their lines of Python and short commands run as they stand, long ones by --dry-run."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from ddpm_jax.cli.main import COMMANDS, main
from ddpm_jax.diffusion.variances import VARIANCES, Number
from ddpm_jax.models.convert import diffusers, schedulers
from tests import golden, tfds_folder
from tests.cli.conftest import make_small, run
from tests.models.test_unet import LEAST, randomised

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "ddpm_jax/builtin/digits.md", *ROOT.glob("docs/*.md")]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in DOCUMENTS}
COMMAND = re.compile(r"(?:^|[ /])((?:ddpm-jax|python -m (?:ddpm_jax|experiments|benchmarks)\S*) [^\"]*)")
SHORT = "--workdir builtin:digits"
WRITES = "experiments.package_network"  # the package's own files
TORCH = "ddpm-jax import --weights cifar10.pt"


def shown() -> Iterator[str]:
    """The commands that stand on lines of their own, and those of modules within a line; each once."""
    for text in TEXTS.values():
        whole = text.replace("\\\n", " ")
        yield from re.findall(r"^ {4}(\S.*)$", whole, re.MULTILINE)
        yield from (" ".join(inline.split()) for inline in re.findall(r"`(python -m [^`]+)`", whole))


def commands() -> list[str]:
    """Those of this project, without what runs them elsewhere and without remarks."""
    found = (COMMAND.search(line) for line in shown() if not line.startswith(("bash -c", "python -X")))
    plain = (shlex.join(shlex.split(match[1], comments=True)) for match in found if match)
    return sorted({command.replace(" ... ", " ") for command in plain if WRITES not in command})


def marked(command: str) -> ParameterSet:
    return pytest.param(command, marks=[pytest.mark.oracle if command.startswith(TORCH) else pytest.mark.slow])


def perform(command: str, *more: str) -> None:
    """It, in this process."""
    words = [*shlex.split(command), *more]
    if words[0] == "ddpm-jax":
        main(words[1:])
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words[2:])
        patch.delitem(sys.modules, words[2], raising=False)
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that has whatever the documents name: runs, heads, another project's network, prepared sets, a module."""
    place = tmp_path_factory.mktemp("documents")
    for name, side, channels in (("cifar10", 32, 3), ("mnist", 28, 1)):
        images = list(tfds_folder.made_up(1200, side, side, channels))
        tfds_folder.prepare(place / "data", name, {"train": images, "test": images[:200]})
    colour = replace(LEAST, image_channels=3)
    diffusers.save(place / "ddpm-cifar10-32/unet", randomised(colour), colour, 32)
    schedulers.save(place / "ddpm-cifar10-32", schedulers.write(schedulers.Scheduler()))
    theirs = golden.HERE / "improved_diffusion_fixed"
    shutil.copy(theirs / "config.json", place / "cifar10.json")
    if find_spec("torch"):
        torch = import_module("torch")
        arrays = golden.weights(theirs / "weights.json")
        torch.save({name: torch.tensor(array) for name, array in arrays.items()}, place / "cifar10.pt")
    (place / "mine").mkdir()
    (place / "mine/network.py").write_text("def eps(x_t, t):\n    return x_t / 2\n")
    few_steps = ("--preset", "tiny", "--steps", "2", "--batch", "8", "--sample-every", "0", "--save-every", "2")
    few = ("--heads", "npr", "--head-steps", "2", "--head-batch", "8", "--save-every", "2")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        patch.setenv("TFDS_DATA_DIR", str(place / "data"))
        patch.chdir(place)
        run("import", "--weights", "ddpm-cifar10-32", "--data", "cifar10", "--workdir", "runs/ddpm-cifar10/network")
        for name in ("mine", "digits"):
            run("train", *few_steps, "--workdir", f"runs/{name}")
        for name in ("cifar10", "imported"):
            (place / "runs" / name).symlink_to("ddpm-cifar10/network")
        run("heads", "--checkpoint", "runs/mine", "--workdir", "runs/heads", *few)
        run("heads", "--checkpoint", "runs/imported", "--workdir", "runs/ddpm-cifar10/heads", *few)
    return place


@pytest.fixture
def within(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder / "data"))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)


@pytest.mark.usefixtures("within")
@pytest.mark.parametrize("command", map(marked, commands()))
def test_a_command_is_understood(command: str, capsys: pytest.CaptureFixture) -> None:
    """It says what it would do."""
    perform(command, "--dry-run")
    assert capsys.readouterr().out.startswith("{")


@pytest.mark.slow
@pytest.mark.usefixtures("within")
@pytest.mark.parametrize("command", [command for command in commands() if SHORT in command])
def test_a_short_command_runs_as_it_stands(command: str) -> None:
    perform(command)


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in shown() if line.startswith(("bash -c", "python -X"))])
def test_a_line_that_measures_a_command_runs(line: str) -> None:
    bin = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-c", f"set -eo pipefail; PATH={bin}:$PATH; {line}"], capture_output=True, text=True, check=True
    )
    assert done.stdout or done.stderr


@pytest.mark.slow
def test_the_lines_of_python_run_as_they_stand() -> None:
    """One after the other, as in one notebook; of fewer images."""
    blocks = re.findall(r"```python\n(.*?)```", TEXTS["README.md"], re.DOTALL)
    names: dict = {"my_network": lambda x_t, t: x_t / 2}
    for block in blocks:
        exec(textwrap.dedent(block), names)
    assert VARIANCES.pop("shrunk").number == Number("share", 0.5)
    assert len(blocks) == 5 and names["x_0"].shape == (16, 8, 8, 1)
    assert {row["variance"] for row in names["rows"]} == {name for name, entry in VARIANCES.items() if not entry.heads}


def test_every_target_and_command_that_is_named_is_there() -> None:
    targets = {*re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)}
    for name, text in TEXTS.items():
        assert {*re.findall(r"(?:`|^ {4})make ([a-z-]+)", text, re.MULTILINE)} <= targets, name
        assert {*re.findall(r"(?:`|^ {4})ddpm-jax ([a-z]+)", text, re.MULTILINE)} <= {*COMMANDS}, name
        links = re.findall(r"\]\(([\w./-]+)\)", text)
        assert all((ROOT / name).parent.joinpath(link).exists() for link in links), name
