"""The arrays of a U-Net under the names of another project: which are expected, and whether they are there.

A project calls our modules by other names and stores arrays as PyTorch does: a kernel (3, 3, in, out) as (out, in, 3,
3), a matrix (in, out) as (out, in). Nothing is guessed: every array must be there, in its shape, and none besides.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import tree_leaves_with_path

from ddpm_jax.models import unet
from ddpm_jax.models.unet import UNetConfig

SHOWN = 3  # names in a message
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
Tensors = Mapping[str, np.ndarray]


class Module(NamedTuple):
    """A residual block, an attention, or a convolution that halves or doubles the image.

    Attributes:
      name: of our parameters.
      part: "down", "middle" or "up".
      level: 0.., as of UNetConfig; of a convolution the one that it leaves.
      number: of a residual block in its part and level, and of the attention after it; of a convolution config.blocks.
    """

    name: str
    part: str
    level: int
    number: int


class Project(NamedTuple):
    """How another project names the parameters of the same network.

    Attributes:
      place: (module, config) -> its name there.
      residual: names of the layers of a residual block, by our names.
      attention: those of an attention.
      ends: names of the layers before the first module and after the last, in the order of `ends_of`.
    """

    place: Callable[[Module, UNetConfig], str]
    residual: dict[str, str]
    attention: dict[str, str]
    ends: tuple[str, str, str, str, str]


def ends_of(config: UNetConfig) -> tuple[str, str, str, str, str]:
    """Our names of the time's two matrices, the first convolution, the last norm and the last convolution."""
    return "Dense_0", "Dense_1", "Convolution_0", "GroupNorm_0", f"Convolution_{2 * len(config.multipliers) - 1}"


def modules(config: UNetConfig) -> Iterator[Module]:
    """All modules in the order in which they run."""
    levels = range(len(config.multipliers))
    blocks, attentions, convolutions = count(), count(), count(1)

    def at(part: str, level: int, index: int, attends: bool) -> Iterator[Module]:
        yield Module(f"ResidualBlock_{next(blocks)}", part, level, index)
        if attends:
            yield Module(f"Attention_{next(attentions)}", part, level, index)

    for level in levels:
        for index in range(config.blocks):
            yield from at("down", level, index, level in config.attention_levels)
        if level != levels[-1]:
            yield Module(f"Convolution_{next(convolutions)}", "down", level, config.blocks)
    yield from at("middle", levels[-1], 0, True)
    yield from at("middle", levels[-1], 1, False)
    for level in reversed(levels):
        for index in range(config.blocks + 1):
            yield from at("up", level, index, level in config.attention_levels)
        if level:
            yield Module(f"Convolution_{next(convolutions)}", "up", level, config.blocks)


def names(config: UNetConfig, project: Project) -> list[str]:
    """What our parameters are called there, in the order of the leaves."""
    places = dict(zip(ends_of(config), project.ends, strict=True))
    places |= {module.name: project.place(module, config) for module in modules(config)}

    def name(_: str, module: str, *inner: str) -> str:
        inside = project.attention if module.startswith("Attention") else project.residual
        *layers, leaf = inner
        return ".".join([places[module], *(inside[layer] for layer in layers), LEAVES[leaf]])

    return [name(*(key.key for key in path)) for path, _ in tree_leaves_with_path(unet.shapes(config))]


def ours(tensors: Tensors, config: UNetConfig, project: Project, source: object) -> dict[str, Any]:
    """Our parameters, float32, of the project's arrays.

    Args:
      tensors: by their names there.
      config: the shape of the network.
      project: whose names these are.
      source: what they were read from, for the message.

    Raises:
      ValueError: an array is missing, left over, or of another shape, or holds a number that is not finite.
    """
    leaves, tree = jax.tree.flatten(unet.shapes(config))
    wanted = {name: _theirs_shape(leaf.shape) for name, leaf in zip(names(config, project), leaves, strict=True)}
    wrong = {name: tensors[name].shape for name in wanted if name in tensors and tensors[name].shape != wanted[name]}
    said = [
        *_listed("missing", [f"{name} {shape}" for name, shape in wanted.items() if name not in tensors]),
        *_listed("left over", [f"{name} {tensors[name].shape}" for name in tensors if name not in wanted]),
        *_listed("of another shape", [f"{name} {shape} in place of {wanted[name]}" for name, shape in wrong.items()]),
    ]
    if said:
        raise ValueError(f"{source} does not hold the network of its description: {'; '.join(said)}")
    bad = [name for name in wanted if not np.isfinite(tensors[name]).all()]
    if bad:
        raise ValueError(f"{source}: {', '.join(_listed('not finite', bad))}: the file is damaged or its training was")
    return jax.tree.unflatten(tree, [_turned_back(tensors[name]) for name in wanted])


def theirs(params: Mapping[str, Any], config: UNetConfig, project: Project) -> dict[str, np.ndarray]:
    """The project's arrays, float32 and contiguous, of our parameters; the inverse of `ours`."""
    arrays = [_turned(np.asarray(leaf, np.float32)) for leaf in jax.tree.leaves(params)]
    return dict(zip(names(config, project), arrays, strict=True))


def _listed(kind: str, found: list[str]) -> list[str]:
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return [f"{kind}: {', '.join(found[:SHOWN])}{more}"] if found else []


def _theirs_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def _turned(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T)


def _turned_back(array: np.ndarray) -> Array:
    return jnp.asarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T, jnp.float32)
