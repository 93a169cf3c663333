"""Products and their derivatives against plain ones and against sums written out in NumPy."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from ddpm_jax.models import ops

KEPT = ((1, 1), (1, 1))  # padding that keeps an image's size with a 3 x 3 kernel
PADDINGS = [KEPT, ((0, 1), (1, 0)), ((1, 0), (0, 1)), ((0, 0), (0, 0)), ((2, 1), (0, 3)), ((0, 1), (2, 2))]


def plainly_convolved(x: Array, kernel: Array, stride: int, padding: ops.Padding) -> Array:
    axes = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=axes)


def drawn(*shapes: tuple[int, ...], seed: int = 0) -> list[Array]:
    draw = np.random.default_rng(seed)
    return [jnp.asarray(draw.standard_normal(shape), jnp.float32) for shape in shapes]


def lowered(function: Callable, *arguments: Any) -> dict[str, str]:
    """The program for every platform."""
    traced = jax.jit(function).trace(*arguments)
    return {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda", "tpu")}


def same_derivatives(ours: Callable, plain: Callable, arguments: list[Array], of: tuple[int, ...]) -> None:
    """Gradient, tangent, and the gradient of a tangent, along some of the arguments."""
    (weights,) = drawn(jax.eval_shape(ours, *arguments).shape, seed=1)
    along = tuple(jnp.cos(argument) * (place in of) for place, argument in enumerate(arguments))

    def weighted(f: Callable, *given: Array) -> Array:
        return (weights * jnp.sin(f(*given))).sum()

    def of_a_tangent(f: Callable, *given: Array) -> Array:
        return (weights * jax.jvp(lambda *given: jnp.sin(f(*given)), given, along)[1]).sum()

    for derivative, tolerance in (
        (lambda f: jax.grad(partial(weighted, f), of)(*arguments), 1e-4),
        (lambda f: jax.jvp(f, tuple(arguments), along)[1], 1e-4),
        (lambda f: jax.jit(jax.grad(partial(of_a_tangent, f), of))(*arguments), 1e-3),
    ):
        for mine, other in zip(*map(jax.tree.leaves, map(derivative, (ours, plain))), strict=True):
            np.testing.assert_allclose(mine, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("stride", "padding"), [*((1, one) for one in PADDINGS), (2, ((0, 1), (0, 1))), (2, KEPT)])
@pytest.mark.parametrize(
    "of",
    [pytest.param((0,), marks=pytest.mark.slow), pytest.param((1,), marks=pytest.mark.slow), (0, 1)],
    ids=["image", "kernel", "both"],
)
def test_a_convolution_has_its_derivatives(stride: int, padding: ops.Padding, of: tuple[int, ...]) -> None:
    arguments = drawn((2, 6, 4, 5), (3, 2, 5, 7))
    ours = partial(ops.convolve, stride=stride, padding=padding)
    plain = partial(plainly_convolved, stride=stride, padding=padding)
    np.testing.assert_allclose(ours(*arguments), plain(*arguments), rtol=1e-5, atol=1e-5)
    same_derivatives(ours, plain, arguments, of)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 1), (8, 8)])
def test_the_gradient_of_a_kernel_sums_what_each_of_its_weights_met(shape: tuple[int, int]) -> None:
    (height, width), draw = shape, np.random.default_rng(0)
    x, gradient = draw.standard_normal((3, height, width, 5)), draw.standard_normal((3, height, width, 7))
    wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.zeros((3, 3, 5, 7))
    for i, j in np.ndindex(3, 3):
        expected[i, j] = np.einsum("bhwc,bhwo->co", wide[:, i : i + height, j : j + width], gradient)
    _, back = jax.vjp(lambda kernel: ops.convolve(jnp.asarray(x, jnp.float32), kernel), jnp.zeros((3, 3, 5, 7)))
    np.testing.assert_allclose(back(jnp.asarray(gradient, jnp.float32))[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 3, 4, 5)])
def test_a_product_with_a_matrix_has_its_derivatives(shape: tuple[int, ...]) -> None:
    arguments = drawn(shape, (5, 7))
    np.testing.assert_allclose(ops.multiply(*arguments), np.matmul(*arguments), rtol=1e-5, atol=1e-5)
    for of in ((0,), (1,), (0, 1)):
        same_derivatives(ops.multiply, jnp.matmul, arguments, of)


@pytest.mark.parametrize(
    ("product", "shape", "sign"),
    [
        (ops.convolve, (3, 3, 5, 7), "[b, 0, f]x[0, i, o]->[b, 0, f]"),  # of rows alone
        (ops.multiply, (5, 7), "optimization_barrier"),  # before a factor that is turned first
    ],
    ids=["kernel", "matrix"],
)
def test_cpus_alone_take_gradients_of_weights_in_their_own_way(
    product: Callable, shape: tuple[int, ...], sign: str
) -> None:
    x, weights = drawn((2, 6, 4, 5), shape)
    texts = lowered(jax.grad(lambda weights: (product(x, weights) ** 2).sum()), weights)
    assert [name for name, text in texts.items() if sign in text] == ["cpu"]


def held_by_one_more(product: Callable, x: jax.ShapeDtypeStruct, weights: jax.ShapeDtypeStruct, of: int) -> float:
    """Bytes that one more product in a chain of them adds to the memory of the chain's gradient."""

    def loss(x: Array, chain: list[Array]) -> Array:
        for weights in chain:
            x = jnp.sin(product(x, weights))
        return (x**2).sum()

    def held(products: int) -> int:
        memory = jax.jit(jax.grad(loss, of)).lower(x, products * [weights]).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    return (held(12) - held(4)) / 8


def test_cpus_hold_what_matrices_multiplied_once() -> None:
    """One more matrix keeps its factor, one image, for its gradient; by JAX's way a copy of it that is turned, too."""
    x, matrix = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((4096, 64), (64, 64)))
    image = 4 * 4096 * 64
    ours, theirs = (held_by_one_more(product, x, matrix, of=1) for product in (ops.multiply, jnp.matmul))
    assert ours < 1.5 * image and theirs - ours > 0.5 * image


def test_products_and_gradients_of_bfloat16_are_bfloat16() -> None:
    x, kernel = (one.astype(jnp.bfloat16) for one in drawn((2, 6, 4, 5), (3, 3, 5, 7)))
    for f, weights in ((ops.convolve, kernel), (ops.multiply, kernel[0, 0])):
        product, back = jax.vjp(f, x, weights)
        assert [leaf.dtype for leaf in (product, *back(product))] == 3 * [jnp.bfloat16]


def test_images_can_be_mapped_over() -> None:
    x, kernel = drawn((3, 2, 6, 4, 5), (3, 3, 5, 7))
    by_one = jnp.stack([ops.convolve(one, kernel) for one in x])
    np.testing.assert_allclose(jax.vmap(ops.convolve, (0, None))(x, kernel), by_one, rtol=1e-5, atol=1e-5)


def test_cpus_hold_one_turned_kernel_at_a_time() -> None:
    """One more kernel, turned for the gradient of the image, is not held; by JAX's way all are turned at once."""
    x, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 4, 4, 64), (3, 3, 64, 64)))
    turned, plain = 4 * 9 * 64 * 64, partial(plainly_convolved, stride=1, padding=KEPT)
    ours, theirs = (held_by_one_more(product, x, kernel, of=0) for product in (ops.convolve, plain))
    assert ours < 0.5 * turned and theirs - ours > 0.5 * turned
    texts = lowered(jax.grad(lambda x, kernel: (ops.convolve(x, kernel) ** 2).sum()), x, kernel)
    assert [name for name, text in texts.items() if "stablehlo.select" in text] == ["cpu"]


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_the_tiny_convolution_is_the_convolution(shape: tuple[int, int]) -> None:
    x, kernel = drawn((3, *shape, 5), (3, 3, 5, 7))
    expected = plainly_convolved(x, kernel, 1, KEPT)
    np.testing.assert_allclose(ops.convolve_tiny(x, kernel), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 4), (5, 2)])
def test_a_doubled_image_is_convolved_with_and_without_making_it(shape: tuple[int, int]) -> None:
    x, kernel = drawn((3, *shape, 5), (3, 3, 5, 7))
    expected = plainly_convolved(np.repeat(np.repeat(x, 2, axis=1), 2, axis=2), kernel, 1, KEPT)
    for way in (ops.convolve_doubled, ops._double_and_convolve, ops._convolve_parts):
        np.testing.assert_allclose(way(x, kernel), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", 4), ("tpu", 1), ("cuda", 4)])
def test_a_doubled_image_is_made_on_tpus_alone(platform: str, convolutions: int) -> None:
    texts = lowered(ops.convolve_doubled, *drawn((2, 4, 4, 5), (3, 3, 5, 7)))
    assert texts[platform].count("stablehlo.convolution") == convolutions
