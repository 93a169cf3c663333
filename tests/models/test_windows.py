"""Windows against plain loops, on this device's form and on the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.models import ops

X = np.random.default_rng(0).standard_normal((2, 7, 9, 3)).astype(np.float32)


def looped(x: np.ndarray, size: tuple[int, int], stride: int, of) -> np.ndarray:  # type: ignore[no-untyped-def]
    """`of` every window (b, kh, kw, c) that lies within the image."""
    rows, columns = (range(0, side - reach + 1, stride) for side, reach in zip(x.shape[1:3], size, strict=True))
    return np.stack(
        [np.stack([of(x[:, i : i + size[0], j : j + size[1]]) for j in columns], axis=1) for i in rows], axis=1
    )


def framed(x: np.ndarray, size: tuple[int, int], value: float) -> np.ndarray:
    down, across = (reach // 2 for reach in size)
    return np.pad(x, ((0, 0), (down, down), (across, across), (0, 0)), constant_values=value)


@pytest.mark.parametrize("form", ["here", "elsewhere"])
@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [((1, 1), 1, "SAME"), ((3, 3), 2, "VALID"), ((3, 3), 1, "VALID"), ((1, 7), 1, "SAME"), ((5, 5), 1, "SAME")],
)
def test_a_convolution_is_the_plain_one(size: tuple[int, int], stride: int, padding: str, form: str) -> None:
    kernel = np.random.default_rng(1).standard_normal((*size, 3, 4)).astype(np.float32)
    x = framed(X, size, 0) if padding == "SAME" else X
    wanted = looped(x, size, stride, lambda window: np.einsum("bijc,ijcd->bd", window, kernel))
    convolve = ops.convolve_window if form == "here" else ops._convolve_by_xla
    np.testing.assert_allclose(convolve(jnp.asarray(X), jnp.asarray(kernel), stride, padding), wanted, atol=1e-4)


@pytest.mark.parametrize(("stride", "padding"), [(1, "SAME"), (2, "VALID"), (1, "VALID")])
def test_the_largest_of_a_window(stride: int, padding: str) -> None:
    x = framed(X, (3, 3), -np.inf) if padding == "SAME" else X
    wanted = looped(x, (3, 3), stride, lambda window: window.max((1, 2)))
    np.testing.assert_array_equal(ops.max_pool(jnp.asarray(X), stride, padding), wanted)


def test_an_average_leaves_out_what_lies_outside_the_image() -> None:
    wanted = looped(framed(X, (3, 3), np.nan), (3, 3), 1, lambda window: np.nanmean(window, axis=(1, 2)))
    np.testing.assert_allclose(ops.average_pool(jnp.asarray(X)), wanted, atol=1e-6)


def test_products_are_for_cpus_alone() -> None:
    """For other devices the program has a convolution."""
    kernel = jax.ShapeDtypeStruct((1, 1, 3, 4), jnp.float32)
    convolve = jax.jit(lambda x, kernel: ops.convolve_window(x, kernel, 1, "SAME"))
    traced = convolve.trace(jax.ShapeDtypeStruct(X.shape, jnp.float32), kernel)
    said = {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "tpu")}
    assert "convolution" not in said["cpu"] and "dot_general" in said["cpu"]
    assert "convolution" in said["tpu"] and "dot_general" not in said["tpu"]
