"""Layers that the U-Net is made of, written so that XLA runs them well; NHWC."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero, linear_call
from jaxtyping import Float, Int

from ddpm_jax import devices

AMPERE, HOPPER = 8, 9  # NVIDIA's generations
fan_average = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
almost_zero = nn.initializers.variance_scaling(1e-10, "fan_avg", "uniform")


def time_embedding(
    t: Int[Array, " b"] | Float[Array, " b"], channels: int, shift: int = 1, cosine_first: bool = False
) -> Float[Array, "b c"]:
    """Sinusoids of t, of frequencies 10,000^(-i / (channels / 2 - shift)). Vaswani et al. 2017, section 3.5.

    Args:
      t: times.
      channels: even.
      shift: with 1 the last frequency is 1 / 10,000, as in Ho et al. 2020; with 0 that would be the next one.
      cosine_first: cosines before sines.
    """
    half = channels // 2
    angles = t[:, None] * jnp.exp(-np.log(10_000) * jnp.arange(half) / (half - shift))
    waves = [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate(waves[::-1] if cosine_first else waves, axis=-1)


class Convolution(nn.Module):
    """3 x 3 convolution with zero padding; parameters as in `nn.Conv`.

    Images of at most 2 x 2 pixels are multiplied by one matrix (every pixel reaches every other), which XLA's CPU
    backend did 14 to 21 times faster than its convolution (forward, 128 images, 64 and 128 channels, jax 0.10.2).

    Attributes:
      channels: of the output.
      stride: 2 halves the image.
      before: zeros before the first row and the first column; after the last there is one. Where an image is halved Ho
        et al. 2020 have none, others one.
      doubled: convolve the image at twice its size, every pixel repeated.
      apart: give the bias beside the result, not in it, for what comes next to add.
      kernel_init: of the kernel.
    """

    channels: int
    stride: int = 1
    before: int = 1
    doubled: bool = False
    apart: bool = False
    kernel_init: Callable = fan_average

    @nn.compact
    def __call__(self, x: Array) -> Any:
        """x convolved, (b, h, w, channels); or this and the bias, `apart`."""
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.channels))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        kernel, bias = jnp.asarray(kernel, x.dtype), jnp.asarray(bias, x.dtype)
        if self.doubled:
            h = jax.lax.platform_dependent(x, kernel, tpu=_double_and_convolve, default=_convolve_doubled)
        elif self.stride == 1 and max(x.shape[1:3]) <= 2:
            h = _convolve_tiny(x, kernel)
        else:
            h = _convolve_and_turn_late(x, kernel, self.stride, 2 * ((self.before, 1),))
        return (h, bias) if self.apart else h + bias


class Shortcut(nn.Module):
    """1 x 1 convolution; parameters as in `nn.Conv`.

    CPUs multiply by a matrix: XLA's gradient of such a kernel was three times slower as a convolution. TPUs would pay:
    by the compiler's model of v5e a training step took 7 % longer.

    Attributes:
      channels: of the output.
    """

    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", fan_average, (1, 1, x.shape[-1], self.channels))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        kernel, bias = jnp.asarray(kernel, x.dtype), jnp.asarray(bias, x.dtype)
        return jax.lax.platform_dependent(x, kernel, cpu=_multiply, default=_convolve) + bias


def _multiply(x: Array, kernel: Array) -> Array:
    return x @ kernel[0, 0]


def _convolve(x: Array, kernel: Array, stride: int = 1, padding: str | tuple = "SAME") -> Array:
    axes = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=axes)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _convolve_and_turn_late(x: Array, kernel: Array, stride: int, padding: tuple) -> Array:
    """The same; CPUs turn the kernel round, for the gradient of x, when that of the result is there.

    XLA's CPU backend would turn all kernels as soon as it can, once for all microbatches, and hold them: a tenth of a
    GiB of `cifar10`.
    """

    def along(kernel: Array, x: Array) -> Array:
        return _convolve(x, kernel, stride, padding)

    def back(kernel: Array, gradient: Array) -> Array:
        kernel = jax.lax.platform_dependent(kernel, gradient, cpu=devices.when_there, default=lambda kernel, _: kernel)
        return jax.linear_transpose(partial(along, kernel), x)(gradient)[0]

    return linear_call(along, back, kernel, x)


@partial(_convolve_and_turn_late.defjvp, symbolic_zeros=True)
def _(stride: int, padding: tuple, primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Any]:
    (x, kernel), (dx, dkernel) = primals, tangents
    by_x = 0 if isinstance(dx, SymbolicZero) else _convolve_and_turn_late(dx, kernel, stride, padding)
    by_kernel = 0 if isinstance(dkernel, SymbolicZero) else _convolve(x, dkernel, stride, padding)
    return _convolve(x, kernel, stride, padding), by_x + by_kernel


def _convolve_tiny(x: Array, kernel: Array) -> Array:
    """The convolution of images of at most 2 x 2 pixels as one matrix product."""
    b, height, width, _ = x.shape
    pixels = list(np.ndindex(height, width))
    matrix = jnp.block([[kernel[y - i + 1, z - j + 1] for i, j in pixels] for y, z in pixels])
    return (x.reshape(b, -1) @ matrix).reshape(b, height, width, -1)


def _double_and_convolve(x: Array, kernel: Array) -> Array:
    """The convolution of an image of repeated pixels."""
    b, height, width, channels = x.shape
    repeated = jnp.broadcast_to(x[:, :, None, :, None], (b, height, 2, width, 2, channels))
    return _convolve(repeated.reshape(b, 2 * height, 2 * width, channels), kernel)


def _convolve_doubled(x: Array, kernel: Array) -> Array:
    """The same as four 2 x 2 convolutions of the image itself, for CPUs and GPUs.

    A 3 x 3 window over repeated pixels sees 2 x 2 different ones; which rows and columns of the kernel meet the same
    pixel depends on whether the output's row and column are even or odd. 16 products a pixel in place of 36, and the
    large image is never made. Shi et al. 2016, appendix (sub-pixel convolution). A training step of `cifar10` took .975
    of the time on an H200. TPUs would pay for interleaving the four parts: by the compiler's model of v5e a step of the
    sampler took 22 % longer.
    """
    b, height, width, _ = x.shape
    parts = [
        _convolve(x, _merged(_merged(kernel, 0, odd_row), 1, odd_column), 1, (_reach(odd_row), _reach(odd_column)))
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


class GroupNorm(nn.Module):
    """Group normalisation, in float32. Wu & He 2018, equations 1 to 6; parameters as in `nn.GroupNorm`.

    Pixels are averaged first and the channels of a group after, and what is added to a channel is worked into its
    averages. What is left is one product and one sum a value, which XLA makes in one pass with what comes before and
    after. For the gradient CPUs are asked to keep x and the averages alone and to make that pass again: a step was
    faster so, though XLA makes part of it early and holds it. On GPUs XLA does so by itself; TPUs would pay: by the
    compiler's model of v5e a training step took 5 % longer.

    Attributes:
      groups: of channels.
      after: what becomes of the result, such as a swish; the same object wherever it is the same function.
      epsilon: added to the variance.
    """

    groups: int
    after: Callable[[Array], Array] = jnp.asarray
    epsilon: float = 1e-6

    @nn.compact
    def __call__(
        self, x: Array, plus: Array | None = None, factor: Array | float = 1.0, shift: Array | float = 0.0
    ) -> Array:
        """after(normalised(x + plus) * factor + shift); all three alike for all pixels: (b, 1, .., 1, c) or (c,)."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        attributes = self.groups, self.after, self.epsilon
        return _normalised(attributes, x, plus, scale * factor, bias * factor + shift)


@partial(jax.jit, static_argnums=0)
def _normalised(attributes: tuple, x: Array, plus: Array | None, scale: Array, bias: Array) -> Array:
    """As of GroupNorm. Jitted, so that it is traced once for all places in a network that look alike."""
    groups, after, epsilon = attributes
    channels, axes = x.shape[-1], tuple(range(1, x.ndim - 1))

    def made(x: Array, plus: Array | None, scale: Array, bias: Array) -> Array:
        wide = x.astype(jnp.float32)

        def of_group(values: Array) -> Array:
            means = values.reshape(len(x), groups, -1).mean(axis=-1)
            means = jnp.repeat(means, channels // groups, axis=-1).reshape(len(x), *[1] * len(axes), channels)
            return checkpoint_name(means, "averages")

        mean, square = wide.mean(axes, keepdims=True), (wide**2).mean(axes, keepdims=True)
        if plus is not None:
            mean, square = mean + plus, square + (2 * mean + plus) * plus
        mean, square = of_group(mean), of_group(square)
        factor = scale * jax.lax.rsqrt(jnp.maximum(square - mean**2, 0) + epsilon)
        centre = mean if plus is None else mean - plus
        return after((wide * factor + (bias - centre * factor)).astype(x.dtype))

    again = jax.checkpoint(made, policy=jax.checkpoint_policies.save_only_these_names("averages"))
    return jax.lax.platform_dependent(x, plus, scale, bias, cpu=again, default=made)


def attention(
    q: Float[Array, "b n heads c"], k: Float[Array, "b n heads c"], v: Float[Array, "b n heads c"]
) -> Float[Array, "b n heads c"]:
    """softmax(q k' / sqrt(c)) v of every head. Vaswani et al. 2017, equation 1.

    cuDNN never writes the (b, heads, n, n) products to memory; it takes bfloat16 alone.
    """
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn" if _cudnn_takes(q) else "xla")


def _cudnn_takes(q: Array) -> bool:
    """Whether cuDNN has attention of this precision, with heads as wide as these: 256 from Hopper on, 128 before."""
    generation = devices.cuda_generation() if q.dtype == jnp.bfloat16 else 0
    return generation >= AMPERE and q.shape[-1] % 8 == 0 and q.shape[-1] <= (256 if generation >= HOPPER else 128)
