"""Image data sets: where they come from, how pictures become arrays, batches by step."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddpm_jax.data.datasets import DataSet as DataSet
    from ddpm_jax.data.datasets import load as load


def __getattr__(name: str) -> Any:
    if name in ("DataSet", "load"):
        from ddpm_jax.data import datasets

        return getattr(datasets, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
