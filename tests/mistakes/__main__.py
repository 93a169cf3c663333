"""Plant one mistake at a time in a copy of the repository and demand that its test fails.

A mistake is caught where pytest reports that the test failed, and an assertion or a refused value is the cause. A test
that cannot be collected or set up, or fails for another cause, makes the mistake broken: it proves nothing about the
formula.

    python -m tests.mistakes                    all of them
    python -m tests.mistakes NAME NAME          some
    python -m tests.mistakes --list
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple
from xml.etree import ElementTree

from tests.mistakes.planting import ROOT, Mistake, address, plant
from tests.mistakes.seeded import MISTAKES

# RuntimeWarning: a warning is an error in the tests, so NumPy refuses 0/0 and the root of a negative number. The last
# two are the code's own: a density that does not keep its probability, a descent that does not arrive.
CAUSES = ("AssertionError", "assert ", "ValueError", "FloatingPointError", "RuntimeWarning", "Failed: DID NOT RAISE")
CAUSES += ("Unresolved", "ArithmeticError: no convergence")
SECONDS = 300  # a test that takes longer has been made to hang

running: set[subprocess.Popen] = set()


class Report(NamedTuple):
    """What pytest left: its exit code, the message of the test that failed, if one did, and what it printed."""

    code: int
    failure: str
    output: str


class Outcome(NamedTuple):
    """What the test says of a mistake: "caught", "survived" or "broken", and why it is broken."""

    verdict: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.verdict}: {self.why}" if self.why else self.verdict


def copy_to(folder: Path) -> Path:
    """The repository's files: tracked, and new ones that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def pytest(tests: Iterable[str], folder: Path, seconds: float | None = None) -> Report:
    """Run tests in a copy, in a process of their own, up to the first failure and for so many seconds at most."""
    xml = folder / "report.xml"
    xml.unlink(missing_ok=True)
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "xla"))
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-qx", "-n0", "-pno:cacheprovider", "-m", "", f"--junitxml={xml}", *tests],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "JAX_COMPILATION_CACHE_DIR": cache},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    running.add(process)
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Report(-1, "", f"took more than {seconds} s")
    finally:
        running.discard(process)
    failure = ElementTree.parse(xml).find(".//failure") if xml.exists() else None
    return Report(process.returncode, "" if failure is None else failure.get("message", ""), output)


def judge(report: Report) -> Outcome:
    """Caught, survived or broken."""
    if report.code == 0:
        return Outcome("survived")
    if report.code == 1 and re.sub(r"^[\w.]+\.", "", report.failure).startswith(CAUSES):  # without an error's module
        return Outcome("caught")
    why = (report.failure or report.output).strip() or "no output"
    return Outcome("broken", f"pytest's exit code {report.code}: {why.splitlines()[0 if report.failure else -1]}")


def try_out(mistake: Mistake, folder: Path) -> Outcome:
    """Plant the mistake in a copy, run its test, take it out again."""
    file, wrong = plant(mistake)
    right = (folder / file).read_bytes()
    (folder / file).write_text(wrong, encoding="utf-8")
    try:
        return judge(pytest([address(mistake.test)], folder, SECONDS))
    finally:
        (folder / file).write_bytes(right)


@contextmanager
def copies(count: int) -> Iterator[SimpleQueue[Path]]:
    """So many copies of the repository, which are gone afterwards, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="mistakes-", ignore_cleanup_errors=True) as folder:
        free: SimpleQueue[Path] = SimpleQueue()
        for index in range(count):
            free.put(copy_to(Path(folder) / str(index)))
        yield free


def run(mistakes: Sequence[Mistake], jobs: int) -> dict[str, Outcome]:
    """What became of every mistake, by name, on so many copies side by side; each is printed when it is known.

    Raises:
      ValueError: a test fails without any mistake.
    """
    tests = sorted({address(mistake.test) for mistake in mistakes})
    found: dict[str, Outcome] = {}
    with copies(jobs) as free, ThreadPoolExecutor(jobs) as pool:

        def on_all(work: Callable[[Any, Path], Any], things: Iterable[Any]) -> Iterator[tuple[Any, Any, float]]:
            """Of each thing, in the order they end: itself, what was made of it, and the seconds that took."""

            def in_a_copy(thing: Any) -> tuple[Any, Any, float]:
                folder, started = free.get(), time.perf_counter()
                try:
                    return thing, work(thing, folder), time.perf_counter() - started
                finally:
                    free.put(folder)

            for future in as_completed([pool.submit(in_a_copy, thing) for thing in things]):
                yield future.result()

        try:
            print(f"{len(mistakes)} mistakes; first their {len(tests)} tests without any", flush=True)
            for _, report, _ in on_all(pytest, filter(None, (tests[i::jobs] for i in range(jobs)))):
                if report.code:
                    raise ValueError(f"without any mistake these tests do not pass:\n{report.output}")
            for mistake, outcome, seconds in on_all(try_out, mistakes):
                found[mistake.name] = outcome
                print(f"[{len(found)}/{len(mistakes)}] {mistake.name}: {outcome} ({seconds:.1f} s)", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.terminate()
            raise
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where every mistake is caught, 1 where one is not, 2 for a wrong name."""
    parser = argparse.ArgumentParser(prog="python -m tests.mistakes", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="mistakes to plant; default all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time")
    parser.add_argument("--list", action="store_true", help="print the names and what each breaks, and stop")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - {mistake.name for mistake in MISTAKES}:
        parser.error(f"unknown mistake {min(unknown)!r}: see --list")
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs}: at least 1")
    chosen = [mistake for mistake in MISTAKES if not options.names or mistake.name in options.names]
    if options.list:
        print("\n".join(f"{mistake.name} ({mistake.where}): {mistake.breaks}" for mistake in chosen))
        return 0
    try:
        outcomes = run(chosen, min(options.jobs, len(chosen)))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    others = [f"{name}: {outcome}" for name, outcome in outcomes.items() if outcome.verdict != "caught"]
    print("\n".join(["", *others, f"{len(chosen)} mistakes, {len(chosen) - len(others)} caught"]))
    return 1 if others else 0


if __name__ == "__main__":
    sys.exit(main())
