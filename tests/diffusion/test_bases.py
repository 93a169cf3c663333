"""Bases are orthonormal: there and back is the identity, and lengths are kept. The DCT is SciPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.fft import dctn

from ddpm_jax.diffusion import bases
from tests.oracle import variances as oracle_variances


def axes(colours, seed=0):
    """Made-up orthonormal colour axes."""
    turned = np.linalg.qr(np.random.default_rng(seed).normal(size=(colours, colours)))[0]
    return tuple(map(tuple, turned.tolist()))


BASES = {"pixel": bases.PIXEL, "grey": bases.dct(((1.0,),)), "two": bases.dct(axes(2)), "rgb": bases.dct(axes(3))}
CHANNELS = {"pixel": 2, "grey": 1, "two": 2, "rgb": 3}


@pytest.mark.parametrize("size", [(4, 4), (5, 3), (1, 1), (32, 32)], ids=str)
@pytest.mark.parametrize("name", BASES)
def test_a_basis_keeps_lengths_and_inverts(name, size):
    chosen, x = BASES[name], jax.random.normal(jax.random.key(0), (3, *size, CHANNELS[name]))
    there = chosen.forward(x)
    assert there.shape == x.shape and there.dtype == x.dtype
    np.testing.assert_allclose(chosen.inverse(there), x, atol=1e-5)
    np.testing.assert_allclose(jnp.sum(there**2, (1, 2, 3)), jnp.sum(x**2, (1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("size", [(4, 4), (5, 3), (8, 6), (32, 32)], ids=str)
@pytest.mark.parametrize("colours", [1, 3])
def test_the_dct_is_scipys_along_every_colour_axis(size, colours):
    x = np.random.default_rng(1).normal(size=(2, *size, colours)).astype(np.float32)
    along = np.einsum("...c,kc->...k", x.astype(float), np.array(axes(colours)))
    expected = dctn(along, axes=(1, 2), norm="ortho")
    got = bases.dct(axes(colours)).forward(jnp.asarray(x))
    np.testing.assert_allclose(got, expected, atol=2e-5)
    np.testing.assert_allclose(bases.dct(axes(colours)).inverse(jnp.asarray(expected, jnp.float32)), x, atol=2e-5)


def test_a_transform_takes_any_leading_dimensions():
    x = jax.random.normal(jax.random.key(2), (2, 5, 4, 4, 3))
    chosen = bases.dct(axes(3))
    np.testing.assert_allclose(chosen.forward(x)[1, 3], chosen.forward(x[1, 3]), atol=1e-5)


def test_a_transform_keeps_full_precision_whatever_the_default():
    with jax.default_matmul_precision("bfloat16"):
        text = jax.jit(bases.dct(axes(3)).forward).lower(jnp.zeros((1, 4, 4, 3))).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products and all("HIGHEST" in line for line in products)


def test_equal_axes_give_one_object():
    assert bases.dct(axes(3)) is bases.dct(axes(3))
    assert bases.dct(axes(3)).colours == axes(3)
    assert bases.dct(axes(3)).name != bases.PIXEL.name


@pytest.mark.parametrize("bad", [((1.0, 0.0), (1.0, 0.0)), ((2.0,),), ((1.0, 0.0, 0.0), (0.0, 0.5, 0.5)), ()])
def test_axes_that_are_not_orthonormal_are_refused(bad):
    with pytest.raises(ValueError, match=r"not orthonormal.*colour_axes"):
        bases.dct(bad)


# ---------------------------------------------------------------- colours


def test_colour_axes_are_those_that_correlated_colours_were_made_of():
    """Three independent sources of widths 40, 12 and 4 along known axes, rounded to grey levels."""
    rng = np.random.default_rng(3)
    made_of = np.array([[2, 2, 1], [1, -2, 2], [2, -1, -2]]) / 3
    assert np.allclose(made_of @ made_of.T, np.eye(3))
    n, widths = 100_000, np.array([40.0, 12.0, 4.0])
    colours = 128 + rng.uniform(-np.sqrt(3), np.sqrt(3), (n, 3)) * widths @ made_of
    assert colours.min() >= 0 and colours.max() <= 255
    images = np.round(colours).astype(np.uint8).reshape(100, 25, 40, 3)
    found = np.array(bases.colour_axes(images))
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-12)
    # an axis turns into another by about l_i l_j/(l_i^2 - l_j^2)/sqrt(n), .4/316 for the two narrowest; 5 of those
    signs = np.sign(made_of[np.arange(3), np.abs(found).argmax(1)])
    np.testing.assert_allclose(found, made_of * signs[:, None], atol=5 * 0.4 / np.sqrt(n))
    assert (found[np.arange(3), np.abs(found).argmax(1)] > 0).all()
    variances_there = (images.reshape(-1, 3) @ found.T).var(0)
    # a uniform source of kurtosis 1.8: the variance of a variance is .8/n; rounding adds 1/12
    np.testing.assert_allclose(variances_there, widths**2 + 1 / 12, rtol=5 * np.sqrt(0.8 / n))


def test_of_grey_images_the_axis_is_the_grey_itself():
    images = np.random.default_rng(4).integers(0, 17, (5, 4, 4, 1)).astype(np.uint8)
    assert bases.colour_axes(images) == ((1.0,),)
    bases.dct(bases.colour_axes(images))


# ---------------------------------------------------------------- bins


@pytest.mark.parametrize("shape", [(4, 4, 1), (5, 3, 3), (8, 4, 3), (1, 1, 2)], ids=str)
def test_radial_bins_are_rounded_radii_and_averages_are_plain(shape):
    values = np.random.default_rng(5).uniform(size=(6, *shape))
    bins = bases.radial_bins(shape)
    assert bins.shape == shape
    averaged = bases.averaged(values, bins)
    assert averaged.shape == values.shape
    for one, expected in zip(averaged, values, strict=True):
        np.testing.assert_allclose(one, oracle_variances.radial_means(expected), rtol=1e-12)


def test_an_average_over_bins_keeps_the_mean_of_every_colour():
    values = np.random.default_rng(6).uniform(size=(6, 7, 5, 3))
    averaged = bases.averaged(values, bases.radial_bins((7, 5, 3)))
    np.testing.assert_allclose(averaged.mean((1, 2)), values.mean((1, 2)), rtol=1e-12)
    np.testing.assert_allclose(bases.averaged(averaged, bases.radial_bins((7, 5, 3))), averaged, rtol=1e-12)


def test_colours_share_no_bin_and_equal_radii_do():
    bins = bases.radial_bins((4, 4, 2))
    assert not set(bins[..., 0].ravel()) & set(bins[..., 1].ravel())
    assert bins[3, 0, 0] == bins[0, 3, 0] == bins[2, 2, 0] == 3 != bins[2, 1, 0]
    assert bins[0, 0, 0] == 0


def test_rows_of_missing_values_stay_missing():
    values = np.full((2, 3, 3, 1), np.nan)
    values[1] = 2.0
    averaged = bases.averaged(values, bases.radial_bins((3, 3, 1)))
    assert np.isnan(averaged[0]).all()
    np.testing.assert_array_equal(averaged[1], values[1])
