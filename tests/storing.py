"""A state in a store of its own, for tests that need a checkpoint to be there."""

from pathlib import Path
from typing import Any

from ddpm_jax.training import checkpoints
from ddpm_jax.training.checkpoints import Retention
from ddpm_jax.training.step import TrainState


def store(folder: Path, state: TrainState, description: dict[str, Any], keep: Retention = Retention()) -> None:
    """Save one state and wait until it is there."""
    with checkpoints.writing(folder, keep) as there:
        checkpoints.save(there, state, description)
        checkpoints.finish(there)
