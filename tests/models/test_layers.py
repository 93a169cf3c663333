"""The layers against NumPy and against plain convolutions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from ddpm_jax.models import layers
from ddpm_jax.runtime import sharding


def random_params(layer: nn.Module, *inputs: jax.Array | None) -> dict:
    """Parameters of one layer, none of them near zero, by name."""
    shapes = jax.eval_shape(lambda key: layer.init(key, *inputs), jax.random.key(0))["params"]
    draw = np.random.default_rng(4)
    return jax.tree.map(lambda leaf: 0.5 * draw.standard_normal(leaf.shape).astype(np.float32), shapes)


def group_norm(x: np.ndarray, groups: int, p: dict, epsilon: float = 1e-6) -> np.ndarray:
    split = np.asarray(x).reshape(len(x), -1, groups, x.shape[-1] // groups)
    centred = split - split.mean((1, 3), keepdims=True)
    return (centred / np.sqrt(split.var((1, 3), keepdims=True) + epsilon)).reshape(x.shape) * p["scale"] + p["bias"]


def convolve(x: np.ndarray, p: dict) -> np.ndarray:
    """Every output pixel looks at its 3 x 3 neighbours, zeros outside."""
    height, width = x.shape[1:3]
    wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [(wide[:, i : i + height, j : j + width], p["kernel"][i, j]) for i in range(3) for j in range(3)]
    return sum(part @ kernel for part, kernel in shifted) + p["bias"]


def test_time_embedding_is_sines_and_cosines_of_t() -> None:
    frequencies = 10_000.0 ** (-np.arange(4) / 3)
    angles = 17 * frequencies
    expected = np.concatenate([np.sin(angles), np.cos(angles)])
    np.testing.assert_allclose(layers.time_embedding(jnp.array([17]), 8)[0], expected, rtol=1e-4)


def test_time_embedding_of_nichol_and_dhariwal_has_cosines_first_and_a_shorter_longest_wave() -> None:
    angles = 17.5 * 10_000.0 ** (-np.arange(4) / 4)
    expected = np.concatenate([np.cos(angles), np.sin(angles)])
    found = layers.time_embedding(jnp.array([17.5]), 8, shift=0, cosine_first=True)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("before", [0, 1])
def test_an_image_is_halved_with_and_without_zeros_before_it(before: int) -> None:
    x, layer = jax.random.normal(jax.random.key(0), (3, 6, 4, 5)), layers.Convolution(7, stride=2, before=before)
    p = random_params(layer, x)
    centres = convolve(np.asarray(x), p)[:, 1 - before :: 2, 1 - before :: 2]
    np.testing.assert_allclose(layer.apply({"params": p}, x), centres, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("generation", "kind", "width", "how"),
    [
        (0, "bfloat16", 64, "xla"),
        (7, "bfloat16", 64, "xla"),
        (8, "bfloat16", 64, "cudnn"),
        (8, "float32", 64, "xla"),
        (8, "bfloat16", 60, "xla"),
        (8, "bfloat16", 128, "cudnn"),
        (8, "bfloat16", 256, "xla"),
        (9, "bfloat16", 256, "cudnn"),
        (9, "bfloat16", 512, "xla"),
        (10, "bfloat16", 256, "cudnn"),
    ],
)
def test_cudnn_attends_where_it_takes_the_precision_and_the_heads(
    monkeypatch: pytest.MonkeyPatch, generation: int, kind: str, width: int, how: str
) -> None:
    monkeypatch.setattr(sharding, "cuda_generation", lambda: generation)
    asked = []
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda q, k, v, implementation: asked.append(implementation) or q
    )
    q = jnp.zeros((2, 4, 1, width), kind)
    layers.attention(q, q, q)
    assert asked == [how]


@pytest.mark.parametrize(("groups", "shape"), [(4, (2, 3, 5, 8)), (1, (2, 9, 8)), (8, (3, 2, 2, 8))])
def test_group_norm_is_of_the_pixels_and_channels_of_a_group(groups: int, shape: tuple[int, ...]) -> None:
    x, layer = 3 + 2 * jax.random.normal(jax.random.key(1), shape), layers.GroupNorm(groups)
    p = random_params(layer, x)
    np.testing.assert_allclose(layer.apply({"params": p}, x), group_norm(x, groups, p), rtol=1e-4, atol=1e-4)
    other = layers.GroupNorm(groups, epsilon=0.5).apply({"params": p}, x)
    np.testing.assert_allclose(other, group_norm(x, groups, p, 0.5), rtol=1e-4, atol=1e-4)
    flax = nn.GroupNorm(groups, epsilon=1e-6)
    np.testing.assert_allclose(layer.apply({"params": p}, x), flax.apply({"params": p}, x), rtol=1e-4, atol=1e-4)


def test_group_norm_and_what_is_around_it_have_their_gradients() -> None:
    x = jax.random.normal(jax.random.key(1), (2, 3, 5, 8))
    plus, factor, shift = jax.random.normal(jax.random.key(2), (3, 2, 1, 1, 8))
    p, flax = random_params(layers.GroupNorm(4), x), nn.GroupNorm(4, epsilon=1e-6)

    def ours(p: dict, x: Array, plus: Array, factor: Array, shift: Array) -> Array:
        return layers.GroupNorm(4, nn.swish).apply({"params": p}, x, plus, factor, shift)

    def theirs(p: dict, x: Array, plus: Array, factor: Array, shift: Array) -> Array:
        return nn.swish(flax.apply({"params": p}, x + plus) * factor + shift)

    weights, arguments = jax.random.normal(jax.random.key(3), x.shape), (p, x, plus, factor, shift)
    found, expected = (
        jax.grad(lambda *of, f=f: (weights * f(*of)).sum(), argnums=tuple(range(5)))(*arguments) for f in (ours, theirs)
    )
    for mine, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-4)
    forward = [jax.jvp(f, arguments, jax.tree.map(jnp.ones_like, arguments))[1] for f in (ours, theirs)]
    np.testing.assert_allclose(*forward, rtol=1e-3, atol=1e-4)


def test_for_its_gradient_cpus_alone_make_the_swish_again_but_not_the_averages() -> None:
    x, layer = jax.random.normal(jax.random.key(1), (2, 9, 9, 8)), layers.GroupNorm(4, nn.swish)
    p = random_params(layer, x)
    traced = jax.jit(jax.grad(lambda x: (layer.apply({"params": p}, x) ** 2).sum())).trace(x)
    cpu, tpu, cuda = (traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "tpu", "cuda"))
    ours, *others = (text.count("stablehlo.exponential") for text in (cpu, tpu, cuda))
    assert [2 * other for other in others] == [ours, ours] and ours > 0
    assert cpu.count("stablehlo.reduce(") == tpu.count("stablehlo.reduce(") > 0


@pytest.mark.parametrize(
    ("platform", "operation"), [("cpu", "dot_general"), ("tpu", "convolution"), ("cuda", "convolution")]
)
def test_a_shortcut_is_a_matrix_on_cpus_alone(platform: str, operation: str) -> None:
    layer, x = layers.Shortcut(7), jax.random.normal(jax.random.key(0), (2, 4, 3, 5))
    p = random_params(layer, x)
    text = jax.jit(layer.apply).trace({"params": p}, x).lower(lowering_platforms=(platform,)).as_text()
    assert [name for name in ("dot_general", "convolution") if f"stablehlo.{name}" in text] == [operation]
    expected = nn.Conv(7, (1, 1)).apply({"params": p}, x)
    np.testing.assert_allclose(layer.apply({"params": p}, x), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        layers._convolved(x, jnp.asarray(p["kernel"])) + p["bias"], expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("shape", [(3, 1, 1, 5), (3, 2, 2, 5), (3, 4, 6, 5)])
@pytest.mark.parametrize("doubled", [False, True])
def test_a_convolution_of_any_size_looks_at_its_neighbours(shape: tuple[int, ...], doubled: bool) -> None:
    x, layer = jax.random.normal(jax.random.key(0), shape), layers.Convolution(7, doubled=doubled)
    p = random_params(layer, x)
    seen = np.repeat(np.repeat(x, 2, axis=1), 2, axis=2) if doubled else np.asarray(x)
    np.testing.assert_allclose(layer.apply({"params": p}, x), convolve(seen, p), rtol=1e-4, atol=1e-5)
    assert jax.tree.map(np.shape, p) == jax.tree.map(np.shape, random_params(layers.Convolution(7), x))


@pytest.mark.parametrize("shape", [(3, 5), (2, 4, 5)])
def test_a_dense_layer_is_that_of_flax(shape: tuple[int, ...]) -> None:
    x, layer = jax.random.normal(jax.random.key(0), shape), layers.Dense(7)
    p = random_params(layer, x)
    expected = nn.Dense(7).apply({"params": p}, x)
    np.testing.assert_allclose(layer.apply({"params": p}, x), expected, rtol=1e-5, atol=1e-5)


def test_group_norm_of_bfloat16_has_float32_statistics() -> None:
    x = (30 + jax.random.normal(jax.random.key(1), (2, 16, 16, 8))).astype(jnp.bfloat16)
    layer, p = layers.GroupNorm(4), {"scale": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)}
    found = layer.apply({"params": p}, x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float32), group_norm(np.asarray(x, np.float32), 4, p), atol=0.02)
