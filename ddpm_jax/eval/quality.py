"""Sample quality: images of every variance x K with common random numbers, and their Frechet distance.

The distance is taken in features of a small classifier (`eval.classifier`); it is not the FID.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from ddpm_jax import process, sampler
from ddpm_jax.eval import fid
from ddpm_jax.eval.ablation import Cell, Choices
from ddpm_jax.predict import Denoiser
from ddpm_jax.sampler import Rules
from ddpm_jax.train import to_levels

Row = dict[str, Any]


def draw(
    choices: Choices,
    denoiser: Denoiser,
    cells: Sequence[Cell],
    rules: Rules,
    seeds: int,
    shape: tuple[int, ...],
) -> dict[Cell, UInt8[np.ndarray, "seeds n h w c"]]:
    """Images of every cell. Image i of a seed starts from the same x_T and meets the same noise in every cell.

    Args:
      choices: the variances and the times they visit.
      denoiser: the network.
      cells: which to draw.
      rules: the conventions.
      seeds: number of sampling seeds.
      shape: (n, H, W, C) a seed.
    """
    keys = jax.vmap(lambda seed: jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.arange(shape[0])))(
        jnp.arange(seeds)
    ).reshape(-1)
    drawn = {}
    for name, path, K in tqdm(cells, desc="samples", unit="cell"):
        steps = process.steps(choices.schedule, choices.times[name, path, K])
        x_0 = sampler.sample(keys, steps, denoiser, choices.variances[name], (len(keys), *shape[1:]), rules)
        drawn[name, path, K] = to_levels(x_0, rules.levels).reshape(seeds, *shape)
    return drawn


def distances(
    drawn: dict[Cell, np.ndarray], features: Callable[[np.ndarray], np.ndarray], reference: np.ndarray
) -> tuple[list[Row], list[Row]]:
    """Frechet distance of every cell and seed to the reference images, and its mean and deviation over seeds.

    Args:
      drawn: see `draw`.
      features: images_uint8 -> (n, d).
      reference: training images.

    Returns:
      Rows by (variance, trajectory, K, seed), and rows by (variance, trajectory, K).
    """
    target = fid.gaussian_fit(features(reference))
    single, means = [], []
    for (name, path, K), images in drawn.items():
        cell = dict(variance=name, trajectory=path, K=K)
        values = [fid.frechet_distance(*fid.gaussian_fit(features(seed)), *target) for seed in images]
        single += [dict(**cell, seed=seed, frechet=value) for seed, value in enumerate(values)]
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        means.append(
            dict(**cell, mean=float(np.mean(values)), std=deviation, seeds=len(values), images=images.shape[1])
        )
    return single, means


def nearest(images: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each image the index of the nearest of `others` and its distance, root mean square over pixels in levels."""
    flat = [group.reshape(len(group), -1).astype(np.float64) for group in (images, others)]
    square = ((flat[0][:, None] - flat[1][None]) ** 2).mean(axis=2)
    index = square.argmin(axis=1)
    return index, np.sqrt(square[np.arange(len(index)), index])
