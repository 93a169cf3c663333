"""The layers against NumPy and against plain convolutions."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from ddpm_jax import layers


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


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_the_tiny_convolution_is_the_convolution(shape: tuple[int, int]) -> None:
    x = jax.random.normal(jax.random.key(0), (3, *shape, 5))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 5, 7))
    expected = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(layers._convolve_tiny(x, kernel), expected, rtol=1e-5, atol=1e-5)


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


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 4), (5, 2)])
def test_a_doubled_image_is_convolved_with_and_without_making_it(shape: tuple[int, int]) -> None:
    x, layer = jax.random.normal(jax.random.key(0), (3, *shape, 5)), layers.Convolution(7, doubled=True)
    p = random_params(layer, x)
    repeated = np.repeat(np.repeat(x, 2, axis=1), 2, axis=2)
    for result in (
        layer.apply({"params": p}, x),
        layers._double_and_convolve(x, jnp.asarray(p["kernel"])) + p["bias"],
        layers._convolve_doubled(x, jnp.asarray(p["kernel"])) + p["bias"],
    ):
        np.testing.assert_allclose(result, convolve(repeated, p), rtol=1e-4, atol=1e-5)
    assert jax.tree.map(np.shape, p) == jax.tree.map(np.shape, random_params(layers.Convolution(7), x))


@pytest.mark.parametrize(("stride", "before"), [(1, 1), (2, 0), (2, 1)])
@pytest.mark.parametrize("of", [(0,), (1,), (0, 1)], ids=["image", "kernel", "both"])
def test_a_convolution_has_its_derivatives(stride: int, before: int, of: tuple[int, ...]) -> None:
    how = stride, 2 * ((before, 1),)
    keys = jax.random.split(jax.random.key(1), 3)
    arguments = jax.random.normal(keys[0], (2, 6, 4, 5)), jax.random.normal(keys[1], (3, 3, 5, 7))
    weights = jax.random.normal(keys[2], (2, 6 // stride, 4 // stride, 7))
    found, expected = (
        jax.grad(lambda *given, f=f: (weights * jnp.sin(f(*given, *how))).sum(), of)(*arguments)
        for f in (layers._convolve_and_turn_late, layers._convolve)
    )
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4)
    along = [jnp.cos(argument) * (place in of) for place, argument in enumerate(arguments)]
    _, forward = jax.jvp(lambda *given: layers._convolve_and_turn_late(*given, *how), arguments, tuple(along))
    _, plain = jax.jvp(lambda *given: layers._convolve(*given, *how), arguments, tuple(along))
    np.testing.assert_allclose(forward, plain, rtol=1e-4, atol=1e-4)

    def of_a_derivative(f: Callable, *given: Array) -> Array:
        return (weights * jax.jvp(lambda *given: jnp.sin(f(*given, *how)), given, tuple(along))[1]).sum()

    twice = [
        jax.jit(jax.grad(partial(of_a_derivative, f), of))(*arguments)
        for f in (layers._convolve_and_turn_late, layers._convolve)
    ]
    for mine, other in zip(*twice, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-3)


def test_cpus_hold_one_turned_kernel_at_a_time() -> None:
    """Of eight kernels, which the gradient of the image asks for last to first: all were turned at once, and held."""
    layer, x = layers.Convolution(64), jax.ShapeDtypeStruct((1, 4, 4, 64), jnp.float32)
    params = {"kernel": jax.ShapeDtypeStruct((3, 3, 64, 64), jnp.float32), "bias": jax.ShapeDtypeStruct((64,), "f4")}

    def loss(x: Array, of_layers: list[dict]) -> Array:
        for p in of_layers:
            x = jnp.sin(layer.apply({"params": p}, x))
        return (x**2).sum()

    traced = jax.jit(jax.grad(loss)).trace(x, [params] * 8)
    memory = traced.lower().compile().memory_analysis()
    assert memory is not None and memory.temp_size_in_bytes < 2 * 4 * 9 * 64 * 64
    assert ["stablehlo.select" in traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "tpu")] == [
        True,
        False,
    ]


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", 4), ("tpu", 1), ("cuda", 4)])
def test_a_doubled_image_is_made_on_tpus_alone(platform: str, convolutions: int) -> None:
    layer, x = layers.Convolution(7, doubled=True), jnp.zeros((2, 4, 4, 5))
    traced = jax.jit(layer.apply).trace({"params": random_params(layer, x)}, x)
    assert traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.convolution") == convolutions


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
    monkeypatch.setattr(layers.devices, "cuda_generation", lambda: generation)
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
    assert [text.count("stablehlo.exponential") for text in (cpu, tpu, cuda)] == [2, 1, 1]
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
        layers._convolve(x, jnp.asarray(p["kernel"])) + p["bias"], expected, rtol=1e-5, atol=1e-5
    )


def test_group_norm_of_bfloat16_has_float32_statistics() -> None:
    x = (30 + jax.random.normal(jax.random.key(1), (2, 16, 16, 8))).astype(jnp.bfloat16)
    layer, p = layers.GroupNorm(4), {"scale": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)}
    found = layer.apply({"params": p}, x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float32), group_norm(np.asarray(x, np.float32), 4, p), atol=0.02)
