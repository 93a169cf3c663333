"""The Inception network of FID: the graph of 2015-12-05 (Szegedy et al. 2016; Heusel et al. 2017), pool layer, in JAX.

Weights are read from the usual PyTorch file by path, never downloaded. Names of layers are that file's.
Differs from: torchvision's Inception v3, whose averages count the zeros around the image and whose last block averages
where this one takes maxima.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, UInt8

from ddpm_jax import paths
from ddpm_jax.models import ops
from ddpm_jax.models.convert import files
from ddpm_jax.paths import AnyPath
from ddpm_jax.runtime import sharding
from ddpm_jax.runtime.sharding import Layout, are_cores, local

FILE, CHECKSUM = "pt_inception-2015-12-05-6726825d.pth", "6726825d"  # as files of PyTorch end in theirs
SIDE, FEATURES, CLASSES, LAST = 299, 2048, 1008, "fc"
EPSILON = 1e-3  # of the batch normalisation
BATCH, BATCH_OF_A_CORE = 128, 4  # images that a device takes at a time
NORM = ("weight", "bias", "running_mean", "running_var")
Layer = Callable[..., Array]  # (name, x, channels, size, stride, padding) -> x convolved, normalised and rectified


class Preparation(NamedTuple):
    """How grey levels become the network's input.

    Attributes:
      offset: pixel i of the large image lies at (i + offset) side/299 - offset of the small one.
      middle: the grey level that becomes 0; 0 becomes -1.
    """

    offset: float
    middle: float


PREPARATIONS: dict[str, Preparation] = {
    "pytorch-fid": Preparation(0.5, 127.5),
    "tensorflow": Preparation(0.0, 128.0),
    "tensorflow-gan": Preparation(0.0, 127.5),
}
"""pytorch-fid: pixels are areas (align_corners=False), levels on [-1, 1]. tensorflow: as the graph of 2015 itself does,
and guided-diffusion and EDM with it: pixels are points at their left upper corners. tensorflow-gan: its levels are on
[-1, 1], too."""


def load(path: AnyPath) -> dict[str, Any]:
    """Kernels (height, width, in, out) and biases by layer, of the usual file.

    Raises:
      ValueError: the file is missing, or holds another network.
    """
    path = paths.local(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give the path of {FILE}, which pytorch-fid's releases hold")
    return folded(files.read_tensors(path), path)


def folded(found: Mapping[str, np.ndarray], source: object) -> dict[str, Any]:
    """`load` of arrays by name. Batch normalisation is folded into the kernels and biases.

    Args:
      found: the arrays; what the pool layer does not need may be among them.
      source: what they were read from, for messages.

    Raises:
      ValueError: an array is missing or of another shape.
    """
    wanted = {f"{name}.conv.weight": shape for name, shape in kernel_shapes().items()}
    wanted |= {f"{name}.bn.{part}": shape[:1] for name, shape in kernel_shapes().items() for part in NORM}
    for name, shape in wanted.items():
        if name not in found or found[name].shape != shape:
            there = f"of shape {found[name].shape}" if name in found else "missing"
            raise ValueError(f"{source} is not {FILE}: {name} {shape} is {there}")

    def layer(name: str) -> dict[str, Array]:
        scale, shift, mean, variance = (found[f"{name}.bn.{part}"].astype(np.float64) for part in NORM)
        factor = scale / np.sqrt(variance + EPSILON)
        kernel = found[f"{name}.conv.weight"].transpose(2, 3, 1, 0) * factor
        return {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(shift - mean * factor, jnp.float32)}

    params: dict[str, Any] = {name: layer(name) for name in kernel_shapes()}
    if (last := found.get("fc.weight")) is not None and last.shape == (CLASSES, FEATURES):
        params[LAST] = np.asarray(last, np.float64).T
    return params


def logits(params: Mapping[str, Any], features: Float[np.ndarray, "n 2048"]) -> Float[np.ndarray, "n 1008"] | None:
    """The last layer, without its bias, as the Inception Score takes it; None where the file has none.

    Salimans et al. 2016, released code.
    """
    return features.astype(np.float64) @ params[LAST] if LAST in params else None


@partial(jax.jit, static_argnames="preparation")
def features(
    params: Mapping[str, Any], images: UInt8[Array, "b h w c"], preparation: str = "pytorch-fid"
) -> Float[Array, "b 2048"]:
    """The pool layer of images.

    Args:
      params: see `load`.
      images: grey levels 0..255 of one channel or three.
      preparation: a name of PREPARATIONS.

    Raises:
      ValueError: there is no such preparation.
    """

    def layer(name: str, x: Array, channels: int, size: tuple, stride: int, padding: str) -> Array:
        return jax.nn.relu(ops.convolve_window(x, params[name]["kernel"], stride, padding) + params[name]["bias"])

    with jax.default_matmul_precision("highest"):
        return _network(layer, prepared(images, preparation))


def extract(
    params: Mapping[str, Any],
    images_uint8: UInt8[np.ndarray, "n h w c"],
    preparation: str = "pytorch-fid",
    layout: Layout = Layout(),
) -> Float[np.ndarray, "n 2048"]:
    """`features` of any number of images, spread over devices, at most BATCH at once on each.

    A CPU core takes few: the activations of 16 images do not fit its caches, and took 1.4 times as long.
    """
    few = layout._replace(batch=min(layout.batch, BATCH_OF_A_CORE if are_cores(local(layout)) else BATCH))
    layers = {name: params[name] for name in kernel_shapes()}
    return np.asarray(sharding.over_examples(features, layers, images_uint8, few, preparation=preparation))


@cache
def kernel_shapes() -> dict[str, tuple[int, ...]]:
    """(out, in, height, width) of every layer, as PyTorch keeps it."""
    return {one["name"]: (one["channels"], one["input"][2], *one["size"]) for one in layers()}


def layers() -> list[dict[str, Any]]:
    """Every convolution in its order: name, input (H, W, C), channels, size, stride and padding; plain values."""
    found: list[dict[str, Any]] = []

    def layer(name: str, x: Array, channels: int, size: tuple, stride: int, padding: str) -> Array:
        found.append(dict(name=name, input=x.shape[1:], channels=channels, size=size, stride=stride, padding=padding))
        return ops.convolve_window(x, jnp.zeros((*size, x.shape[-1], channels), jnp.float32), stride, padding)

    jax.eval_shape(partial(_network, layer), jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32))
    return found


def prepared(images: UInt8[Array, "b h w c"], preparation: str) -> Float[Array, "b 299 299 3"]:
    """The network's input: bilinear between the nearest pixels, whether the image grows or shrinks.

    Raises:
      ValueError: there is no such preparation.
    """
    if preparation not in PREPARATIONS:
        raise ValueError(f"unknown preparation {preparation!r}: choose one of {', '.join(PREPARATIONS)}")
    offset, middle = PREPARATIONS[preparation]
    down, across = (jnp.asarray(_weights(side, offset), jnp.float32) for side in images.shape[1:3])
    wide = jnp.broadcast_to(images, (*images.shape[:3], 3)).astype(jnp.float32)
    return jnp.einsum("ih,jw,bhwc->bijc", down, across, wide, precision=jax.lax.Precision.HIGHEST) / middle - 1


def _weights(side: int, offset: float) -> np.ndarray:
    """(299, side): each pixel lies between two of the image, or on its edge."""
    place = np.clip((np.arange(SIDE) + offset) * side / SIDE - offset, 0, side - 1)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(side)))


def _network(given: Layer, x: Array) -> Array:
    """Stem, blocks A to E, and the average over pixels. Szegedy et al. 2016, table 1 and figures 5 to 10."""

    def layer(
        name: str, x: Array, channels: int, size: tuple = (1, 1), stride: int = 1, padding: str = "SAME"
    ) -> Array:
        return given(name, x, channels, size, stride, padding)

    x = layer("Conv2d_1a_3x3", x, 32, (3, 3), 2, "VALID")
    x = layer("Conv2d_2a_3x3", x, 32, (3, 3), 1, "VALID")
    x = _shrunk(layer("Conv2d_2b_3x3", x, 64, (3, 3)))
    x = layer("Conv2d_3b_1x1", x, 80)
    x = _shrunk(layer("Conv2d_4a_3x3", x, 192, (3, 3), 1, "VALID"))
    for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        x = _block_a(_within(layer, name), x, pooled)
    x = _block_b(_within(layer, "Mixed_6a"), x)
    for name, narrow in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        x = _block_c(_within(layer, name), x, narrow)
    x = _block_d(_within(layer, "Mixed_7a"), x)
    x = _block_e(_within(layer, "Mixed_7b"), x, ops.average_pool(x))
    x = _block_e(_within(layer, "Mixed_7c"), x, ops.max_pool(x, 1, "SAME"))
    return x.mean((1, 2))


def _shrunk(x: Array) -> Array:
    return ops.max_pool(x, 2, "VALID")


def _within(layer: Layer, block: str) -> Layer:
    return lambda name, *of: layer(f"{block}.{name}", *of)


def _block_a(layer: Layer, x: Array, pooled: int) -> Array:
    by_5 = layer("branch5x5_2", layer("branch5x5_1", x, 48), 64, (5, 5))
    by_3 = layer("branch3x3dbl_2", layer("branch3x3dbl_1", x, 64), 96, (3, 3))
    by_3 = layer("branch3x3dbl_3", by_3, 96, (3, 3))
    return jnp.concatenate(
        [layer("branch1x1", x, 64), by_5, by_3, layer("branch_pool", ops.average_pool(x), pooled)], -1
    )


def _block_b(layer: Layer, x: Array) -> Array:
    twice = layer("branch3x3dbl_2", layer("branch3x3dbl_1", x, 64), 96, (3, 3))
    twice = layer("branch3x3dbl_3", twice, 96, (3, 3), 2, "VALID")
    return jnp.concatenate([layer("branch3x3", x, 384, (3, 3), 2, "VALID"), twice, _shrunk(x)], -1)


def _block_c(layer: Layer, x: Array, narrow: int) -> Array:
    once = layer("branch7x7_2", layer("branch7x7_1", x, narrow), narrow, (1, 7))
    once = layer("branch7x7_3", once, 192, (7, 1))
    twice = layer("branch7x7dbl_2", layer("branch7x7dbl_1", x, narrow), narrow, (7, 1))
    twice = layer("branch7x7dbl_3", twice, narrow, (1, 7))
    twice = layer("branch7x7dbl_5", layer("branch7x7dbl_4", twice, narrow, (7, 1)), 192, (1, 7))
    return jnp.concatenate(
        [layer("branch1x1", x, 192), once, twice, layer("branch_pool", ops.average_pool(x), 192)], -1
    )


def _block_d(layer: Layer, x: Array) -> Array:
    by_3 = layer("branch3x3_2", layer("branch3x3_1", x, 192), 320, (3, 3), 2, "VALID")
    by_7 = layer("branch7x7x3_2", layer("branch7x7x3_1", x, 192), 192, (1, 7))
    by_7 = layer("branch7x7x3_4", layer("branch7x7x3_3", by_7, 192, (7, 1)), 192, (3, 3), 2, "VALID")
    return jnp.concatenate([by_3, by_7, _shrunk(x)], -1)


def _block_e(layer: Layer, x: Array, pooled: Array) -> Array:
    once = layer("branch3x3_1", x, 384)
    twice = layer("branch3x3dbl_2", layer("branch3x3dbl_1", x, 448), 384, (3, 3))
    parts = [
        layer(f"{name}{side}", h, 384, size)
        for name, h in (("branch3x3_2", once), ("branch3x3dbl_3", twice))
        for side, size in (("a", (1, 3)), ("b", (3, 1)))
    ]
    return jnp.concatenate([layer("branch1x1", x, 320), *parts, layer("branch_pool", pooled, 192)], -1)
