"""The softmax denoiser of a finite set, against dense sums in float64."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import finite_sets, process
from tests.oracle import finite_sets as oracle_finite_sets

IMAGES = np.random.default_rng(0).choice(np.linspace(-1, 1, 17), (37, 3, 2, 1)).astype(np.float32)


def noisy(tables, t: int, n: int = 5):
    """x_t of the first n images."""
    eps = jax.random.normal(jax.random.key(t), (n, *IMAGES.shape[1:]))
    return process.diffuse(tables, jnp.asarray(IMAGES[:n]), t, eps)


@pytest.mark.parametrize("size", [1, 8, 37, 1000])
@pytest.mark.parametrize("t", [1, 100, 300, 1000])
def test_denoiser_and_covariance_are_the_dense_sums_for_any_block(linear, t: int, size: int) -> None:
    data, x_t, at = finite_sets.blocks(IMAGES, size), noisy(linear, t), jnp.full(5, t)
    prediction, cov = finite_sets.denoiser(data, linear, x_t, at), finite_sets.cov(data, linear, x_t, at)
    signal, noise = linear.alpha_bar[t], linear.one_minus_alpha_bar[t]
    for i in range(5):
        mean, full = oracle_finite_sets.moments(IMAGES, signal, noise, np.asarray(x_t[i], float))
        np.testing.assert_allclose(prediction.x_0[i].ravel(), mean, atol=2e-5)
        np.testing.assert_allclose(cov[i].ravel(), np.diag(full), atol=2e-5)
    np.testing.assert_allclose(np.sqrt(signal) * prediction.x_0 + np.sqrt(noise) * prediction.eps, x_t, atol=1e-5)


def test_every_example_has_its_own_time(linear) -> None:
    data, t = finite_sets.blocks(IMAGES, 16), jnp.asarray([1, 1000, 300])
    x_t = jnp.concatenate([noisy(linear, int(time), 1) for time in t])
    together = finite_sets.denoiser(data, linear, x_t, t).x_0
    for i in range(3):
        alone = finite_sets.denoiser(data, linear, x_t[i : i + 1], t[i : i + 1]).x_0[0]
        np.testing.assert_allclose(together[i], alone, atol=1e-5)


def test_little_noise_names_the_datum_and_much_noise_none(linear) -> None:
    data = finite_sets.blocks(IMAGES, 8)
    x_t, first = noisy(linear, 1), jnp.full(5, 1)
    np.testing.assert_allclose(finite_sets.denoiser(data, linear, x_t, first).x_0, IMAGES[:5], atol=1e-6)
    np.testing.assert_allclose(finite_sets.cov(data, linear, x_t, first), 0, atol=1e-6)
    nothing_left = linear._replace(alpha_bar=0 * linear.alpha_bar + 1e-12, one_minus_alpha_bar=0 * linear.beta + 1)
    x_t = 3 * noisy(linear, 1000)
    x_0 = finite_sets.denoiser(data, nothing_left, x_t, first).x_0
    np.testing.assert_allclose(x_0, np.broadcast_to(IMAGES.mean(axis=0), x_0.shape), atol=1e-4)
    cov = finite_sets.cov(data, nothing_left, x_t, first)
    np.testing.assert_allclose(cov, np.broadcast_to(IMAGES.var(axis=0), cov.shape), atol=1e-4)


def test_far_from_all_data_nothing_overflows(linear) -> None:
    data = finite_sets.blocks(IMAGES, 8)
    for t in (1, 1000):
        x_t = jnp.full((2, *IMAGES.shape[1:]), 1e4)
        assert np.isfinite(finite_sets.denoiser(data, linear, x_t, jnp.full(2, t)).x_0).all()
        assert (finite_sets.cov(data, linear, x_t, jnp.full(2, t)) >= 0).all()


def test_other_data_of_the_same_size_need_no_compilation(linear) -> None:
    run = jax.jit(finite_sets.denoiser)
    for images in (IMAGES, -IMAGES):
        run(finite_sets.blocks(images, 8), linear, noisy(linear, 3), jnp.full(5, 3))
    assert run._cache_size() == 1


@pytest.mark.parametrize(("images", "size"), [(IMAGES[:0], 8), (IMAGES, 0)])
def test_no_data_and_no_block_are_refused(images: np.ndarray, size: int) -> None:
    with pytest.raises(ValueError, match=f"{len(images)} images in blocks of {size}"):
        finite_sets.blocks(images, size)


LARGE = """
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from ddpm_jax.diffusion import schedules, toy
linear = schedules.linear()
images = np.random.default_rng(0).standard_normal((60_000, *SHAPE), np.float32)
world = toy.finite(linear, images)
x_t, t = jnp.asarray(images[:128]), jnp.full(128, 500)
x_0 = jax.block_until_ready(jax.jit(lambda d, x, t: d(x, t).x_0)(world.denoiser, x_t, t))
jax.block_until_ready(jax.jit(lambda c, x, t: c(x, t))(world.cov, x_t, t))
assert np.isfinite(x_0).all()
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])  # ru_maxrss would count the parent's, too
"""


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3)])
def test_sixty_thousand_images_fit_in_2_gb(shape: tuple[int, ...]) -> None:
    """With the array they come from, for 128 examples at a time."""
    run = partial(subprocess.run, capture_output=True, text=True, check=True)
    kilobytes = int(run([sys.executable, "-c", LARGE.replace("SHAPE", str(shape))]).stdout.split()[-1])
    assert kilobytes < 2e6
