"""A state in a store of its own, for tests that need a checkpoint to be there."""

from pathlib import Path
from typing import Any

from ddpm_jax import checkpoint
from ddpm_jax.checkpoint import Keep
from ddpm_jax.recipes import TrainState


def store(folder: Path, state: TrainState, description: dict[str, Any], keep: Keep = Keep()) -> None:
    """Save one state and wait until it is there."""
    with checkpoint.writing(folder, keep) as there:
        checkpoint.save(there, state, description)
        checkpoint.finish(there)
