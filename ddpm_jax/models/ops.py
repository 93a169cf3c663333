"""Products, convolutions and pooling in the forms that XLA's CPU backend is fast at, too; NHWC.

Products of images and weights are linear in each, with gradients that CPUs do fast, and jitted, so that each is traced
once for all places in a network that look alike. The windows are Inception's: of its features the forms here make 1.25
times as many in a second on two cores as XLA's own (jax 0.10.2, benchmarks.bench_inception).
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero, linear_call
from jaxtyping import Float

from ddpm_jax.runtime import sharding

Images = Float[Array, "b h w c"]
Result = Float[Array, "b i j d"]


def convolve_window(x: Images, kernel: Float[Array, "kh kw c d"], stride: int, padding: str) -> Result:
    """A convolution; on CPUs one matrix product, where the kernel is 1 x 1 or the image is halved without padding.

    Args:
      x: images.
      kernel: as Flax keeps it.
      stride: of the windows.
      padding: SAME or VALID.
    """
    if kernel.shape[:2] == (1, 1) or (stride == 2 and padding == "VALID"):
        return jax.lax.platform_dependent(
            x,
            kernel,
            cpu=lambda x, kernel: _convolve_by_matrix(x, kernel, stride),
            default=lambda x, kernel: _convolve_by_xla(x, kernel, stride, padding),
        )
    return _convolve_by_xla(x, kernel, stride, padding)


def _convolve_by_xla(x: Images, kernel: Array, stride: int, padding: str) -> Result:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _convolve_by_matrix(x: Images, kernel: Array, stride: int) -> Result:
    """The pixels of each window side by side, times the kernel as a matrix. Without zeros around the image."""
    down, across, _, channels = kernel.shape
    rows, columns = ((side - reach) // stride for side, reach in zip(x.shape[1:3], (down, across), strict=True))
    parts = [
        x[:, i : i + rows * stride + 1 : stride, j : j + columns * stride + 1 : stride]
        for i in range(down)
        for j in range(across)
    ]
    return jnp.concatenate(parts, axis=-1) @ kernel.reshape(-1, channels)


def max_pool(x: Images, stride: int, padding: str) -> Result:
    """The maxima over 3 x 3 pixels; padding SAME, at stride 1, or VALID."""
    x = x if padding == "VALID" else _pad_by_one(x, -jnp.inf)
    return _combine_three(jnp.maximum, _combine_three(jnp.maximum, x, 1, stride), 2, stride)


def average_pool(x: Images) -> Result:
    """The averages over 3 x 3 pixels, without those outside the image."""
    sums = _combine_three(jnp.add, _combine_three(jnp.add, _pad_by_one(x, 0.0), 1, 1), 2, 1)
    down, across = (np.convolve(np.ones(side), np.ones(3), "same") for side in x.shape[1:3])
    return sums / jnp.asarray(np.outer(down, across)[:, :, None], x.dtype)


def _pad_by_one(x: Images, value: float) -> Result:
    """With a pixel around the image."""
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=value)


def _combine_three(combine: Callable[[Array, Array], Array], x: Images, axis: int, stride: int) -> Result:
    """Of each pixel and the next two along an axis. XLA's own windows took 3 to 6 times as long on two cores."""
    last = (x.shape[axis] - 3) // stride * stride
    a, b, c = (jax.lax.slice_in_dim(x, i, i + last + 1, stride, axis) for i in range(3))
    return combine(combine(a, b), c)


Padding: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
Transposed: TypeAlias = Callable[[Array, Array], Array]  # (the other factor, gradient of the product) -> of this one


class _Product(NamedTuple):
    """A product, and how CPUs come from its gradient to those of its factors.

    Attributes:
      of: (x, weights) -> product.
      to_x: (JAX's way, weights, gradient) -> gradient of x.
      to_weights: (JAX's way, x, gradient) -> gradient of the weights.
    """

    of: Callable[[Array, Array], Array]
    to_x: Callable[[Transposed, Array, Array], Array]
    to_weights: Callable[[Transposed, Array, Array], Array]


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _multiplied(product: _Product, moving: str | None, x: Array, weights: Array) -> Array:
    """The product; as part of a derivative, along what is `moving`, x or weights."""
    if moving is None:
        return product.of(x, weights)
    on_cpu, rests, moves = (product.to_x, weights, x) if moving == "x" else (product.to_weights, x, weights)

    def along(rests: Array, moves: Array) -> Array:
        return product.of(moves, rests) if moving == "x" else product.of(rests, moves)

    def back(rests: Array, gradient: Array) -> Array:
        def usual(rests: Array, gradient: Array) -> Array:
            return jax.linear_transpose(partial(along, rests), moves)(gradient)[0]

        return jax.lax.platform_dependent(rests, gradient, cpu=partial(on_cpu, usual), default=usual)

    return linear_call(along, back, rests, moves)


@partial(_multiplied.defjvp, symbolic_zeros=True)
def _(product: _Product, _: str | None, primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Any]:
    (x, weights), (dx, dweights) = primals, tangents
    by_x = 0 if isinstance(dx, SymbolicZero) else _multiplied(product, "x", dx, weights)
    by_weights = 0 if isinstance(dweights, SymbolicZero) else _multiplied(product, "weights", x, dweights)
    return product.of(x, weights), by_x + by_weights


@jax.jit
def multiply(x: Float[Array, "*b c"], matrix: Float[Array, "c o"]) -> Float[Array, "*b o"]:
    """x times a matrix."""
    return _multiplied(_MATRIX, None, x, matrix)


def _usually(usual: Transposed, other: Array, gradient: Array) -> Array:
    return usual(other, gradient)


def _matrix_gradient(usual: Transposed, x: Array, gradient: Array) -> Array:
    """With x turned first, and not before the gradient is there: XLA would hold the copy.

    Of (8, 256, 256) times (256, 256) it took .45 of the time of JAX's way.
    """
    turned = jax.lax.optimization_barrier(sharding.when_there(x, gradient).reshape(-1, x.shape[-1]).T)
    return turned @ gradient.reshape(-1, gradient.shape[-1])


_MATRIX = _Product(jnp.matmul, _usually, _matrix_gradient)


@partial(jax.jit, static_argnames=("stride", "padding"))
def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "y x c o"], stride: int = 1, padding: Padding = ((1, 1), (1, 1))
) -> Array:
    """Images convolved with a kernel.

    Args:
      x: images.
      kernel: weights.
      stride: 2 halves the images.
      padding: zeros before and after rows and columns.
    """
    return _multiplied(_convolution(stride, padding), None, x, kernel)


@lru_cache
def _convolution(stride: int, padding: Padding) -> _Product:
    def of(x: Array, kernel: Array) -> Array:
        axes = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=axes)

    return _Product(of, _turned_late, partial(_kernel_gradient, padding) if stride == 1 else _usually)


def _turned_late(usual: Transposed, kernel: Array, gradient: Array) -> Array:
    """The kernel is turned round when the gradient is there.

    XLA's CPU backend would turn all kernels as soon as it can, once for all microbatches, and hold them: a tenth of a
    GiB of `cifar10`.
    """
    return usual(sharding.when_there(kernel, gradient), gradient)


def _kernel_gradient(padding: Padding, usual: Transposed, x: Array, gradient: Array) -> Array:
    """As a convolution of rows alone, with the columns of all images side by side: the matrices in it are large.

    Channels are what is convolved, columns what is summed over. Next to the gradient's channels stand those of the
    gradient shifted to the columns of x that another column of the kernel sees. JAX asks for a convolution whose window
    is the whole image; this took .6 to .8 of its time (16 and 32 pixels, 128 to 512 channels, 8 images, jax 0.10.2).
    """
    (b, h, w, c), (_, rows, columns, o) = x.shape, gradient.shape
    left, right = padding[1]
    width = w + left + right - columns + 1
    seen = x.transpose(3, 1, 0, 2).reshape(c, h, b * w)
    still, zero = (0, 0, 0), jnp.zeros((), gradient.dtype)
    wide = jax.lax.pad(gradient, zero, [still, still, (width - 1 - left, width - 1 - right, 0), still])
    wide = wide.transpose(1, 0, 2, 3)
    shifted = [wide[:, :, i : i + w] for i in reversed(range(width))]
    kernel = jnp.concatenate(shifted, axis=-1).reshape(rows, b * w, width * o)
    made = jax.lax.conv_general_dilated(seen, kernel, (1,), padding[:1], dimension_numbers=("NHC", "HIO", "NHC"))
    return made.reshape(c, -1, width, o).transpose(1, 2, 0, 3)


def convolve_tiny(x: Array, kernel: Array) -> Array:
    """The convolution of images of at most 2 x 2 pixels with a 3 x 3 kernel, as one matrix product."""
    b, height, width, _ = x.shape
    pixels = list(np.ndindex(height, width))
    matrix = jnp.block([[kernel[y - i + 1, z - j + 1] for i, j in pixels] for y, z in pixels])
    return (x.reshape(b, -1) @ matrix).reshape(b, height, width, -1)


def convolve_doubled(x: Array, kernel: Array) -> Array:
    """The convolution of images at twice their size, every pixel repeated, with a 3 x 3 kernel."""
    return jax.lax.platform_dependent(x, kernel, tpu=_double_and_convolve, default=_convolve_parts)


def _double_and_convolve(x: Array, kernel: Array) -> Array:
    b, height, width, channels = x.shape
    repeated = jnp.broadcast_to(x[:, :, None, :, None], (b, height, 2, width, 2, channels))
    return convolve(repeated.reshape(b, 2 * height, 2 * width, channels), kernel)


@jax.jit
def _convolve_parts(x: Array, kernel: Array) -> Array:
    """The same as four 2 x 2 convolutions of the image itself, for CPUs and GPUs.

    A 3 x 3 window over repeated pixels sees 2 x 2 different ones; which rows and columns of the kernel meet the same
    pixel depends on whether the output's row and column are even or odd. 16 products a pixel in place of 36, and the
    large image is never made. Shi et al. 2016, appendix (sub-pixel convolution). A training step of `cifar10` took .975
    of the time on an H200. TPUs would pay for interleaving the four parts: by the compiler's model of v5e a step of the
    sampler took 22 % longer.
    """
    b, height, width, _ = x.shape
    parts = [
        convolve(x, _merged(_merged(kernel, 0, odd_row), 1, odd_column), 1, (_reach(odd_row), _reach(odd_column)))
        for odd_row in (False, True)
        for odd_column in (False, True)
    ]
    by_row = jnp.stack([jnp.stack(parts[:2], axis=3), jnp.stack(parts[2:], axis=3)], axis=2)
    return by_row.reshape(b, 2 * height, 2 * width, -1)


def _merged(kernel: Array, axis: int, odd: bool) -> Array:
    """Three rows of a kernel to two: the lower two of an even output row meet one pixel, the upper two of an odd."""
    first, second, third = jnp.split(kernel, 3, axis)
    return jnp.concatenate([first + second, third] if odd else [first, second + third], axis)


def _reach(odd: bool) -> tuple[int, int]:
    """Zeros before and after: an even output row reaches one pixel back, an odd one forward."""
    return (0, 1) if odd else (1, 0)
