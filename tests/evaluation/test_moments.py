"""The one pass over the data, image by image and time by time, against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import toy, variances
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.denoiser import Prediction, make_denoiser
from ddpm_jax.evaluation import moments
from ddpm_jax.runtime.sharding import Layout
from tests.oracle import bits, gaussians, pairs, spectra
from tests.oracle import schedules as oracle_schedules
from tests.oracle import variances as oracle_variances

SHORT = [0.1, 0.3, 0.5, 0.7]
LEVELS = 17
N, SHAPE = 7, (2, 2, 1)
KEY = jax.random.key(4)
ONE = (jax.local_devices()[0],)
IMAGES = np.random.default_rng(0).integers(0, LEVELS, (N, *SHAPE)).astype(np.uint8)
X_0 = 2 * IMAGES / (LEVELS - 1) - 1


def crooked(x_t, t):
    """A wrong denoiser that agrees with x_t and looks at t; its x_0_hat often leaves [-1, 1]."""
    column = t.reshape(-1, 1, 1, 1)
    eps = 0.5 * jnp.tanh(x_t) + 0.1 * column
    ab = jnp.asarray(oracle_schedules.alpha_bar(SHORT), jnp.float32)[column]
    return Prediction(eps, (x_t - jnp.sqrt(1 - ab) * eps) / jnp.sqrt(ab))


def frozen_eps(i, t):
    return np.asarray(jax.random.normal(jax.random.fold_in(jax.random.fold_in(KEY, i), t), SHAPE), float)


def by_hand(clip):
    """error, excess and decoder, (n, T+1), in float64."""
    error, excess, decoder = np.full((3, N, 5), np.nan)
    for i in range(N):
        for t in range(1, 5):
            p, eps = pairs.pair(SHORT, 0, t), frozen_eps(i, t)
            x_t = np.sqrt(p.ab_t) * X_0[i] + np.sqrt(p.noise_t) * eps
            eps_hat = 0.5 * np.tanh(x_t) + 0.1 * t
            x_0_hat = (x_t - np.sqrt(p.noise_t) * eps_hat) / np.sqrt(p.ab_t)
            if clip:
                x_0_hat = np.clip(x_0_hat, -1, 1)
                eps_hat = (x_t - np.sqrt(p.ab_t) * x_0_hat) / np.sqrt(p.noise_t)
            error[i, t] = ((eps - eps_hat) ** 2).mean()
            excess[i, t] = (eps**2 - eps_hat**2).mean()
            log_var = np.log(pairs.pair(SHORT, 1, 2).tb)
            decoder[i, t] = -gaussians.discretised_log_mass(X_0[i], x_0_hat, log_var, LEVELS).mean()
    return error, excess, decoder


@pytest.fixture(scope="module", params=[False, True], ids=["free", "clipped"])
def both(request, short):
    measured = moments.measure(KEY, short, crooked, IMAGES, Rules(levels=LEVELS, clip_x_0=request.param))
    return measured, by_hand(request.param)


def test_the_error_of_every_image_and_time_is_the_mean_square_of_eps_less_eps_hat(both):
    np.testing.assert_allclose(both[0].error[:, 1:], both[1][0][:, 1:], rtol=1e-4)


def test_the_excess_is_what_eps_has_over_eps_hat(both):
    np.testing.assert_allclose(both[0].excess[:, 1:], both[1][1][:, 1:], rtol=1e-4, atol=1e-5)


def test_the_decoder_term_is_the_quantised_likelihood_around_x_0_hat(both):
    np.testing.assert_allclose(both[0].decoder[:, 1:], both[1][2][:, 1:], rtol=1e-4, atol=1e-5)


def test_the_prior_term_is_the_divergence_from_a_standard_normal(both):
    expected = [bits.prior_kl(x, 0.0945, 0.9055) for x in X_0]
    np.testing.assert_allclose(both[0].prior, expected, rtol=1e-6)


def test_the_variance_is_that_of_each_dimension_over_the_images(both):
    per_dimension = [((column - column.mean()) ** 2).mean() for column in X_0.reshape(N, -1).T]
    assert float(both[0].variance) in (
        pytest.approx(np.mean(per_dimension), rel=1e-6),
        pytest.approx(np.mean(per_dimension) * N / (N - 1), rel=1e-6),
    )


def test_fields_are_float64_numpy_and_the_datas_row_is_not_measured(both):
    for name in ("error", "excess", "decoder"):
        values = getattr(both[0], name)
        assert isinstance(values, np.ndarray) and values.dtype == np.float64 and values.shape == (N, 5), name
        assert np.isnan(values[:, 0]).all() and np.isfinite(values[:, 1:]).all(), name
    assert both[0].prior.shape == (N,) and both[0].prior.dtype == np.float64


@pytest.fixture(scope="module")
def default(short):
    return moments.measure(KEY, short, crooked, IMAGES, Rules(levels=LEVELS))


def test_x_0_is_clipped_by_default_and_that_matters(default):
    np.testing.assert_allclose(default.error[:, 1:], by_hand(True)[0][:, 1:], rtol=1e-4)
    assert not np.allclose(default.error[:, 1:], by_hand(False)[0][:, 1:], rtol=1e-2)


def test_the_identity_with_a_clipped_prediction(default):
    """M_t = ab_t/(1-ab_t) E||x_0 - clip(x_0_hat)||^2/D: rederiving eps keeps x_t = sqrt(ab) x_0 + sqrt(1-ab) eps."""
    for t in (1, 4):
        p, squares = pairs.pair(SHORT, 0, t), []
        for i in range(N):
            x_t = np.sqrt(p.ab_t) * X_0[i] + np.sqrt(p.noise_t) * frozen_eps(i, t)
            x_0_hat = (x_t - np.sqrt(p.noise_t) * (0.5 * np.tanh(x_t) + 0.1 * t)) / np.sqrt(p.ab_t)
            squares.append(((X_0[i] - np.clip(x_0_hat, -1, 1)) ** 2).mean())
        np.testing.assert_allclose(default.error[:, t], p.ab_t / p.noise_t * np.array(squares), rtol=1e-4)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_batch_size_changes_nothing(short, default, batch):
    """Each image has its own key, from its index."""
    other = moments.measure(KEY, short, crooked, IMAGES, Rules(levels=LEVELS), layout=Layout(devices=ONE, batch=batch))
    for field in ("error", "excess", "decoder", "prior"):
        np.testing.assert_allclose(getattr(other, field), getattr(default, field), rtol=1e-5, atol=1e-6)


def test_only_the_times_asked_for_are_measured_and_they_are_the_same(short, default):
    some = moments.measure(KEY, short, crooked, IMAGES, Rules(levels=LEVELS), times=np.array([1, 3]))
    for field in ("error", "excess", "decoder"):
        values = getattr(some, field)
        assert np.isnan(values[:, [0, 2, 4]]).all()
        np.testing.assert_allclose(values[:, [1, 3]], getattr(default, field)[:, [1, 3]], rtol=1e-5, atol=1e-6)


def test_means_and_standard_errors_are_over_images(both):
    measured = both[0]
    np.testing.assert_allclose(moments.mean_error(measured)[1:], measured.error[:, 1:].mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.mean_excess(measured)[1:], measured.excess[:, 1:].mean(0), rtol=1e-12)
    expected = measured.error[:, 1:].std(0, ddof=1) / np.sqrt(N)
    np.testing.assert_allclose(moments.standard_error(measured.error)[1:], expected, rtol=1e-12)


def test_a_point_worlds_denoiser_makes_no_error(short):
    image = IMAGES[:1]
    world = toy.point(short, X_0[0])
    measured = moments.measure(KEY, short, world.denoiser, image, Rules(levels=LEVELS))
    np.testing.assert_allclose(measured.error[:, 1:], 0, atol=1e-9)
    np.testing.assert_allclose(measured.excess[:, 1:], 0, atol=1e-5)


def test_error_and_excess_estimate_the_same_number_for_the_exact_denoiser(short):
    """1 - Gamma_t = M_t: grey levels 0 and 255 are +-1, a world of two points; its posterior mean is a tanh."""
    images = np.random.default_rng(1).integers(0, 2, (4000, 2, 2, 1)).astype(np.uint8)

    def two_points(x_t, t):
        ab = jnp.asarray(oracle_schedules.alpha_bar(SHORT), jnp.float32)[t].reshape(-1, 1, 1, 1)
        x_0 = jnp.tanh(jnp.sqrt(ab) * x_t / (1 - ab))
        return Prediction((x_t - jnp.sqrt(ab) * x_0) / jnp.sqrt(1 - ab), x_0)

    measured = moments.measure(KEY, short, two_points, images, Rules(levels=2))
    gap = measured.error[:, 1:] - measured.excess[:, 1:]
    assert (np.abs(gap.mean(0)) <= 4 * gap.std(0) / np.sqrt(4000)).all()
    assert measured.variance == pytest.approx(1, abs=5e-3)


def test_measuring_uses_full_precision_products_whatever_the_default(short):
    """A product traced inside the denoiser takes the precision that the pass asks for."""
    seen = []

    def multiplying(x_t, t):
        flat = x_t.reshape(x_t.shape[0], -1)
        jaxpr = jax.make_jaxpr(lambda left, right: left @ right)(jnp.ones((2, 2)), jnp.ones((2, 2)))
        seen.append(str(jaxpr))
        return Prediction((flat @ jnp.eye(4)).reshape(x_t.shape), x_t)

    with jax.default_matmul_precision("default"):
        moments.measure(KEY, short, multiplying, IMAGES, Rules(levels=LEVELS))
    assert seen
    for text in seen:
        assert "HIGHEST" in text and "DEFAULT" not in text


def test_one_trace_serves_every_time(short):
    traces = []

    def counted(x_t, t):
        traces.append(x_t.shape)
        return Prediction(x_t, x_t)

    moments.measure(
        KEY, short, counted, np.repeat(IMAGES, 2, 0), Rules(levels=LEVELS), layout=Layout(devices=ONE, batch=7)
    )
    assert len(traces) <= 2


def test_a_grey_level_out_of_range_is_refused_with_the_value(short):
    with pytest.raises(ValueError, match="17"):
        moments.measure(KEY, short, crooked, IMAGES + np.uint8(1) * (IMAGES == 16), Rules(levels=LEVELS))


def test_the_exact_h_is_measured_for_gaussian_like_data(short):
    """Finely quantised Gaussian pixels: M_t within 5 standard errors of ab_t c/V_t (256 levels err by 1e-5)."""
    n, c = 4000, 0.04
    x = np.random.default_rng(2).normal(0, np.sqrt(c), (n, 2, 2, 1))
    images = np.round((x + 1) * 127.5).clip(0, 255).astype(np.uint8)
    world = toy.gaussian(short, np.zeros(SHAPE), np.full(SHAPE, c))
    measured = moments.measure(KEY, short, world.denoiser, images, Rules(levels=256, clip_x_0=False))
    for t in (1, 4):
        h = oracle_variances.noise_variance(pairs.pair(SHORT, 0, t), c)
        for per_image in (measured.error[:, t], measured.excess[:, t]):
            assert per_image.mean() == pytest.approx(h, abs=5 * moments.standard_error(per_image) + 1e-4)


@pytest.mark.parametrize("c", [0.1, 1.0, 4.0])
def test_the_effective_variance_of_gaussian_data_is_their_variance(short, c):
    error = np.array([np.nan] + [oracle_variances.noise_variance(pairs.pair(SHORT, 0, t), c) for t in range(1, 5)])
    np.testing.assert_allclose(moments.effective_variance(short, error)[1:], c, rtol=1e-9)


def test_a_network_worse_than_silence_has_no_effective_variance(short):
    assert np.isnan(moments.effective_variance(short, np.array([np.nan, 0.5, 1.0, 1.2, 0.5]))[[2, 3]]).all()


def test_new_parameters_need_no_new_trace(short):
    traces = []

    def network(params, x_t, t):
        traces.append(x_t.shape)
        return params * x_t

    def error(scale):
        denoiser = make_denoiser(network, jnp.float32(scale), short, "eps")
        return moments.measure(KEY, short, denoiser, IMAGES, Rules(levels=LEVELS)).error[:, 1:]

    half, after_first = error(0.5), len(traces)
    assert not np.allclose(error(0.7), half)
    assert len(traces) == after_first


# ---------------------------------------------------------------- the spectrum

AXES = ((0.6, 0.48, 0.64), (0.8, -0.36, -0.48), (0.0, 0.8, -0.6))
COLOURED = np.random.default_rng(8).integers(0, LEVELS, (N, 4, 4, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def coloured(short):
    return moments.measure(KEY, short, crooked, COLOURED, Rules(levels=LEVELS, clip_x_0=False), colours=AXES)


def squares_by_hand(t):
    """(u_j . (eps - eps_hat))^2 of every image, float64."""
    p, x_0 = pairs.pair(SHORT, 0, t), 2.0 * COLOURED / (LEVELS - 1) - 1
    keys = [jax.random.fold_in(jax.random.fold_in(KEY, i), t) for i in range(N)]
    eps = np.stack([np.asarray(jax.random.normal(key, (4, 4, 3)), float) for key in keys])
    x_t = np.sqrt(p.ab_t) * x_0 + np.sqrt(p.noise_t) * eps
    return spectra.coefficients(eps - 0.5 * np.tanh(x_t) - 0.1 * t, AXES) ** 2


@pytest.mark.parametrize("t", [1, 4])
def test_the_spectrum_is_the_mean_square_of_every_coefficient_with_its_standard_error(coloured, t):
    squares = squares_by_hand(t)
    np.testing.assert_allclose(coloured.spectrum[t], squares.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(coloured.spectrum_error[t], spectra.standard_error(squares), rtol=1e-4)
    assert coloured.colours == AXES


@pytest.mark.parametrize("t", [2, 3])
def test_averages_over_rings_have_standard_errors_of_their_own(coloured, t):
    """Of the mean over a ring image by image: less than a coefficient's, more than if coefficients were independent."""
    rings = np.stack([oracle_variances.radial_means(one) for one in squares_by_hand(t)])
    np.testing.assert_allclose(coloured.radial_error[t], spectra.standard_error(rings), rtol=1e-4)


def test_the_spectrum_averages_to_the_error(coloured):
    """Parseval: the basis is orthonormal."""
    np.testing.assert_allclose(
        coloured.spectrum[1:].mean(axis=(1, 2, 3)), coloured.error[:, 1:].mean(axis=0), rtol=1e-5
    )
    assert np.isnan(coloured.spectrum[0]).all()


# ---------------------------------------------------------------- what ran


def test_evaluations_are_those_that_ran_and_tables_take_none(short):
    """A denoiser that counts the images it is asked about, with every choice in the pass and with none."""
    ran = []

    def counting(x_t, t):
        jax.debug.callback(lambda t: ran.append(len(t)), t)
        return crooked(x_t, t)._replace(heads=dict.fromkeys(names, 0.1 + 0 * x_t))

    names = tuple(name for name, entry in variances.VARIANCES.items() if entry.heads)
    for tabulated in ((), (*names, "spectral")):
        ran.clear()
        layout = Layout(devices=ONE, batch=N)
        rules, fixed = Rules(levels=LEVELS), {name: (name, made_up(short)) for name in tabulated}
        found = moments.measure(KEY, short, counting, IMAGES, rules, None, layout, tabulated=fixed)
        jax.effects_barrier()
        assert sum(ran) == found.evaluations == N * 4
        assert set(found.tables) == set(tabulated)


def made_up(tables):
    row = np.full(tables.T + 1, 0.1)
    return variances.Calibration(
        tables, excess=row, error=row, spectrum=np.full((tables.T + 1, *SHAPE), 0.1), colours=((1.0,),)
    )


# ---------------------------------------------------------------- files


def test_stored_moments_come_back_with_their_spectrum_and_without_tables(coloured, tmp_path):
    path, rules = tmp_path / "moments.npz", Rules(levels=LEVELS, clip_x_0=False)
    moments.save(path, coloured, "mine", rules)
    found = moments.load(path, "mine", rules)
    assert found.tables == {}
    for name in moments.STORED:
        np.testing.assert_array_equal(getattr(found, name), getattr(coloured, name), err_msg=name)
    assert (found.colours, found.evaluations) == (AXES, N * 4)


@pytest.mark.parametrize(
    ("denoiser", "clip", "message"), [("other", False, "another denoiser"), ("mine", True, "another clip_x_0")]
)
def test_moments_of_another_denoiser_or_clip_are_refused(coloured, tmp_path, denoiser, clip, message):
    path = tmp_path / "moments.npz"
    moments.save(path, coloured, "mine", Rules(levels=LEVELS, clip_x_0=False))
    with pytest.raises(ValueError, match=message):
        moments.load(path, denoiser, Rules(levels=LEVELS, clip_x_0=clip))


def test_moments_of_another_version_are_refused(coloured, tmp_path, monkeypatch):
    """Those of before there were versions, too."""
    path, rules = tmp_path / "moments.npz", Rules(levels=LEVELS, clip_x_0=False)
    moments.save(path, coloured, "mine", rules)
    with np.load(path) as stored:
        np.savez(tmp_path / "early.npz", **{name: stored[name] for name in stored if name != "version"})
    with pytest.raises(ValueError, match="of another version: it has 0, this is 1; leave --moments out"):
        moments.load(tmp_path / "early.npz", "mine", rules)
    monkeypatch.setattr(moments, "VERSION", 2)
    with pytest.raises(ValueError, match="of another version: it has 1, this is 2; leave --moments out"):
        moments.load(path, "mine", rules)


def test_a_file_without_a_spectrum_is_refused(coloured, tmp_path):
    """As versions before the spectral variance wrote them."""
    path, early = tmp_path / "moments.npz", ("error", "excess", "decoder", "prior", "variance")
    of = dict(denoiser="mine", clip_x_0=False)
    np.savez(path, **{name: getattr(coloured, name) for name in early}, **of)
    with pytest.raises(ValueError, match="holds no moments"):
        moments.load(path, "mine", Rules(levels=LEVELS, clip_x_0=False))
    (tmp_path / "text.npz").write_text("no table")
    with pytest.raises(ValueError, match="holds no moments"):
        moments.load(tmp_path / "text.npz", "mine", Rules(levels=LEVELS))
