"""The network of Ho et al. 2020 (appendix B): a U-Net with residual blocks and self-attention, in Flax linen.

A stateless function of (params, x_t, t): `network(config)` is all that the rest of the project takes from here. Layout
is NHWC; t is the article's 1..T.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Key

from ddpm_jax.diffusion import random_keys
from ddpm_jax.diffusion.random_keys import Keys, OneKey
from ddpm_jax.models.layers import (
    Convolution,
    Dense,
    GroupNorm,
    Shortcut,
    almost_zero,
    at_places,
    attention,
    dropout,
    time_embedding,
)

VERSION = 1  # raised by hand when what a network or the denoiser made of it says changes: unet, layers, ops, denoiser


@dataclass(frozen=True)
class UNetConfig:
    """The shape of a U-Net. Defaults are Ho et al.'s CIFAR-10 network.

    Attributes:
      channels: of the first level.
      multipliers: of `channels`, one per level; each level after the first halves the image.
      blocks: residual blocks a level going down; one more going up.
      attention_levels: those, counted from 0, whose every residual block is followed by attention.
      attention_heads: number of heads.
      head_channels: of a head; where given, as many heads as their channels make.
      groups: of GroupNorm.
      norm_epsilon: added to GroupNorm's variances.
      downsample_padding: zeros before an image's first row and column where it is halved, 0 or 1; see `Convolution`.
      time_start: what the network is given as t at the first noise level, our t = 1.
      time_scale: by which it is multiplied.
      frequency_shift: of the time's sinusoids, see `time_embedding`.
      cosine_first: cosines of the time before its sines.
      dropout: rate before the second convolution of a block.
      scale_shift: time enters as scale and shift of the second GroupNorm (Nichol & Dhariwal 2021), not as a sum.
      image_channels: of the data.
      heads: extra outputs per image channel, for variances that ask for them.
      activations: their precision, float32 or bfloat16; parameters, statistics and the last layer's sums are float32.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 2
    attention_levels: tuple[int, ...] = (1,)
    attention_heads: int = 1
    head_channels: int | None = None
    groups: int = 32
    norm_epsilon: float = 1e-6
    downsample_padding: int = 0
    time_start: int = 1
    time_scale: float = 1.0
    frequency_shift: int = 1
    cosine_first: bool = False
    dropout: float = 0.1
    scale_shift: bool = False
    image_channels: int = 3
    heads: int = 0
    activations: str = "float32"


PRESETS: dict[str, UNetConfig] = {
    "cifar10": UNetConfig(),
    "celebahq256": UNetConfig(multipliers=(1, 1, 2, 2, 4, 4), attention_levels=(4,), dropout=0.0),
    "digits": UNetConfig(
        channels=16,
        multipliers=(1, 2, 4),
        blocks=1,
        attention_levels=(1,),
        groups=8,
        dropout=0.0,
        image_channels=1,
    ),
    "mnist": UNetConfig(
        channels=16,
        multipliers=(1, 2, 4),
        blocks=1,
        attention_levels=(2,),
        groups=8,
        dropout=0.0,
        image_channels=1,
    ),
    "cifar10_small": UNetConfig(
        channels=32,
        multipliers=(1, 2, 2),
        blocks=1,
        attention_levels=(2,),
        groups=8,
        dropout=0.0,
    ),
}

HEAD_SIZES: dict[str, UNetConfig] = {
    "narrow": UNetConfig(channels=16, multipliers=(1, 2), blocks=1, attention_levels=(), groups=8, dropout=0.0),
    "wide": UNetConfig(channels=32, multipliers=(1, 2, 2), blocks=1, attention_levels=(), groups=8, dropout=0.0),
}
"""Networks of their own for heads on a frozen denoiser, by size."""


class ResidualBlock(nn.Module):
    """GroupNorm, swish, 3 x 3 convolution, twice; time between them; a 1 x 1 shortcut where channels change."""

    config: UNetConfig
    channels: int

    @nn.compact
    def __call__(self, x: Array, time: Array, keys: Key[Array, " b"] | None) -> Array:
        config = self.config
        norm = partial(GroupNorm, config.groups, nn.swish, config.norm_epsilon)
        h = norm()(x)
        h, bias = Convolution(self.channels, apart=True)(h)
        width = 2 * self.channels if config.scale_shift else self.channels
        time = Dense(width)(nn.swish(time))[:, None, None]
        if config.scale_shift:
            scale, shift = jnp.split(time, 2, axis=-1)
            h = norm()(h, bias, 1 + scale, shift)
        else:
            h = norm()(h, bias + time)
        h = dropout(h, config.dropout, keys)
        h = Convolution(self.channels, kernel_init=almost_zero)(h)
        if x.shape[-1] != self.channels:
            x = Shortcut(self.channels, name="Conv_0")(x)
        return x + h


class Attention(nn.Module):
    """Self-attention over the pixels, added to its input. Ho et al. 2020, appendix B."""

    config: UNetConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        config, (b, height, width, channels) = self.config, x.shape
        h = GroupNorm(config.groups, epsilon=config.norm_epsilon)(x).reshape(b, height * width, channels)
        heads = channels // config.head_channels if config.head_channels else config.attention_heads
        shape = (b, height * width, heads, -1)
        q, k, v = (Dense(channels, name=name)(h).reshape(shape) for name in "qkv")
        h = attention(q, k, v).reshape(b, height * width, channels)
        h = Dense(channels, kernel_init=almost_zero, name="out")(h)
        return x + h.reshape(x.shape)


def _told(config: UNetConfig, t: Array) -> Array:
    """The time as a network is told it, from its own start and on its own scale."""
    t = jnp.asarray(t - 1 + config.time_start, jnp.float32) * config.time_scale
    return time_embedding(t, config.channels, config.frequency_shift, config.cosine_first)


class UNet(nn.Module):
    """Down through the levels, a middle with attention, and up again with a skip from every block on the way down.

    Attributes:
      config: its shape.
      remat: rematerialise each residual block and attention in the backward pass: Chen et al. 2016.
    """

    config: UNetConfig
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], t: Int[Array, " b"], keys: Keys | None = None) -> Array:
        """(x_t, t) -> (b, h, w, image_channels (1 + heads)); `keys`, one per example, turn dropout on."""
        config = self.config
        time = _told(config, t).astype(x.dtype)
        time = Dense(4 * config.channels)(time)
        time = Dense(4 * config.channels)(nn.swish(time))
        kept: Callable[[Any], Any] = nn.remat if self.remat else lambda kind: kind
        count_of_blocks = len(config.multipliers) * (2 * config.blocks + 1) + 2
        blocks, attentions = enumerate(at_places(keys, count_of_blocks)), count()

        def block(h: Array, channels: int) -> Array:
            index, own_keys = next(blocks)
            return kept(ResidualBlock)(config, channels, name=f"ResidualBlock_{index}")(h, time, own_keys)

        def attend(h: Array) -> Array:
            return kept(Attention)(config, name=f"Attention_{next(attentions)}")(h)

        def at_level(h: Array, level: int) -> Array:
            h = block(h, config.channels * config.multipliers[level])
            return attend(h) if level in config.attention_levels else h

        h = Convolution(config.channels)(x)
        skips = [h]
        for level in range(len(config.multipliers)):
            if level:
                skips.append(h := Convolution(h.shape[-1], stride=2, before=config.downsample_padding)(h))
            for _ in range(config.blocks):
                skips.append(h := at_level(h, level))

        h = attend(block(h, h.shape[-1]))
        h = block(h, h.shape[-1])

        for level in reversed(range(len(config.multipliers))):
            for _ in range(config.blocks + 1):
                h = at_level(jnp.concatenate([h, skips.pop()], axis=-1), level)
            if level:
                h = Convolution(h.shape[-1], doubled=True)(h)

        h = GroupNorm(config.groups, nn.swish, config.norm_epsilon)(h.astype(jnp.float32))
        return Convolution(config.image_channels * (1 + config.heads), kernel_init=almost_zero)(h)


@lru_cache
def network(config: UNetConfig, remat: bool = False) -> Callable[..., Any]:
    """network(params, x_t, t, dropout_keys=None) -> output; the same object for equal arguments.

    Args:
      config: its shape.
      remat: see UNet; parameters and output are the same.
    """
    apply = UNet(config, remat).apply
    if config.activations == "float32":
        return apply

    def rounded(params: Any, x_t: Array, t: Array, keys: Keys | None = None) -> Any:
        params, x_t = jax.tree.map(lambda x: x.astype(config.activations), (params, x_t))
        return apply(params, x_t, t, keys)

    return rounded


def init(key: OneKey, config: UNetConfig, image_size: int) -> Mapping[str, Any]:
    """Fresh parameters, a nested dict of float32 arrays. Jit it: hundreds of random draws.

    Raises:
      ValueError: the image cannot be halved as often as there are levels, a level of attention is none of them, or
        channels do not split into groups.
    """
    check(config, image_size)
    x = jnp.zeros((1, image_size, image_size, config.image_channels), jnp.float32)
    return UNet(config).init(random_keys.typed(key), x, jnp.ones(1, jnp.int32))


@lru_cache
def shapes(config: UNetConfig) -> Mapping[str, Any]:
    """Shapes and dtypes of the parameters that `init` makes, for images of any size.

    Raises:
      ValueError: see `init`.
    """
    size = 2 ** (len(config.multipliers) - 1)
    return jax.eval_shape(lambda: init(jax.random.key(0), config, size))


def check(config: UNetConfig, image_size: int) -> None:
    """Refuse a network that does not fit the images.

    Raises:
      ValueError: see `init`.
    """
    if config.activations not in ("float32", "bfloat16"):
        raise ValueError(f"activations {config.activations!r}: choose float32 or bfloat16")
    halvings = len(config.multipliers) - 1
    if image_size % 2**halvings:
        raise ValueError(f"image size {image_size} cannot be halved {halvings} times: use fewer multipliers")
    if not {*config.attention_levels} <= {*range(halvings + 1)}:
        raise ValueError(f"attention_levels {config.attention_levels}: levels are counted from 0 to {halvings}")
    for level, multiplier in enumerate(config.multipliers):
        channels, width = config.channels * multiplier, config.head_channels
        if channels % config.groups:
            raise ValueError(f"{channels} channels do not split into {config.groups} groups")
        if level not in {*config.attention_levels, halvings}:  # in the middle of the last there is attention, too
            continue
        if width and channels % width:
            raise ValueError(f"{channels} channels do not split into heads of head_channels = {width}")
        if not width and channels % config.attention_heads:
            raise ValueError(f"{channels} channels do not split into {config.attention_heads} attention_heads")


def parameter_count(params: Mapping[str, Any]) -> int:
    """The number of trainable parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
