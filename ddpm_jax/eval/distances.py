"""The Frechet distance of samples, by variance, K and seed, in the features of any network.

In the main job that is a small classifier (`eval.classifier`), and the distance is not the FID.
"""

from typing import Any

import numpy as np

from ddpm_jax.eval import fid
from ddpm_jax.eval import judge as judges
from ddpm_jax.eval.ablation import REFERENCE, Cell
from ddpm_jax.eval.judge import Judge, Reference

Row = dict[str, Any]


def tabulate(drawn: dict[Cell, np.ndarray], judge: Judge, reference: Reference) -> tuple[list[Row], list[Row]]:
    """Frechet distance of every cell and seed to the reference images, and its mean and deviation over seeds.

    Args:
      drawn: see `quality.draw`.
      judge: the network whose features are compared.
      reference: training images.

    Returns:
      Rows by (variance, trajectory, K, seed), and rows by (variance, trajectory, K), these with the difference to
      isotropic: seed by seed the noise is the same, so it varies less than the distances do.
    """
    found = {
        cell: np.array([fid.distance(reference.target, fid.fit(judges.summed(judge, seed))) for seed in images])
        for cell, images in drawn.items()
    }
    single, means = [], []
    for (name, path, K), values in found.items():
        cell = dict(variance=name, trajectory=path, K=K)
        single += [dict(**cell, seed=seed, frechet=float(value)) for seed, value in enumerate(values)]
        mean, deviation = _over_seeds(values)
        row = dict(**cell, mean=mean, std=deviation, seeds=len(values), images=drawn[name, path, K].shape[1])
        reference_values = None if name == REFERENCE else found.get((REFERENCE, path, K))
        difference = (None, None) if reference_values is None else _over_seeds(values - reference_values)
        means.append(row | dict(minus_isotropic=difference[0], minus_isotropic_std=difference[1]))
    return single, means


def _over_seeds(values: np.ndarray) -> tuple[float, float | None]:
    """Mean and standard deviation; no deviation of one value."""
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None
