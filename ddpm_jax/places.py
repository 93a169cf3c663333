"""Where a run's checkpoints lie."""

import json
from pathlib import Path

from ddpm_jax import checkpoint, journal, storage
from ddpm_jax.config import Config

CHECKPOINTS = "checkpoints"


def checkpoints(workdir: Path, config: Config | None = None) -> str:
    """The folder of a run's checkpoints: what the config says (default: workdir's), or workdir/checkpoints."""
    said, elsewhere = workdir / journal.CONFIG, config and config.checkpoints
    if config is None and said.exists():
        elsewhere = json.loads(said.read_text(encoding="utf-8")).get("config", {}).get("checkpoints")
    return elsewhere or str(workdir / CHECKPOINTS)


def on_disk(workdir: Path, config: Config) -> tuple[Path, ...]:
    """The folders that a run writes to, without a bucket."""
    elsewhere = config.checkpoints
    return (workdir,) if elsewhere is None or storage.in_bucket(elsewhere) else (workdir, Path(elsewhere))


def check(workdir: Path, config: Config) -> None:
    """Refuse a run that would begin anew, and forget its log, because its checkpoints lie elsewhere.

    Raises:
      ValueError: see above.
    """
    there, asked = checkpoints(workdir), checkpoints(workdir, config)
    if there != asked and checkpoint.steps(there):
        raise ValueError(
            f"{workdir} holds a run whose checkpoints are in {there}, not {asked}: give --checkpoints {there}, or "
            "choose another --workdir"
        )
