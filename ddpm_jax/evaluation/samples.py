"""Samples on all devices: every variance x K with common random numbers, and their Frechet distances.

Distances, by variance, K and seed, are taken in the features of any network. In the main job that is a small classifier
(`fid.classifier`), and the distance is not the FID.
"""

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, UInt8
from tqdm import tqdm

from ddpm_jax.data.transforms import to_levels
from ddpm_jax.diffusion import process, sampler
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.denoiser import Denoiser, Images
from ddpm_jax.diffusion.process import Steps
from ddpm_jax.diffusion.random_keys import Keys
from ddpm_jax.diffusion.variances import ReverseVariance
from ddpm_jax.evaluation import likelihood
from ddpm_jax.evaluation.fid import extractors, frechet
from ddpm_jax.evaluation.fid.extractors import FeatureExtractor, Reference
from ddpm_jax.evaluation.likelihood import REFERENCE, Cell, Choices
from ddpm_jax.runtime import cache, sharding
from ddpm_jax.runtime.cache import Arrays, Keep
from ddpm_jax.runtime.sharding import Layout, local

Row = dict[str, Any]


VERSION = 1  # raised by hand when the numbers of a sample or a strip change: sampler, reverse mean, grey levels
BLOCKS = 8  # that variances share, at most: they are stored when all are drawn
SHARD = 2048  # images that are drawn and stored together


def sample_each(
    key: Keys,
    steps: Steps,
    denoiser: Denoiser,
    choices: Sequence[ReverseVariance],
    shape: tuple[int, ...],
    rules: Rules = Rules(),
    layout: Layout = Layout(),
) -> Float[Array, "choices n *x"]:
    """`sampler.sample` of several variances on all devices; those fixed in the same basis share their batches.

    Args:
      key: see `sampler.sample`; sample i of every choice has the same noise.
      steps: the chain.
      denoiser: the network, or a closed form.
      choices: of `variances`.
      shape: (n, *x) of each.
      rules: the conventions.
      layout: how samples are spread over devices.

    Raises:
      ValueError: see `sampler.sample`.
    """
    alike: dict[Any, list[int]] = {}
    for i, choice in enumerate(choices):
        alike.setdefault(choice.basis if choice.headless else i, []).append(i)
    found: dict[int, Images] = {}
    for places in alike.values():
        together = [choices[i] for i in places]
        shared, chains, static = sampler.prepare(key, steps, denoiser, together, shape, rules)
        x_0, _ = sharding.over_examples(sampler.scan, shared, chains, layout, **static, record=False)
        found |= dict(zip(places, x_0.reshape(-1, *shape), strict=True))
    return jnp.stack([found[i] for i in range(len(choices))])


def lower(
    steps: Steps, denoiser: Denoiser, choice: ReverseVariance, shape: tuple[int, ...], layout: Layout
) -> jax.stages.Lowered:
    """The lowered program of `sample_each` for one block of images; its devices need not be attached.

    Args:
      steps: the chain.
      denoiser: of `denoiser.make_denoiser`; its parameters may be shapes.
      choice: of `variances`.
      shape: (n, *x) of a block; n a multiple of the number of devices.
      layout: the devices.
    """
    shared, chains, static = sampler.prepare(jax.random.key(0), steps, denoiser, (choice,), shape)
    shapes = jax.eval_shape(lambda chains: chains, chains)
    return sharding.lower_over_examples(sampler.scan, shared, shapes, layout, **static, record=False)


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
    keep: Keep = cache.compute_always,
) -> dict[Cell, UInt8[np.ndarray, "seeds n h w c"]]:
    """Images of every cell, SHARD at a time. Image i of a seed has the same noise in every cell, including x_T.

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
            x_0 = sample_each(keys, steps, denoiser, some, (len(keys), *draws.shape), rules, layout)
            return [dict(images=to_levels(images, rules.levels, rules.rounding)) for images in x_0]

        for cell, found in zip(group, cache.fetch_each(keep, "samples", asked, compute), strict=True):
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
    keep: Keep = cache.compute_always,
) -> UInt8[np.ndarray, "n K h w c"]:
    """x_0_hat at every step from T down, of shape (n, H, W, C) chains; predict, then correct."""
    steps = process.steps(choices.schedule, choices.times[cell], choices.kernel)
    choice = choices.variances[cell[0]]
    known = {**inputs(choices, cell, rules), "shape": shape}
    return keep("strips", known, partial(_predictions, steps, denoiser, choice, shape, rules))["images"]


def inputs(choices: Choices, cell: Cell, rules: Rules) -> dict[str, Any]:
    """All that a cell's images depend on beside the denoiser, the seed and how many there are."""
    steps = process.steps(choices.schedule, choices.times[cell], choices.kernel)
    known = likelihood.identity(choices, cell[0], steps)
    return dict(steps=steps, rules=rules._asdict(), variance=known, version=VERSION)


def _predictions(
    steps: Steps, denoiser: Denoiser, choice: ReverseVariance, shape: tuple[int, ...], rules: Rules
) -> cache.Arrays:
    shared, chains, static = sampler.prepare(jax.random.key(0), steps, denoiser, (choice,), shape, rules)
    _, x_0_hat = sharding.over_examples(sampler.scan, shared, chains, **static, record=True)
    return dict(images=to_levels(np.asarray(x_0_hat), rules.levels, rules.rounding)[:, ::-1])


def nearest(images: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each image the index of the nearest of `others` and its distance, root mean square over pixels in levels."""
    a, b = (group.reshape(len(group), -1).astype(np.float64) for group in (images, others))
    square = np.maximum((a**2).sum(axis=1)[:, None] - 2 * a @ b.T + (b**2).sum(axis=1), 0) / a.shape[1]
    index = square.argmin(axis=1)
    return index, np.sqrt(square[np.arange(len(index)), index])


def distances(
    drawn: dict[Cell, np.ndarray], extractor: FeatureExtractor, reference: Reference
) -> tuple[list[Row], list[Row]]:
    """Frechet distance of every cell and seed to the reference images, and its mean and deviation over seeds.

    Args:
      drawn: see `draw`.
      extractor: the network whose features are compared.
      reference: training images.

    Returns:
      Rows by (variance, trajectory, K, seed), and rows by (variance, trajectory, K), these with the difference to
      isotropic: seed by seed the noise is the same, so it varies less than the distances do.
    """
    found = {
        cell: np.array(
            [frechet.distance(reference.target, frechet.fit(extractors.summed(extractor, seed))) for seed in images]
        )
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
