"""The network: published sizes, its blocks against NumPy, what it refuses."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.special import softmax

from ddpm_jax.models import unet
from ddpm_jax.models.unet import PRESETS, UNetConfig
from ddpm_jax.training.loop import FAST_TO_COMPILE
from tests.models.test_layers import convolve, group_norm, random_params

TINY = UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention_levels=(1,), groups=4, image_channels=1)
# three residual blocks and attention: quick to compile
LEAST = replace(TINY, multipliers=(1,), blocks=0, attention_levels=())


def fresh(config: UNetConfig) -> dict:
    init = jax.jit(unet.init, static_argnums=(1, 2), compiler_options=FAST_TO_COMPILE)
    return init(jax.random.key(0), config, 8)


@pytest.mark.parametrize(("preset", "count"), [("cifar10", 35_746_307), ("celebahq256", 113_673_219)])
def test_presets_have_the_published_number_of_parameters(preset: str, count: int) -> None:
    # 35.7M and 114M in Ho et al. 2020, appendix B; counted to the last one in diffusers' ports of these networks
    assert unet.parameter_count(unet.shapes(PRESETS[preset])) == count


def test_the_digits_preset_has_attention_and_half_a_million_parameters() -> None:
    config = PRESETS["digits"]
    assert unet.parameter_count(unet.shapes(config)) >= 500_000
    assert config.attention_levels


@pytest.mark.slow
def test_blocks_made_again_for_the_gradient_are_the_same_network_with_less_kept() -> None:
    """The same names and numbers, the same gradient under dropout; what waits for the gradient is less than half."""
    config, again = replace(LEAST, dropout=0.5), unet.network(replace(LEAST, dropout=0.5), remat=True)
    params, keys = fresh(config), jax.random.split(jax.random.key(2), 3)
    x, t = jax.random.normal(jax.random.key(1), (3, 8, 8, 1)), jnp.asarray([1, 5, 9])
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(
        jnp.shape, jax.eval_shape(unet.UNet(config, remat=True).init, jax.random.key(0), x, t)
    )
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # the last layers start at nearly 0
    gradients, kept = [], []
    for network in (unet.network(config), again):

        def of(params: dict, network: Callable = network) -> jax.Array:
            return network(params, x, t, keys)

        pulled = jax.eval_shape(lambda params, of=of: jax.vjp(of, params)[1], params)
        kept.append(sum(leaf.size for leaf in jax.tree.leaves(pulled)))
        gradient = jax.jit(jax.grad(lambda params, of=of: (of(params) ** 2).sum()))(params)
        gradients.append(ravel_pytree(gradient)[0])
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-5 * float(jnp.abs(gradients[0]).max()))
    inputs = unet.parameter_count(params)
    assert 0 < kept[1] - inputs < 0.5 * (kept[0] - inputs)


def by_hand(config: UNetConfig) -> int:
    """The numbers in a network, block by block: 9 i o + o of a convolution, i o + o of a matrix, 2 c of a norm."""

    def conv(i: int, o: int) -> int:
        return 9 * i * o + o

    def dense(i: int, o: int) -> int:
        return i * o + o

    def block(i: int, o: int) -> int:
        shortcut = dense(i, o) if i != o else 0
        return 2 * i + conv(i, o) + dense(4 * config.channels, o) + 2 * o + conv(o, o) + shortcut

    def attend(c: int) -> int:
        return 2 * c + 4 * dense(c, c)

    def level(i: int, o: int, depth: int) -> int:
        return block(i, o) + (attend(o) if depth in config.attention_levels else 0)

    first = config.channels
    widths = [first * multiplier for multiplier in config.multipliers]
    total = dense(first, 4 * first) + dense(4 * first, 4 * first) + conv(config.image_channels, first)
    skips, here = [first], first
    for depth, width in enumerate(widths):
        if depth:
            total += conv(here, here)
            skips.append(here)
        for _ in range(config.blocks):
            total += level(here, width, depth)
            here = width
            skips.append(here)
    total += 2 * block(here, here) + attend(here)
    for depth, width in reversed(list(enumerate(widths))):
        for _ in range(config.blocks + 1):
            total += level(here + skips.pop(), width, depth)
            here = width
        total += conv(here, here) if depth else 0
    return total + 2 * here + conv(here, config.image_channels)


@pytest.mark.parametrize(
    ("preset", "size"), [("digits", 8), ("mnist", 28), ("cifar10_small", 16), ("cifar10_small", 32)]
)
def test_presets_fit_their_images_and_have_the_parameters_of_their_blocks(preset: str, size: int) -> None:
    config = PRESETS[preset]
    params = unet.shapes(config)
    assert unet.parameter_count(params) == by_hand(config)
    image = jax.ShapeDtypeStruct((2, size, size, config.image_channels), jnp.float32)
    output = jax.eval_shape(unet.network(config), params, image, jax.ShapeDtypeStruct((2,), jnp.int32))
    assert output.shape == image.shape


DEEPER = replace(TINY, multipliers=(1, 1, 2), blocks=2)


@pytest.mark.parametrize("config", [TINY, pytest.param(DEEPER, marks=pytest.mark.slow)])
def test_every_block_drops_by_keys_of_its_own(config: UNetConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    params, keys = randomised(config), jax.random.split(jax.random.key(3), 2)

    traced: list[jax.Array] = []
    monkeypatch.setattr(unet, "dropout", lambda h, rate, keys: traced.append(keys) or h)

    @jax.jit
    def used_by_blocks(params: dict, keys: jax.Array) -> list[jax.Array]:
        unet.UNet(config).apply(params, jnp.zeros((2, 8, 8, 1)), jnp.array([1, 2]), keys)
        return traced

    used = used_by_blocks(params, keys)
    assert len(used) == sum(name.startswith("ResidualBlock") for name in params["params"])
    for index, found in enumerate(used):
        assert (found == jax.vmap(jax.random.fold_in, (0, None))(keys, index)).all()


def test_a_fresh_network_says_almost_nothing() -> None:
    params = fresh(LEAST)
    output = jax.jit(unet.network(LEAST))(
        params, jax.random.normal(jax.random.key(1), (2, 8, 8, 1)), jnp.array([1, 1000])
    )
    assert np.abs(output).max() < 1e-3


def randomised(config: UNetConfig) -> dict:
    """Parameters none of which is near zero, so that every path counts."""
    shapes = unet.shapes(config)
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


def test_the_network_is_told_the_time_from_its_own_start_and_on_its_own_scale() -> None:
    params, x = randomised(TINY), jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    from_zero = replace(TINY, time_start=0, time_scale=2.0)
    found = unet.network(from_zero)(params, x, jnp.array([4, 11]))
    np.testing.assert_allclose(found, unet.network(TINY)(params, x, jnp.array([6, 20])), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "changed",
    [{"norm_epsilon": 0.1}, {"downsample_padding": 1}, {"frequency_shift": 0}, {"cosine_first": True}],
    ids=str,
)
def test_conventions_of_other_networks_reach_the_layers(changed: dict) -> None:
    params, x = randomised(TINY), jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    found = unet.network(replace(TINY, **changed))(params, x, jnp.array([4, 11]))
    assert np.abs(found - unet.network(TINY)(params, x, jnp.array([4, 11]))).max() > 1e-3


def dense(x: np.ndarray, p: dict) -> np.ndarray:
    return np.asarray(x) @ p["kernel"] + p["bias"]


def swish(x: np.ndarray) -> np.ndarray:
    return np.asarray(x) / (1 + np.exp(-np.asarray(x)))


@pytest.mark.parametrize(
    ("heads", "given"), [(1, {}), (2, {"attention_heads": 2}), (4, {"attention_heads": 2, "head_channels": 2})]
)
def test_attention_is_a_softmax_over_the_pixels_added_to_its_input(heads: int, given: dict) -> None:
    config = replace(TINY, **given)
    x, layer = jax.random.normal(jax.random.key(1), (2, 3, 3, 8)), unet.Attention(config)
    p = random_params(layer, x)
    h = group_norm(x, 4, p["GroupNorm_0"]).reshape(2, 9, 8)
    q, k, v = (dense(h, p[name]).reshape(2, 9, heads, 8 // heads) for name in "qkv")
    weights = softmax(np.einsum("bihd,bjhd->bhij", q, k) / np.sqrt(8 // heads), axis=-1)
    mixed = dense(np.einsum("bhij,bjhd->bihd", weights, v).reshape(2, 9, 8), p["out"])
    np.testing.assert_allclose(layer.apply({"params": p}, x), x + mixed.reshape(x.shape), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale_shift", [False, True])
def test_a_residual_block_is_two_convolutions_with_time_between_and_a_shortcut(scale_shift: bool) -> None:
    config = replace(TINY, scale_shift=scale_shift)
    x, time = jax.random.normal(jax.random.key(1), (2, 4, 4, 8)), jax.random.normal(jax.random.key(2), (2, 12))
    layer = unet.ResidualBlock(config, 16)
    p = random_params(layer, x, time, None)
    h = convolve(swish(group_norm(x, 4, p["GroupNorm_0"])), p["Convolution_0"])
    told = dense(swish(time), p["Dense_0"])[:, None, None]
    if scale_shift:
        h = group_norm(h, 4, p["GroupNorm_1"]) * (1 + told[..., :16]) + told[..., 16:]
    else:
        h = group_norm(h + told, 4, p["GroupNorm_1"])
    h = convolve(swish(h), p["Convolution_1"])
    shortcut = np.asarray(x) @ p["Conv_0"]["kernel"][0, 0] + p["Conv_0"]["bias"]
    np.testing.assert_allclose(layer.apply({"params": p}, x, time, None), shortcut + h, rtol=1e-3, atol=1e-3)


def test_an_image_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ValueError, match="image size 6 cannot be halved 2 times"):
        unet.check(replace(TINY, multipliers=(1, 2, 4)), 6)


def test_channels_that_do_not_split_into_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="8 channels do not split into 3 groups"):
        unet.check(replace(TINY, groups=3), 8)


def test_channels_that_do_not_split_into_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="16 channels do not split into heads of head_channels = 3"):
        unet.check(replace(TINY, head_channels=3), 8)


def test_attention_at_a_level_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"attention_levels \(0, 2\): levels are counted from 0 to 1"):
        unet.check(replace(TINY, attention_levels=(0, 2)), 8)


def test_equal_configs_share_one_network_function() -> None:
    assert unet.network(TINY) is unet.network(replace(TINY))


def test_parameters_have_the_same_shapes_for_images_of_any_size() -> None:
    of_16 = jax.eval_shape(lambda: unet.init(jax.random.key(0), TINY, 16))
    assert jax.tree.map(jnp.shape, unet.shapes(TINY)) == jax.tree.map(jnp.shape, of_16)
