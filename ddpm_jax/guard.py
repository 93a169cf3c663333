"""What keeps a run from harm: one trainer a workdir, no step after a number that is not finite, traces where asked."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import jax
import numpy as np
from filelock import FileLock, Timeout

from ddpm_jax import processes
from ddpm_jax.recipes import TENTHS, Metrics, TrainState

LOCK = ".lock"


@contextmanager
def locked(*folders: Path) -> Iterator[None]:
    """Within, no other run trains in any of the folders. The system lets go of them when the process ends, however.

    Raises:
      ValueError: another one does; in every process.
    """
    with ExitStack() as held:
        taken = processes.of_the_first(_lock(folders, held) if processes.first() else 0)
        if taken:
            raise ValueError(
                f"another process works in {folders[taken - 1]}: wait for it, stop it, or choose another folder"
            )
        yield


def _lock(folders: tuple[Path, ...], held: ExitStack) -> int:
    """Which of the folders, from 1, another process holds; 0 if all are ours now."""
    for number, folder in enumerate(folders, 1):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            held.enter_context(FileLock(folder / LOCK).acquire(timeout=0))
        except Timeout:
            return number
    return 0


def check_finite(metrics: Metrics | None, end: int, state: TrainState, workdir: Path) -> None:
    """Stop at a loss or gradient that is not finite.

    Args:
      metrics: of the steps of one call, the last of which made the state of step `end`; None for no call yet.
      end: see metrics.
      state: whose losses by noise level are told.
      workdir: where the last good checkpoint lies.

    Raises:
      FloatingPointError: names the step, a time, and the losses by noise level.
    """
    if metrics is None:
        return
    numbers = np.stack([np.asarray(metrics.loss), np.asarray(metrics.gradient_norm)])
    bad = ~np.isfinite(numbers).all(axis=0)
    if not bad.any():
        return
    i = int(bad.argmax())
    step, t = end - len(bad) + i + 1, int(metrics.bad_t[i])
    what = f"loss {numbers[0, i]:g} at step {step}" + (f", t = {t}" if t else f", gradient norm {numbers[1, i]:g}")
    means = (f"{(i + 1) / TENTHS:.1f}: {mean:.3g}" for i, mean in enumerate(np.asarray(state.recent.means)))
    raise FloatingPointError(
        f"{what}; loss by t/T up to {', '.join(means)}. Lower the learning rate; the last checkpoint in {workdir} is "
        "as it was"
    )


@contextmanager
def tracing(workdir: Path, window: tuple[int, int] | None) -> Iterator[Callable[[int], None]]:
    """Yields what is told the next step before every call, and writes a trace of the window's to workdir/profile."""
    running: list[bool] = []

    def at(step: int) -> None:
        wanted = window is not None and processes.first() and window[0] <= step <= window[1]
        if wanted and not running:
            jax.profiler.start_trace(str(workdir / "profile"))
            running.append(True)
        elif running and not wanted:
            jax.profiler.stop_trace()
            running.clear()

    try:
        yield at
    finally:
        if running:
            jax.profiler.stop_trace()
