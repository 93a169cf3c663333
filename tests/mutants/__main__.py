"""Plant one mistake at a time in a copy of the repository and demand that a named test fails.

A mutant is caught where pytest reports a failed test whose cause is an assertion or a refused value. A test that cannot
be collected or set up, or fails for another cause, makes the mutant broken: it proves nothing about the formula.

    python -m tests.mutants                    all of them
    python -m tests.mutants NAME NAME          some
    python -m tests.mutants --list
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple
from xml.etree import ElementTree

from tests.mutants.every import MUTANTS
from tests.mutants.seeded import Mutant

ROOT = Path(__file__).parents[2]
# RuntimeWarning: a warning is an error in the tests, so NumPy refuses 0/0 and the root of a negative number. The last
# two are the code's own: a density that does not keep its probability, a descent that does not arrive.
CAUSES = ("AssertionError", "assert ", "ValueError", "FloatingPointError", "RuntimeWarning", "Failed: DID NOT RAISE")
CAUSES += ("ddpm_jax.eval.density.Unresolved", "ArithmeticError: no convergence")
CAUGHT = "caught by"
SECONDS = 300  # tests that take longer have been made to hang

running: set[subprocess.Popen] = set()


class Outcome(NamedTuple):
    """What the tests say of a mutant.

    Attributes:
      name: the mutant's.
      verdict: "caught by", "survived" or "broken:".
      by: the first test that failed, or why the mutant is broken.
      seconds: of its tests.
    """

    name: str
    verdict: str
    by: str
    seconds: float


class Report(NamedTuple):
    """What pytest left: its exit code and the tests that did not pass, (test, "failure" or "error", message)."""

    code: int
    bad: list[tuple[str, str, str]]
    output: str


def copy_to(folder: Path) -> None:
    """The repository's files: tracked, and new ones that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())


def pytest(folder: Path, tests: Sequence[str], *options: str, seconds: float | None = None) -> Report:
    """Run tests in a copy, in a process of their own, for so many seconds at most."""
    xml = folder / "report.xml"
    xml.unlink(missing_ok=True)
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "xla"))
    environment = {**os.environ, "PYTHONPATH": str(folder), "JAX_COMPILATION_CACHE_DIR": cache}
    plain = ["-q", "-n", "0", "-p", "no:cacheprovider", "-m", "", f"--junitxml={xml}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *plain, *options, *tests],
        cwd=folder,
        env=environment,
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
        return Report(-1, [], f"took more than {seconds} s")
    finally:
        running.discard(process)
    return Report(process.returncode, list(_bad(xml)), output)


def _bad(xml: Path) -> Iterator[tuple[str, str, str]]:
    if not xml.exists():
        return
    for case in ElementTree.parse(xml).iter("testcase"):
        for kind in ("failure", "error"):
            found = case.find(kind)
            if found is not None:
                file = case.get("classname", "").replace(".", "/")
                yield f"{file}.py::{case.get('name')}", kind, found.get("message", "")


def judge(mutant: Mutant, report: Report, seconds: float) -> Outcome:
    """Caught, survived or broken."""
    if report.code == 0:
        return Outcome(mutant.name, "survived", "", seconds)
    caught = [test for test, kind, message in report.bad if kind == "failure" and message.startswith(CAUSES)]
    if report.code == 1 and caught:
        return Outcome(mutant.name, CAUGHT, caught[0], seconds)
    why = report.bad[0][2] if report.bad else report.output.strip().splitlines()[-1]
    return Outcome(mutant.name, "broken:", f"pytest's exit code {report.code}: {why.splitlines()[0]}", seconds)


def planted(mutant: Mutant, folder: Path) -> Outcome:
    """Plant the mistake in a copy, run its tests, take it out again."""
    path = folder / mutant.file
    right = path.read_text(encoding="utf-8")
    if right.count(mutant.old) != 1:
        return Outcome(mutant.name, "broken:", f"its old text occurs {right.count(mutant.old)} times", 0.0)
    path.write_text(right.replace(mutant.old, mutant.new), encoding="utf-8")
    started = time.perf_counter()
    try:
        report = pytest(folder, mutant.tests, "-x", seconds=SECONDS)
    finally:
        path.write_text(right, encoding="utf-8")
    return judge(mutant, report, time.perf_counter() - started)


@contextmanager
def copies(count: int) -> Iterator[SimpleQueue]:
    """`count` copies of the repository that are gone afterwards, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as folder:
        free: SimpleQueue = SimpleQueue()
        for index in range(count):
            copy_to(Path(folder) / str(index))
            free.put(Path(folder) / str(index))
        yield free


def run(mutants: Sequence[Mutant], jobs: int) -> list[Outcome]:
    """Every mutant, on `jobs` copies side by side.

    Raises:
      ValueError: a named test fails without any mutant.
    """
    outcomes = []
    with copies(jobs) as free, ThreadPoolExecutor(jobs) as pool:

        def with_copy(mutant: Mutant) -> Outcome:
            folder = free.get()
            try:
                return planted(mutant, folder)
            finally:
                free.put(folder)

        try:
            check_unmutated(mutants, free, pool, jobs)
            futures: list[Future] = [pool.submit(with_copy, mutant) for mutant in mutants]
            for done, future in enumerate(as_completed(futures), 1):
                outcomes.append(future.result())
                name, verdict, by, seconds = outcomes[-1]
                print(f"[{done}/{len(mutants)}] {name}: {verdict} {by} ({seconds:.1f} s)", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.terminate()
            raise
    return outcomes


def check_unmutated(mutants: Sequence[Mutant], free: SimpleQueue, pool: ThreadPoolExecutor, jobs: int) -> None:
    """Without any mutant the named tests pass."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    shares = [share for share in (tests[start::jobs] for start in range(jobs)) if share]
    print(f"{len(mutants)} mutants; first their {len(tests)} tests without any", flush=True)

    def unmutated(share: list[str]) -> Report:
        folder = free.get()
        try:
            return pytest(folder, share)
        finally:
            free.put(folder)

    for report in pool.map(unmutated, shares):
        if report.code:
            raise ValueError(f"without any mutant these tests do not pass:\n{report.output}")


def table(mutants: Sequence[Mutant], outcomes: list[Outcome]) -> str:
    """A line a mutant, in the order of the list."""
    found = {outcome.name: outcome for outcome in outcomes}
    rows = [found[mutant.name] for mutant in mutants]
    width = max(len(row.name) for row in rows)
    lines = [f"{row.name:{width}}  {row.seconds:5.1f} s  {row.verdict} {row.by}" for row in rows]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where every mutant is caught, 1 where one is not, 2 for a wrong name."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="mutants to plant; default all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time")
    parser.add_argument("--list", action="store_true", help="print the names and what each breaks, and stop")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - {mutant.name for mutant in MUTANTS}
    if unknown or options.jobs < 1:
        parser.error(
            f"unknown mutant {min(unknown)!r}: see --list" if unknown else f"--jobs {options.jobs}: at least 1"
        )
    chosen = [mutant for mutant in MUTANTS if not options.names or mutant.name in options.names]
    if options.list:
        print("\n".join(f"{mutant.name}: {mutant.breaks} ({mutant.file})" for mutant in chosen))
        return 0
    try:
        outcomes = run(chosen, min(options.jobs, len(chosen)))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    caught = sum(outcome.verdict == CAUGHT for outcome in outcomes)
    print(f"\n{table(chosen, outcomes)}\n\n{len(chosen)} mutants, {caught} caught")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
