"""The KL of a step as a function of u, tabulated: against one divergence a step with the same noise, in NumPy."""

from functools import cache
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import process, schedules, timesteps, toy, variances
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.denoiser import Prediction
from ddpm_jax.evaluation import likelihood, moments, step_kl
from ddpm_jax.runtime.sharding import Layout
from tests.oracle import bits, gaussians, pairs, spectra
from tests.oracle import variances as oracle_variances

KEY = jax.random.key(5)
RULES = Rules(levels=256, clip_x_0=False)
ONE = Layout(devices=(jax.local_devices()[0],))
HUNDRED = schedules.linear(100)
EVEN = tuple(timesteps.even(100, 10).tolist())
EVERY = tuple(range(1, 101))
COLOURS = {1: ((1.0,),), 3: ((0.6, 0.48, 0.64), (0.8, -0.36, -0.48), (0.0, 0.8, -0.6))}
N = 6
LN_2 = np.log(2)


def shape(channels):
    return (4, 4, channels)


def grey_levels(channels, n=N, seed=3):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape(channels))).astype(np.uint8)


def headed(tables, chain, bend=0.6):
    """A crooked mean, and heads that bend with x_t: no world's, and h of the size that data of variance .3 give."""
    ab = jnp.asarray(tables.alpha_bar, jnp.float32)
    steps = process.steps(tables, list(chain))
    fitted = (
        jnp.zeros(tables.T + 1)
        .at[steps.t[1:]]
        .set(np.log(steps.tb[1:] * (1 + 0.3 * steps.u[1:] * steps.signal[1:] ** 2)))
    )

    def denoiser(x_t, t):
        signal, row = ab[t].reshape(-1, 1, 1, 1), fitted[t].reshape(-1, 1, 1, 1)
        eps = jnp.sqrt(1 - signal) * x_t / (1 - 0.7 * signal) + 0.2 * jnp.sqrt(signal) * jnp.sin(3 * x_t)
        h = 0.3 * signal / (1 - 0.7 * signal) * (1 + bend * jnp.sin(2 * x_t))
        heads = dict(npr=h, sn=h + eps**2, ocm=h - 1, learned=row + 0.2 * jnp.sin(x_t))
        heads["learned_range"] = 0.8 + 1.5 * jnp.sin(2 * x_t)
        return Prediction(eps, (x_t - jnp.sqrt(1 - signal) * eps) / jnp.sqrt(signal), heads)

    return denoiser


@cache
def noise(channels, t):
    keys = [jax.random.fold_in(jax.random.fold_in(KEY, i), t) for i in range(N)]
    return np.stack([np.asarray(jax.random.normal(key, shape(channels)), float) for key in keys])


class Case:
    """A pass over a few images with every table in it, and the same x_t by themselves."""

    def __init__(self, channels, chain, clamp):
        self.images, self.denoiser = grey_levels(channels), headed(HUNDRED, chain, 3.0 if clamp else 0.6)
        known = variances.Calibration(HUNDRED, colours=COLOURS[channels], learned_times=chain)
        known = known._replace(clamp_cov=clamp)
        other = self.look(known, (), seed=4)
        self.clamp, self.known = clamp, likelihood.calibrate(known, other)
        every = {name: variances.build(self.choice_of(name), self.known) for name in variances.VARIANCES}
        self.at = cache(self.at)
        self.choices = {name: choice for name, choice in every.items() if step_kl.needs_table(choice, HUNDRED)}
        self.found = self.look(self.known, tuple(self.choices), seed=3)

    def choice_of(self, name):
        return f"{name}:clamped" if self.clamp and name == "learned_range" else name

    def look(self, known, names, seed):
        images = grey_levels(known.colours and len(known.colours), seed=seed)
        fixed = {name: (self.choice_of(name), known) for name in names}
        return moments.measure(
            KEY, HUNDRED, self.denoiser, images, RULES, None, ONE, colours=known.colours, tabulated=fixed
        )

    def at(self, t):
        """x_t, eps and what the denoiser says, float64."""
        x_0, eps = self.images / 127.5 - 1, noise(self.images.shape[-1], t)
        x_t = np.sqrt(HUNDRED.alpha_bar[t]) * x_0 + np.sqrt(HUNDRED.one_minus_alpha_bar[t]) * eps
        said = self.denoiser(jnp.asarray(x_t, jnp.float32), jnp.full(N, t))
        return x_t, eps, jax.tree.map(lambda x: np.asarray(x, float), said)

    def direct(self, name, s, t):
        """KL of every image for the step t -> s, nats per dimension: the oracle's variance, one Gaussian a pixel."""
        p = pairs.pair(HUNDRED.beta[1:], s, t)
        _, eps, said = self.at(t)
        error = eps - said.eps
        if name.startswith("spectral"):
            error = spectra.coefficients(error, self.known.colours)
            sigma2 = oracle_variances.variance(name, p, HUNDRED.beta[1:], spectrum=self.known.spectrum)
        elif name.startswith("learned"):
            head = said.heads[name]
            head = np.clip(head, -1, 1) if self.clamp and name == "learned_range" else head
            sigma2 = oracle_variances.variance(name, p, HUNDRED.beta[1:], head=head)
        else:
            h = oracle_variances.excess_of(name, p, head=said.heads[name], eps_hat=said.eps)
            sigma2 = p.tb + p.v * (oracle_variances.held(h, p) if self.known.clamp_cov else h)
        sigma2 = np.broadcast_to(sigma2, error.shape)
        return np.array([bits.diagonal_kl(p, of_one, e**2) for of_one, e in zip(sigma2, error, strict=True)])


@pytest.fixture(
    scope="module",
    params=[
        (1, EVERY, False),
        (3, EVEN, True),
        pytest.param((1, EVEN, True), marks=pytest.mark.slow),
        pytest.param((3, EVERY, False), marks=pytest.mark.slow),
    ],
    ids=["grey, K = T", "colours, K = 10, clamped", "grey, K = 10, clamped", "colours, K = T"],
)
def case(request):
    return Case(*request.param), request.param[1]


def test_every_choice_that_is_not_one_number_is_tabulated(case):
    """Those of the registry that read a head, and the spectral ones."""
    wanted = {name for name, entry in variances.VARIANCES.items() if entry.heads}
    assert set(case[0].choices) == wanted | {"spectral", "spectral_radial"}


def test_the_tabulated_bound_equals_the_direct_one_step_by_step(case):
    """Within 1e-4 bits/dim for the whole chain, with the same noise; and every step to 1e-4 of itself."""
    case, times = case
    steps = process.steps(HUNDRED, list(times))
    for name, choice in case.choices.items():
        terms = likelihood.step_terms(steps, choice, case.found, case.found.tables[name])
        direct = np.stack([case.direct(name, s, t) for s, t in pairwise(times)], axis=1)
        np.testing.assert_allclose(terms, direct, rtol=1e-4, atol=1e-7, err_msg=name)
        bound = likelihood.bits_per_dim(steps, choice, case.found, case.found.tables[name])
        total = (case.found.prior + direct.sum(axis=1) + case.found.decoder[:, times[0]]) / LN_2
        assert abs(bound.per_image - total).max() < 1e-4, name


def test_the_clamped_share_is_that_of_a_direct_count(case):
    case, _ = case
    for t in (1, 40, 100):
        p, (_, _, said) = pairs.pair(HUNDRED.beta[1:], 0, t), case.at(t)
        for name in ("npr", "sn", "ocm"):
            h = oracle_variances.excess_of(name, p, head=said.heads[name], eps_hat=said.eps)
            moved = ~np.isclose(oracle_variances.held(h, p), h, rtol=1e-9, atol=0)
            share = moved.mean() if case.known.clamp_cov else 0.0
            near = 1e-6 if name == "npr" else 2 / moved.size  # the others are differences of float32 numbers near 1
            assert case.found.tables[name].clamped[t] == pytest.approx(share, abs=near)
            assert (
                not case.known.clamp_cov or name == "sn" or ((h < 0).any() and (oracle_variances.held(h, p) < h).any())
            )
        for name in ("learned", "learned_range", "spectral"):
            assert case.found.tables[name].clamped[t] == 0


def test_the_log_ratio_is_the_mean_of_log_sigma2_over_tb(case):
    case, times = case
    t = times[5]
    s = times[4]
    p, (_, _, said) = pairs.pair(HUNDRED.beta[1:], s, t), case.at(t)
    table = case.found.tables["learned_range"]
    head = np.clip(said.heads["learned_range"], -1, 1) if case.clamp else said.heads["learned_range"]
    found = np.interp(np.log(p.u), np.log(table.u[t]), table.log_ratio[t])
    assert found == pytest.approx(-np.mean((head + 1) / 2 * np.log(p.rho)), abs=2e-3)


# ---------------------------------------------------------------- the nodes and what lies between them


@pytest.mark.parametrize(
    "tables",
    [
        schedules.linear(),
        schedules.cosine(),
        schedules.jsd(20),
        schedules.from_betas([0.1, 0.3]),
        schedules.from_betas([0.5]),
    ],
    ids=["linear", "cosine", "jsd", "T = 2", "T = 1"],
)
def test_the_nodes_reach_every_step_of_every_chain(tables):
    rows = step_kl.nodes(tables)
    assert rows.shape == (tables.T + 1, step_kl.NODES)
    assert (np.diff(np.log(rows), axis=1) > 0).all()
    s, t = np.triu_indices(tables.T, 1)
    u = process.pairs(tables, s + 1, t + 1).u if len(s) else np.zeros(0)
    assert ((rows[t + 1, 0] < u) & (u < rows[t + 1, -1])).all()
    np.testing.assert_array_equal(rows[0], rows[1])


def test_the_nodes_of_a_choice_fitted_on_one_chain_lie_around_its_own_steps():
    rows, chain = step_kl.nodes(HUNDRED, EVEN), process.steps(HUNDRED, list(EVEN))
    for t, u in zip(chain.t[1:], chain.u[1:], strict=True):
        assert rows[t, 0] < u < rows[t, -1] < 1.01 * rows[t, 0]
    np.testing.assert_array_equal(rows[50], step_kl.nodes(HUNDRED)[50])


@pytest.mark.parametrize("tables", [HUNDRED, schedules.jsd(20)], ids=["linear", "jsd"])
def test_a_step_between_times_that_has_a_pairs_u_is_that_pair(tables):
    """Also from T where no data are left: there u is SNR(s)."""
    s, t = np.array([1, 3, 19, 1]), np.array([2, 7, 20, 20])
    pair = process.pairs(tables, s, t)
    between = process.between(tables, t, pair.u)
    for name in ("a", "b", "tb", "base", "gain", "u", "log_base", "log_b", "mean_x_0", "mean_x_t", "excess_max"):
        np.testing.assert_allclose(getattr(between, name), getattr(pair, name), rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("u", [0.05, 2e5])
def test_a_u_outside_the_table_is_refused_with_its_value(u):
    row = np.geomspace(0.1, 1e5, step_kl.NODES)
    with pytest.raises(ValueError, match=f"u = {u:g} to {u:g} leaves the table"):
        step_kl.between_nodes(row, row, np.array([u]))


def test_a_cost_that_is_not_finite_is_refused():
    row = np.geomspace(0.1, 1e5, step_kl.NODES)
    with pytest.raises(ValueError, match="negative or infinite"):
        step_kl.between_nodes(row, np.where(row > 1, np.nan, row), np.array([0.5]))


def smooth(alpha_bar, c, chi):
    """KL(u) of one image whose pixels have variances c, the heads exact, and squared errors chi times them."""
    h = alpha_bar * c / (alpha_bar * c + 1 - alpha_bar)
    e2 = h * chi

    def cost(u):
        up = np.asarray(u)[:, None]
        return 0.5 * np.mean((1 + up * e2) / (1 + up * h) - 1 + np.log1p(up * h), axis=1)

    return cost


@pytest.mark.parametrize(("nodes", "most"), [(32, 5e-5), (64, 3e-6), (128, 1.8e-7)])
def test_interpolation_alone_errs_by_little(linear, monkeypatch, nodes, most):
    """Against the function itself on a fine grid, at all noise levels: the error of a cubic falls with the spacing's
    fourth power: 5e-5 (31/63)^4 = 3e-6, 5e-5 (31/127)^4 = 1.8e-7.
    """
    monkeypatch.setattr(step_kl, "NODES", nodes)
    draw = np.random.default_rng(0)
    c, chi = np.exp(draw.uniform(np.log(1e-3), np.log(3), 200)), draw.chisquare(1, 200)
    rows = step_kl.nodes(linear)
    for t in (2, 10, 100, 300, 500, 700, 999, 1000):
        cost = smooth(linear.alpha_bar[t], c, chi)
        fine = np.geomspace(rows[t, 0] * step_kl.BEYOND, rows[t, -1] / step_kl.BEYOND, 2001)
        np.testing.assert_allclose(step_kl.between_nodes(rows[t], cost(rows[t]), fine), cost(fine), rtol=most)


@pytest.mark.parametrize("K", [10, 50, 1000])
def test_interpolation_alone_errs_by_little_in_a_chain(linear, K):
    draw = np.random.default_rng(1)
    c, rows, steps = (
        np.exp(draw.uniform(np.log(1e-3), np.log(3), 200)),
        step_kl.nodes(linear),
        process.steps(linear, timesteps.even(1000, K)),
    )
    off = 0.0
    for t, u in zip(steps.t[1:], steps.u[1:], strict=True):
        cost, at = smooth(linear.alpha_bar[t], c, draw.chisquare(1, 200)), np.array([u])
        off += abs(step_kl.between_nodes(rows[t], cost(rows[t]), at) - cost(at))[0]
    assert off / LN_2 < 1e-5


@pytest.mark.slow
def test_thirty_two_nodes_say_what_a_hundred_and_twenty_eight_do(monkeypatch):
    """Through the pass itself, clamped heads and all."""
    denoiser, images = headed(HUNDRED, EVEN), grey_levels(1)
    known = variances.Calibration(HUNDRED)
    names = ("npr", "learned_range")
    fixed = {name: (name, known) for name in names}
    choices = {name: variances.build(name, known) for name in names}
    steps = process.steps(HUNDRED, list(EVEN))

    def bound():
        found = moments.measure(KEY, HUNDRED, denoiser, images, RULES, np.asarray(EVEN), ONE, tabulated=fixed)
        return {
            name: likelihood.bits_per_dim(steps, choices[name], found, found.tables[name]).per_image for name in names
        }

    few = bound()
    monkeypatch.setattr(step_kl, "NODES", 128)
    many = bound()
    for name in names:
        assert abs(few[name] - many[name]).max() < 2e-5


# ---------------------------------------------------------------- the spectrum gives the mean costs of headless choices


def test_spectral_on_its_own_moments_costs_half_the_mean_log(short):
    """1/2 mean_j log(1 + u M_j), to rounding."""
    spectrum = np.random.default_rng(0).uniform(0.01, 0.9, (5, 2, 2, 3))
    spectrum[0] = np.nan
    choice = variances.build("spectral", variances.Calibration(short, spectrum=spectrum, colours=COLOURS[3]))
    found = step_kl.of_spectrum(short, choice, spectrum)
    rows = step_kl.nodes(short)
    for t in range(2, 5):
        for k in (0, 7, step_kl.NODES - 1):
            expected = 0.5 * np.mean(np.log(1 + rows[t, k] * spectrum[t]))
            assert found[t, k] == pytest.approx(expected, rel=1e-10)
    assert np.isnan(found[0]).all()


def test_a_spectrum_judged_by_another_costs_the_divergence(short):
    """Fixed by M', judged by M: 1/2 mean_j [(1 + u M_j)/(1 + u M'_j) - 1 + log(1 + u M'_j)]."""
    fixed, judged = np.random.default_rng(0).uniform(0.01, 0.9, (2, 5, 2, 2, 1))
    judged[0] = np.nan
    choice = variances.build("spectral", variances.Calibration(short, spectrum=fixed, colours=COLOURS[1]))
    u = step_kl.nodes(short)[3, 9]
    expected = 0.5 * np.mean((1 + u * judged[3]) / (1 + u * fixed[3]) - 1 + np.log(1 + u * fixed[3]))
    assert step_kl.of_spectrum(short, choice, judged)[3, 9] == pytest.approx(expected, rel=1e-10)


def test_one_number_a_step_needs_no_table(short):
    spectrum = np.full((5, 2, 2, 1), 0.1)
    row = np.full(5, 0.1)
    known = variances.Calibration(short, 0.3, row, row, spectrum, COLOURS[1])
    needing = {name for name in variances.VARIANCES if step_kl.needs_table(variances.build(name, known), short)}
    assert {"npr", "learned", "spectral"} <= needing
    assert not needing & {"small", "large", "analytic", "isotropic", "zero"}


def test_an_estimate_too_small_for_a_step_that_nobody_takes_is_no_reason_to_refuse(short):
    """1 - Gamma_t of few images may be negative: what matters is whether a chain's own steps have a variance."""
    excess = np.array([np.nan, 0.5, 0.4, 0.3, -0.2])
    choice = variances.analytic(excess, clamp_cov=False)
    assert not step_kl.needs_table(choice, short)
    with pytest.raises(ValueError, match="negative"):
        likelihood.bits_per_dim(process.steps(short, [1, 4]), choice, few(short))
    assert np.isfinite(likelihood.bits_per_dim(process.steps(short, [1, 2, 3, 4]), choice, few(short)).total)


def few(tables):
    error = np.where(np.arange(tables.T + 1) > 0, 0.3, np.nan) * np.ones((2, 1))
    return moments.Moments(error, error, error, np.zeros(2), 0.3)


# ---------------------------------------------------------------- no data left at T


@pytest.mark.parametrize("tables", [schedules.jsd(20), schedules.zero_terminal(schedules.linear(20, 1e-3, 0.5))])
def test_where_no_data_are_left_the_bound_counts_the_error_of_x_0(tables):
    """M_T = E||x_0 - E x_0||^2/D; table, closed form and one divergence a step agree."""
    c, n = 0.05, 8
    draw = np.random.default_rng(2)
    images = np.round(127.5 + 127.5 * np.sqrt(c) * draw.normal(size=(n, *shape(1)))).clip(0, 255).astype(np.uint8)
    world = toy.gaussian(tables, np.zeros(shape(1)), np.full(shape(1), c))
    times = [1, 4, 9, 15, 20]
    steps = process.steps(tables, times)
    denoiser = toy.exact_heads(world, steps)
    known = variances.Calibration(tables, variance=c, clamp_cov=False)
    names = ("npr", "ocm", "learned_range")
    fixed = {name: (name, known) for name in names}
    found = moments.measure(KEY, tables, denoiser, images, RULES, None, ONE, tabulated=fixed)
    x_0 = images / 127.5 - 1
    np.testing.assert_allclose(found.error[:, 20], (x_0**2).mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found.excess[:, 20], (x_0**2).mean((1, 2, 3)), rtol=1e-5)
    assert found.prior == pytest.approx(np.zeros(n), abs=1e-12)
    total = {}
    for name in ("family", *names):
        choice = variances.build(name, known)
        bound = likelihood.bits_per_dim(steps, choice, found, found.tables.get(name))
        assert np.isfinite(bound.per_image).all()
        total[name] = bound.per_image
    direct = found.decoder[:, 1].copy()
    for s, t in pairwise(times):
        direct += step_with_no_data_left(tables, x_0, s, t, c)
    np.testing.assert_allclose(total["family"], direct / LN_2, rtol=1e-5)
    for name in names:  # of the exact world all are the true reverse variance at these steps
        np.testing.assert_allclose(total[name], total["family"], atol=1e-4)


def step_with_no_data_left(tables, x_0, s, t, c):
    """KL of each image from q(x_s | x_t, x_0) to the true q(x_s | x_t) of data N(0, c), both by conditioning."""
    p = pairs.pair(tables.beta[1:], s, t)
    result = []
    for i, image in enumerate(x_0):
        key = jax.random.fold_in(jax.random.fold_in(KEY, i), t)
        eps = np.asarray(jax.random.normal(key, image.shape), float)
        x_t = np.sqrt(p.ab_t) * image + np.sqrt(p.noise_t) * eps
        terms = []
        for x, noisy in zip(image.ravel(), x_t.ravel(), strict=True):
            q, model = pairs.posterior(p, x, noisy), pairs.marginal_reverse(p, 0.0, c, noisy)
            terms.append(gaussians.kl(q[0], q[1], model[0], model[1]))
        result.append(np.mean(terms))
    return np.array(result)
