"""`ddpm-jax` and `python -m ddpm_jax`: what they list, refuse and import before a command reads its options."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ddpm_jax
from ddpm_jax.cli import arguments
from ddpm_jax.cli.main import COMMANDS, main
from ddpm_jax.data import datasets
from tests.cli.conftest import TRAINING

ROOT = Path(__file__).parents[2]
HEAVY = {"flax", "optax", "orbax", "grain", "matplotlib", "sklearn", "jinja2", "tensorflow_datasets", "tensorflow"}
MINE = """
from ddpm_jax.data import datasets
datasets.DATASETS["mine"] = datasets.DATASETS["digits"]
"""


def refused(argv: list[str], capsys: pytest.CaptureFixture) -> str:
    """The one line before exit code 2."""
    with pytest.raises(SystemExit) as stop:
        main(argv)
    said = capsys.readouterr()
    assert (stop.value.code, said.out) == (2, "")
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]], ids=str)
def test_every_command_has_its_line(argv: list[str], capsys: pytest.CaptureFixture) -> None:
    main(argv)
    shown = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert shown == [[name, command.line] for name, command in COMMANDS.items()]
    assert list(COMMANDS) == ["train", "sample", "heads", "ablate", "fid", "import", "export"]


def test_the_version(capsys: pytest.CaptureFixture) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"ddpm-jax {ddpm_jax.__version__}\n"


def test_an_unknown_command_is_refused_with_the_choices(capsys: pytest.CaptureFixture) -> None:
    error = refused(["smaple", "--n", "4"], capsys)
    assert error == f"error: unknown command 'smaple': choose one of {', '.join(COMMANDS)}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_begins_with_what_it_does(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    first, _, rest = capsys.readouterr().out.partition("\n\n")
    assert stop.value.code == 0 and first == f"usage: ddpm-jax {name} [-h] [OPTIONS]"
    doc = getattr(arguments, COMMANDS[name].options).__doc__
    assert rest.startswith(doc.splitlines()[0])
    assert f"Command: ddpm-jax {name} " in rest and "Attributes" not in rest


def loaded(*argv: str) -> set[str]:
    """The packages that a process of its own has imported when a command line is through."""
    program = f"""
import sys
from ddpm_jax.cli.main import main
try:
    main({[*argv]})
except SystemExit as stop:
    assert stop.code == 0
print(*{{name.partition(".")[0] for name in sys.modules}}, file=sys.stderr)
"""
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(process.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("name", ["sample", "ablate"])
def test_help_imports_nothing_heavy(name: str) -> None:
    """But for Flax and Optax where presets and optimizers are listed."""
    packages = loaded(name, "--help")
    assert "ddpm_jax" in packages and not packages & (HEAVY - ({"flax", "optax"} if name == "ablate" else set()))


def test_the_list_of_commands_needs_no_jax() -> None:
    packages = loaded("--help")
    assert "ddpm_jax" in packages and not packages & {*HEAVY, "jax", "tyro"}


@pytest.fixture
def somebodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of somebody's modules, on the path; forgotten afterwards."""
    before, registered = {*sys.modules}, {**datasets.DATASETS}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "registered_data.py").write_text(MINE)
    (tmp_path / "failing_import.py").write_text("x = 1\nraise RuntimeError('no such luck')\n")
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    yield tmp_path
    for name in {*sys.modules} - before:
        if name in ("registered_data", "failing_import"):
            del sys.modules[name]
    for name in {*datasets.DATASETS} - {*registered}:
        del datasets.DATASETS[name]


@pytest.mark.parametrize(
    "how",
    [
        ["--import", "registered_data"],
        ["--import", "{folder}/mine/registered_data.py"],
        ["--import={folder}/mine/registered_data.py", "--import", "registered_data"],
    ],
    ids=["module", "file", "both"],
)
def test_what_a_users_file_registers_is_known_to_the_command(
    somebodys: Path, how: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    argv = ["train", *TRAINING, "--data", "mine", "--workdir", str(tmp_path / "run"), "--dry-run"]
    with pytest.raises(SystemExit):
        main(argv)
    capsys.readouterr()
    main([*(word.format(folder=somebodys) for word in how), *argv])
    assert json.loads(capsys.readouterr().out)["data"] == "mine"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--import", "--import names nothing"),
        ("--import= train", "--import names nothing"),
        ("--import nowhere.at_all train", "--import nowhere.at_all: ModuleNotFoundError: No module named 'nowhere'"),
        ("--import {folder}/none.py train", "none.py: ImportError: no such file"),
        (
            "--import {folder}/failing_import.py train",
            "RuntimeError: no such luck ({folder}/failing_import.py, line 2)",
        ),
        ("--import {folder}/json.py train", "ImportError: another module is called 'json': rename the file"),
    ],
)
def test_what_cannot_be_imported_is_named(
    somebodys: Path, words: str, said: str, capsys: pytest.CaptureFixture
) -> None:
    (somebodys / "json.py").write_text("")
    assert said.format(folder=somebodys) in refused(words.format(folder=somebodys).split(), capsys)
    assert "failing_import" not in sys.modules and sys.modules["json"] is json


@pytest.mark.parametrize(
    "module", ["ddpm_jax ablate", pytest.param("experiments.variance_ablation", marks=pytest.mark.slow)]
)
def test_a_process_imports_from_the_current_folder(module: str, somebodys: Path, tmp_path: Path) -> None:
    """`python -m` has the current folder on its path."""
    name, *command = module.split()
    words = ["--import", "registered_data", *command, "--data", "mine", "--workdir", str(tmp_path / "run"), "--dry-run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", name, *words],
        cwd=somebodys / "mine",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["training"]["data"] == "mine"


def test_the_installed_script_imports_from_the_current_folder(somebodys: Path, tmp_path: Path) -> None:
    """As pip writes it: its own folder stands first on the path and the current one nowhere."""
    script = tmp_path / "bin" / "ddpm-jax"
    script.parent.mkdir()
    script.write_text("import sys\nfrom ddpm_jax.cli.main import main\nsys.exit(main())\n")
    words = ["--import", "registered_data", "fid", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script), *words],
        cwd=somebodys / "mine",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
