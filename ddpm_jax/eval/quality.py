"""Samples of every variance x K with common random numbers. Their distances are in `distances`."""

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jaxtyping import UInt8
from tqdm import tqdm

from ddpm_jax import cells, process, sampler
from ddpm_jax.cells import Arrays, Keep
from ddpm_jax.devices import Layout, local
from ddpm_jax.eval import ablation
from ddpm_jax.eval.ablation import Cell, Choices
from ddpm_jax.predict import Denoiser
from ddpm_jax.process import Steps
from ddpm_jax.protocols import Rules
from ddpm_jax.reverse import ReverseVariance
from ddpm_jax.train import to_levels

CODE = cells.code_version(__name__)
BLOCKS = 8  # that variances share, at most: they are stored when all are drawn
SHARD = 2048  # images that are drawn and stored together


class Draws(NamedTuple):
    """How many images of each cell.

    Attributes:
      seeds: of the noise.
      n: images of each seed.
      shape: (H, W, C).
    """

    seeds: Sequence[int]
    n: int
    shape: tuple[int, ...]


def draw(
    choices: Choices,
    denoiser: Denoiser,
    wanted: Sequence[Cell],
    rules: Rules,
    draws: Draws,
    layout: Layout = Layout(),
    keep: Keep = cells.compute_always,
) -> dict[Cell, UInt8[np.ndarray, "seeds n h w c"]]:
    """Images of every cell, SHARD at a time. Image i of a seed meets the same noise in every cell, x_T among it.

    Args:
      choices: the variances and the times they visit.
      denoiser: the network.
      wanted: which cells to draw.
      rules: the conventions.
      draws: how many.
      layout: how images are spread over devices.
      keep: remembers the images of a cell, seed and shard; its inputs name everything but the denoiser.
    """
    drawn: dict[Cell, list[np.ndarray]] = {cell: [] for cell in wanted}
    groups = list(product(_together(choices, wanted, min(draws.n, SHARD), layout), draws.seeds, shards(draws.n)))
    for group, seed, (first, last) in tqdm(groups, desc="samples", unit="batch", mininterval=1, delay=1):
        steps = process.steps(choices.schedule, choices.times[group[0]], choices.kernel)
        several = [choices.variances[name] for name, _, _ in group]
        shape = (last - first, *draws.shape)
        asked = [{**inputs(choices, cell, rules), "seed": seed, "first": first, "shape": shape} for cell in group]
        keys = sampler.keys_of(jax.random.key(seed), first, last)

        def compute(
            places: list[int], steps: Steps = steps, keys: Array = keys, several: list = several
        ) -> list[Arrays]:
            some = [several[i] for i in places]
            x_0 = sampler.sample_each(keys, steps, denoiser, some, (len(keys), *draws.shape), rules, layout)
            return [dict(images=to_levels(images, rules.levels, rules.rounding)) for images in x_0]

        for cell, found in zip(group, cells.fetch_each(keep, "samples", asked, compute), strict=True):
            drawn[cell].append(found["images"])
    whole = (len(draws.seeds), draws.n, *draws.shape)
    return {cell: np.concatenate(images).reshape(whole) for cell, images in drawn.items()}


def shards(n: int) -> list[tuple[int, int]]:
    """The first of each part of n images, and the first after it."""
    return [(first, min(first + SHARD, n)) for first in range(0, n, SHARD)]


def _together(choices: Choices, wanted: Sequence[Cell], n: int, layout: Layout) -> list[list[Cell]]:
    """The cells that visit the same times together where that is a few of the devices' blocks, else each by itself."""
    chains: dict[tuple[int, ...], list[Cell]] = {}
    for cell in wanted:
        chains.setdefault(tuple(choices.times[cell]), []).append(cell)
    few = BLOCKS * layout.batch * len(local(layout))
    return [part for chain in chains.values() for part in ([chain] if len(chain) * n <= few else [[c] for c in chain])]


def strip(
    choices: Choices,
    denoiser: Denoiser,
    cell: Cell,
    rules: Rules,
    shape: tuple[int, ...],
    keep: Keep = cells.compute_always,
) -> UInt8[np.ndarray, "n K h w c"]:
    """x_0_hat at every step from T down, of shape (n, H, W, C) chains; predict, then correct."""
    steps = process.steps(choices.schedule, choices.times[cell], choices.kernel)
    choice = choices.variances[cell[0]]
    known = {**inputs(choices, cell, rules), "shape": shape}
    return keep("strips", known, partial(_predictions, steps, denoiser, choice, shape, rules))["images"]


def inputs(choices: Choices, cell: Cell, rules: Rules) -> dict[str, Any]:
    """All that a cell's images depend on beside the denoiser, the seed and how many there are."""
    steps = process.steps(choices.schedule, choices.times[cell], choices.kernel)
    known = ablation.identity(choices, cell[0], steps)
    return dict(steps=steps, rules=rules._asdict(), variance=known, code=CODE)


def _predictions(
    steps: Steps, denoiser: Denoiser, choice: ReverseVariance, shape: tuple[int, ...], rules: Rules
) -> cells.Arrays:
    path = sampler.sample_path(jax.random.key(0), steps, denoiser, choice, shape, rules)
    return dict(images=to_levels(np.asarray(path.x_0_hat), rules.levels, rules.rounding).swapaxes(0, 1))


def nearest(images: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each image the index of the nearest of `others` and its distance, root mean square over pixels in levels."""
    a, b = (group.reshape(len(group), -1).astype(np.float64) for group in (images, others))
    square = np.maximum((a**2).sum(axis=1)[:, None] - 2 * a @ b.T + (b**2).sum(axis=1), 0) / a.shape[1]
    index = square.argmin(axis=1)
    return index, np.sqrt(square[np.arange(len(index)), index])
