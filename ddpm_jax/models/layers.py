"""Layers that the U-Net is made of, written so that XLA runs them well; NHWC.

Dropout has one key per example, so that it does not depend on how a batch is split over devices.
"""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Bool, Float, Int, Key, UInt32

from ddpm_jax.diffusion import random_keys
from ddpm_jax.diffusion.random_keys import Keys
from ddpm_jax.models import ops
from ddpm_jax.runtime import sharding

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


def at_places(keys: Keys | None, places: int) -> Key[Array, "places b"] | list[None]:
    """The keys of every dropout layer, by its index, folded at once: one by one, each would cost a loop.

    Args:
      keys: one an example; None turns dropout off.
      places: how many.
    """
    if keys is None:
        return [None] * places
    return jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (None, 0))(random_keys.typed(keys), jnp.arange(places))


def dropout(x: Array, rate: float, keys: Keys | None) -> Array:
    """Dropout; what is kept is divided by 1 - rate. Srivastava et al. 2014.

    Args:
      x: (b, *x).
      rate: share that is dropped.
      keys: one an example, of this place; None turns dropout off.
    """
    if keys is None or rate == 0:
        return x
    draw, hashed = (partial(of, 1 - rate, x.shape[1:]) for of in (_drawn, _hashed))
    return jnp.where(jax.lax.platform_dependent(random_keys.typed(keys), cpu=hashed, default=draw), x / (1 - rate), 0)


def _drawn(share: float, shape: tuple[int, ...], keys: Key[Array, " b"]) -> Bool[Array, "b *x"]:
    """True with probability `share`."""
    return jax.vmap(lambda key: jax.random.bernoulli(key, np.float32(share), shape))(keys)


@partial(jax.jit, static_argnums=(0, 1))
def _hashed(share: float, shape: tuple[int, ...], keys: Key[Array, " b"]) -> Bool[Array, "b *x"]:
    """The same of keys of JAX's default kind, bit for bit, for CPUs.

    There JAX makes its random bits in a loop over arrays in memory, and XLA keeps two words a number for the gradient.
    Written out, the bits are made in one pass that leaves a byte. XLA would make them again for the gradient, but it
    makes no division twice.
    """
    words = jax.random.key_data(keys).reshape(len(keys), -1, *[1] * len(shape))
    place = jnp.arange(prod(shape), dtype=jnp.uint32).reshape(1, *shape)
    mantissa = threefry(words[:, 0], words[:, 1], place) >> 9  # as jax.random.uniform makes it
    kept = mantissa < np.uint32(np.ceil(np.float32(share) * 2**23))
    return jax.lax.div(3 * kept.astype(jnp.uint8), np.uint8(3)) == 1


def threefry(
    first: UInt32[Array, "*#x"], second: UInt32[Array, "*#x"], place: UInt32[Array, "*#x"]
) -> UInt32[Array, "*x"]:
    """The 32 random bits that `jax.random.bits` puts at a place below 2^32.

    Salmon et al. 2011, section 3.2, Threefry-2x32 of 20 rounds.

    Args:
      first: word of the key.
      second: word of the key.
      place: index in the flat array of bits.
    """
    words = (first, second, first ^ second ^ np.uint32(PARITY))
    a, b = first, place + second
    for i in range(5):
        for rotation in ROTATIONS[i % 2]:
            a = a + b
            b = (b << rotation | b >> 32 - rotation) ^ a
        a, b = a + words[(i + 1) % 3], b + words[(i + 2) % 3] + np.uint32(i + 1)
    return a ^ b


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
    index = jnp.arange(half, dtype=jnp.float32)[None]
    angles = t[:, None] * jnp.exp(-float(np.log(10_000)) * index / (half - shift))
    waves = [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate(waves[::-1] if cosine_first else waves, axis=-1)


def _beside(x: Array, values: Array | np.ndarray) -> Array:
    """A number a channel, shaped to be added to x (b, ..., c)."""
    return jnp.asarray(values).reshape(*[1] * (x.ndim - 1), -1)


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
      apart: return the bias separately, for the next layer to add.
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
        """x convolved, (b, h, w, channels); with `apart`, a tuple of this and the bias (1, 1, 1, channels)."""
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.channels), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,), jnp.float32)
        kernel, bias = jnp.asarray(kernel, x.dtype), _beside(x, jnp.asarray(bias, x.dtype))
        if self.doubled:
            h = ops.convolve_doubled(x, kernel)
        elif self.stride == 1 and max(x.shape[1:3]) <= 2:
            h = ops.convolve_tiny(x, kernel)
        else:
            h = ops.convolve(x, kernel, self.stride, ((self.before, 1), (self.before, 1)))
        return (h, bias) if self.apart else h + bias


class Shortcut(nn.Module):
    """1 x 1 convolution; parameters as in `nn.Conv`.

    On CPUs it is a matrix product: XLA's gradient of such a kernel was three times slower as a convolution. On TPUs
    that is slower: by the compiler's model of v5e a training step took 7 % longer.

    Attributes:
      channels: of the output.
    """

    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", fan_average, (1, 1, x.shape[-1], self.channels), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,), jnp.float32)
        kernel, bias = jnp.asarray(kernel, x.dtype), _beside(x, jnp.asarray(bias, x.dtype))
        return jax.lax.platform_dependent(x, kernel, cpu=_multiplied, default=_convolved) + bias


def _multiplied(x: Array, kernel: Array) -> Array:
    return ops.multiply(x, kernel[0, 0])


def _convolved(x: Array, kernel: Array) -> Array:
    return ops.convolve(x, kernel, padding=((0, 0), (0, 0)))


def _dot_general(x: Array, kernel: Array, dimensions: Any, precision: None) -> Array:
    """What `nn.Dense` asks for."""
    return ops.multiply(x, kernel)


Dense = partial(nn.Dense, kernel_init=fan_average, dot_general=_dot_general)
"""`nn.Dense` by our own product."""


class GroupNorm(nn.Module):
    """Group normalisation, in float32. Wu & He 2018, equations 1 to 6; parameters as in `nn.GroupNorm`.

    Pixels are averaged first, then the channels of a group; what is added to a channel enters through its averages.
    What is left is one multiply-add per value, which XLA fuses with the operations before and after. On CPUs that pass
    is rematerialised for the gradient from x and the averages: a step was faster so, though XLA computes part of it
    early and holds it. On GPUs XLA does so by itself; on TPUs it is slower: by the compiler's model of v5e a training
    step took 5 % longer.

    Attributes:
      groups: of channels.
      after: activation of the result, such as swish; pass one function as one object, or it is traced again.
      epsilon: added to the variance.
    """

    groups: int
    after: Callable[[Array], Array] = jnp.asarray
    epsilon: float = 1e-6

    @nn.compact
    def __call__(
        self, x: Array, plus: Array | None = None, factor: Array | float = 1.0, shift: Array | float = 0.0
    ) -> Array:
        """after(normalised(x + plus) * factor + shift); all three alike for all pixels: (b or 1, 1, .., 1, c)."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        scale, bias = _beside(x, scale), _beside(x, bias)
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
    generation = sharding.cuda_generation() if q.dtype == jnp.bfloat16 else 0
    return generation >= AMPERE and q.shape[-1] % 8 == 0 and q.shape[-1] <= (256 if generation >= HOPPER else 128)
