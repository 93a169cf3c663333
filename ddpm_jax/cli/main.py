"""`ddpm-jax`, and `python -m ddpm_jax`: one word names the command, and the rest is read by it.

A command's module, with all that computes, is imported when its options have been read: --help answers at once.
"""

import importlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from typing import NamedTuple, NoReturn

import ddpm_jax
from ddpm_jax import paths
from ddpm_jax.errors import kind_and_first_line


class Command(NamedTuple):
    """A command.

    Attributes:
      options: its dataclass in ddpm_jax.cli.arguments.
      module: of ddpm_jax.cli, with main(options).
      line: what it does.
    """

    options: str
    module: str
    line: str


COMMANDS = {
    "train": Command("Train", "train", "train a denoiser, or go on with its training"),
    "sample": Command("Sample", "sample", "draw images from a trained denoiser"),
    "heads": Command("TrainHeads", "heads", "train the heads of state-dependent variances on a frozen network"),
    "ablate": Command("Ablation", "ablate", "compare reverse variances by likelihood and by samples"),
    "fid": Command("Fid", "fid", "compute FID and related metrics of saved samples"),
    "import": Command("ImportWeights", "import_weights", "import weights of another project"),
    "export": Command("ExportWeights", "export_weights", "write a network for Hugging Face diffusers"),
}
IMPORT = "--import"


def main(argv: list[str] | None = None, command: str | None = None) -> None:
    """Import what --import names, then run a command, list the commands, or say the version.

    Args:
      argv: default the process's own, which may then import from the current folder, as `python -m` does.
      command: a name of COMMANDS; default the first word.
    """
    if argv is None:
        argv = sys.argv[1:]
        if not {"", os.getcwd()} & {*sys.path}:
            sys.path.append(os.getcwd())
    words = import_named(argv)
    program = None
    if command is None:
        if not words or words[0] in ("-h", "--help"):
            print(listing())
            return
        if words[0] == "--version":
            print(f"ddpm-jax {ddpm_jax.__version__}")
            return
        command, *words = words
        program = f"ddpm-jax {command}"
    if command not in COMMANDS:
        refuse(f"unknown command {command!r}: choose one of {', '.join(COMMANDS)}")
    run(command, words, program)


def run(name: str, argv: list[str], program: str | None) -> None:
    """Read the options of a command and run it."""
    # Here, as a list of commands need not wait for JAX, and what --import registers may be a choice of an option.
    from ddpm_jax.cli import arguments
    from ddpm_jax.cli.command import command_line

    command = COMMANDS[name]
    kind = getattr(arguments, command.options)
    work = lambda options: importlib.import_module(f"ddpm_jax.cli.{command.module}").main(options)  # noqa: E731
    command_line(kind, work, argv=argv, program=program)


def listing() -> str:
    """What --help shows."""
    return "\n".join(
        [
            "usage: ddpm-jax [--import MODULE]... COMMAND [OPTIONS]",
            "",
            *(f"  {name:8}{command.line}" for name, command in COMMANDS.items()),
            "",
            "ddpm-jax COMMAND --help shows its options. --import: a module, or a .py file, that registers data sets,",
            "schedules, variances and the like under names of its own; again for each. --version shows the version.",
        ]
    )


def import_named(argv: list[str]) -> list[str]:
    """Import what --import names at the front; the words behind."""
    while argv and argv[0].partition("=")[0] == IMPORT:
        first, *argv = argv
        name = first.partition("=")[2] or (argv.pop(0) if argv and first == IMPORT else "")
        if not name:
            refuse(f"{IMPORT} names nothing: give a module or a .py file")
        try:
            import_module(name)
        except Exception as error:  # it is the user's code
            refuse(f"{IMPORT} {name}: {reason(error)}; give a module that can be imported from here, or a .py file")
    return argv


def import_module(name: str) -> None:
    """A module by its name, or the file of one.

    Raises:
      ImportError: there is none, or a file's name is that of another module.
      Exception: whatever it raises itself.
    """
    if not name.endswith(".py"):
        importlib.import_module(name)
        return
    path = paths.local(name).resolve()
    if not path.is_file():
        raise ImportError("no such file")
    known = sys.modules.get(path.stem)
    if known is not None:
        if Path(getattr(known, "__file__", None) or "").resolve() != path:
            raise ImportError(f"another module is called {path.stem!r}: rename the file")
        return
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[path.stem])
    except BaseException:
        del sys.modules[path.stem]
        raise


def reason(error: Exception) -> str:
    """In one line, with the place in the user's code."""
    said = kind_and_first_line(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    ours = Path(frame.filename).is_relative_to(Path(ddpm_jax.__file__).parent)
    return said if ours or frame.filename.startswith("<") else f"{said} ({frame.filename}, line {frame.lineno})"


def refuse(message: str) -> NoReturn:
    """One line, and exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
