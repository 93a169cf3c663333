"""The network: published sizes, the tiny convolution, dropout that does not depend on the batch."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import unet
from ddpm_jax.loop import FAST_TO_COMPILE
from ddpm_jax.unet import PRESETS, UNetConfig

TINY = UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention_resolutions=(4,), groups=4, image_channels=1)


def fresh(config: UNetConfig) -> dict:
    init = jax.jit(unet.init, static_argnums=(1, 2), compiler_options=FAST_TO_COMPILE)
    return init(jax.random.key(0), config, 8)


def size_of(config: UNetConfig, image_size: int) -> int:
    return unet.parameter_count(jax.eval_shape(lambda key: unet.init(key, config, image_size), jax.random.key(0)))


@pytest.mark.parametrize(
    ("preset", "image_size", "count"), [("cifar10", 32, 35_746_307), ("celebahq256", 256, 113_673_219)]
)
def test_presets_have_the_published_number_of_parameters(preset: str, image_size: int, count: int) -> None:
    # 35.7M and 114M in Ho et al. 2020, appendix B; counted to the last one in diffusers' ports of these networks
    assert size_of(PRESETS[preset], image_size) == count


def test_the_digits_preset_has_attention_and_half_a_million_parameters() -> None:
    config = PRESETS["digits"]
    assert size_of(config, 8) >= 500_000
    assert set(config.attention_resolutions) & {8, 4, 2}


def test_a_fresh_network_says_almost_nothing() -> None:
    params = fresh(TINY)
    output = jax.jit(unet.network(TINY))(
        params, jax.random.normal(jax.random.key(1), (2, 8, 8, 1)), jnp.array([1, 1000])
    )
    assert np.abs(output).max() < 1e-3


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_the_tiny_convolution_is_the_convolution(shape: tuple[int, int]) -> None:
    x = jax.random.normal(jax.random.key(0), (3, *shape, 5))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 5, 7))
    expected = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(unet._convolve_tiny(x, kernel), expected, rtol=1e-5, atol=1e-5)


def test_time_embedding_is_sines_and_cosines_of_t() -> None:
    frequencies = 10_000.0 ** (-np.arange(4) / 3)
    angles = 17 * frequencies
    expected = np.concatenate([np.sin(angles), np.cos(angles)])
    np.testing.assert_allclose(unet.time_embedding(jnp.array([17]), 8)[0], expected, rtol=1e-4)


def randomised(config: UNetConfig) -> dict:
    """Parameters none of which is near zero, so that every path counts."""
    shapes = jax.eval_shape(lambda key: unet.init(key, config, 8), jax.random.key(0))
    draw = np.random.default_rng(3)
    return jax.tree.map(lambda leaf: jnp.asarray(0.2 * draw.standard_normal(leaf.shape), jnp.float32), shapes)


@pytest.mark.parametrize(
    "config",
    [TINY, replace(TINY, scale_shift=True, attention_heads=2), replace(TINY, heads=2, image_channels=3)],
    ids=["plain", "scale_shift", "heads"],
)
def test_output_has_the_image_channels_and_the_heads(config: UNetConfig) -> None:
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, config.image_channels))
    output = jax.jit(unet.network(config))(randomised(config), x, jnp.array([1, 7]))
    assert output.shape == (2, 8, 8, config.image_channels * (1 + config.heads))
    assert np.isfinite(output).all()


def test_the_network_listens_to_time() -> None:
    params, x = randomised(TINY), jax.random.normal(jax.random.key(1), (1, 8, 8, 1))
    first, last = (jax.jit(unet.network(TINY))(params, x, jnp.array([t])) for t in (1, 900))
    assert np.abs(first - last).max() > 1e-2


def test_dropout_drops_its_rate_and_depends_on_the_example_alone() -> None:
    x = jnp.ones((4, 32, 32, 4))
    keys = jax.random.split(jax.random.key(0), 4)
    dropped = unet._dropout(x, 0.25, keys, 0)
    count = x.size
    assert abs(float((dropped == 0).mean()) - 0.25) < 5 * np.sqrt(0.25 * 0.75 / count)
    np.testing.assert_allclose(dropped[dropped > 0], 1 / 0.75, rtol=1e-6)
    np.testing.assert_array_equal(dropped[2:3], unet._dropout(x[2:3], 0.25, keys[2:3], 0))
    assert (unet._dropout(x, 0.25, keys, 1) != dropped).any()
    assert unet._dropout(x, 0.25, None, 0) is x


def test_an_image_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ValueError, match="image size 6 cannot be halved 2 times"):
        unet.check(replace(TINY, multipliers=(1, 2, 4)), 6)


def test_channels_that_do_not_split_into_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="8 channels do not split into 3 groups"):
        unet.check(replace(TINY, groups=3), 8)


def test_equal_configs_share_one_network_function() -> None:
    assert unet.network(TINY) is unet.network(replace(TINY))
