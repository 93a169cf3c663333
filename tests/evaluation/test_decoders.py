"""L_0 at any variance: from its definition, the choice's own, and the best of a chain that may end anywhere."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from ddpm_jax.diffusion import process, variances
from ddpm_jax.evaluation import likelihood, step_kl
from ddpm_jax.evaluation.likelihood import FREE, OPTIMAL, Comparison
from tests.evaluation.conftest import NAMES, RULES, SCHEDULE, grey_levels, noisy_moments, predicted
from tests.oracle import gaussians, pairs

BETAS = SCHEDULE.beta[1:]
IMAGES = grey_levels(1) / 127.5 - 1
SOME = ("small", "isotropic", "interpolated", "npr", "learned_range")


def direct(t, log_var):
    """-log P of every image in nats per dimension, at t with the noise of the pass."""
    said = np.asarray(predicted(1, t)[1].x_0, float)
    return -gaussians.discretised_log_mass(IMAGES, said, log_var, RULES.levels).mean(axis=(1, 2, 3))


@pytest.mark.slow
@pytest.mark.parametrize("t", [1, 7, 30])
def test_between_the_nodes_it_is_the_mass_of_the_grey_levels(t):
    """The logarithm of a smooth function by a cubic over 20 nodes; float32 in the pass."""
    log_vars = np.random.default_rng(t).uniform(step_kl.decoder_nodes(SCHEDULE)[0], 0, 9)
    found = step_kl.decoder_between_nodes(SCHEDULE, noisy_moments(1).decoders[:, :, t], log_vars)
    for k, log_var in enumerate(log_vars):
        np.testing.assert_allclose(found[:, k], direct(t, log_var), rtol=2e-3)


def test_at_the_first_node_it_is_the_papers_decoder():
    moments = noisy_moments(1)
    assert step_kl.decoder_nodes(SCHEDULE)[0] == pytest.approx(np.log(pairs.pair(BETAS, 1, 2).tb))
    found = step_kl.decoder_between_nodes(SCHEDULE, moments.decoders[:, :, 1], step_kl.decoder_nodes(SCHEDULE)[:1])[
        :, 0
    ]
    np.testing.assert_allclose(found, moments.decoder[:, 1], rtol=1e-6)


def test_the_best_variance_is_the_least_of_a_one_dimensional_search():
    best, term = step_kl.best_decoder(SCHEDULE, noisy_moments(1).decoders.mean(axis=0, dtype=float).T)
    assert np.isnan([best[0], term[0]]).all()
    for t in (1, 5, 20):
        found = minimize_scalar(lambda log_var, t=t: direct(t, log_var).mean(), bounds=(-12, 0), method="bounded")
        assert term[t] == pytest.approx(found.fun, rel=1e-3)
        assert direct(t, best[t]).mean() == pytest.approx(found.fun, rel=1e-3)
    assert (np.diff(best[1:9]) > 0).all()  # more noise, less known


# ---------------------------------------------------------------- the choice's own, as improved-diffusion has it


def own_log_var(name, t, stand_in):
    """From the paper: the stand-in for fixed variances; for a range, f log b + (1 - f) times the stand-in."""
    b = pairs.pair(BETAS, 0, t).b
    if name == "interpolated":
        return 0.5 * np.log(b) + 0.5 * stand_in
    if name == "learned_range":
        f = (np.asarray(predicted(1, t)[1].heads["learned_range"], float) + 1) / 2
        return f * np.log(b) + (1 - f) * stand_in
    return stand_in


@pytest.fixture(scope="module")
def own(calibration):
    comparison = Comparison(SOME, ("even", "quadratic", OPTIMAL, FREE), (1, 3, 5), "own")
    return likelihood.choose(calibration, comparison, noisy_moments(0))


def test_a_choices_own_decoder_replaces_the_shared_one_and_nothing_else(own, calibration):
    shared = likelihood.choose(calibration, Comparison(SOME, ("even", "quadratic"), (3, 5)), noisy_moments(0))
    test = noisy_moments(1)
    ours, theirs = (likelihood.likelihoods(choices, test) for choices in (own, shared))
    for (name, path, K), bound in theirs.items():
        assert bound is not None
        times = own.times[name, path, K]
        stand_in = np.log(pairs.pair(BETAS, int(times[0]), int(times[1])).tb)
        expected = direct(int(times[0]), own_log_var(name, int(times[0]), stand_in)) / np.log(2)
        mine = ours[name, path, K]
        assert mine is not None
        without = bound.per_image - test.decoder[:, times[0]] / np.log(2)
        np.testing.assert_allclose(mine.per_image, without + expected, rtol=2e-3)
        assert (mine.kl, mine.prior) == (bound.kl, bound.prior)


@pytest.mark.parametrize("name", SOME)
def test_from_any_time_the_stand_in_enters_as_the_choice_has_it(calibration, name):
    t, stand_in = 20, np.array([-5.0, -3.0, -1.0])
    found = likelihood.own_decoder(
        SCHEDULE, variances.build(name, calibration), t, stand_in, noisy_moments(1), noisy_moments(1).tables.get(name)
    )
    for k, one in enumerate(stand_in):
        np.testing.assert_allclose(found[:, k], direct(t, own_log_var(name, t, one)), rtol=2e-3)


def test_a_chain_of_one_step_has_no_second_time_and_takes_the_shared_stand_in(own):
    found = likelihood.likelihoods(own, noisy_moments(1))["small", "even", 1]
    assert found is not None
    assert found.decoder == pytest.approx(direct(60, np.log(pairs.pair(BETAS, 1, 2).tb)).mean() / np.log(2), rel=2e-3)


def test_fitted_heads_say_their_own_variance_whatever_the_stand_in(calibration):
    found = likelihood.choose(calibration, Comparison(("learned",), ("even",), (10,), "own"), noisy_moments(0))
    bound = likelihood.likelihoods(found, noisy_moments(1))["learned", "even", 10]
    assert bound is not None
    head = np.asarray(predicted(1, 1)[1].heads["learned"], float)
    assert bound.decoder == pytest.approx(direct(1, head).mean() / np.log(2), rel=2e-3)


# ---------------------------------------------------------------- trajectories that pay for their decoder


def totals(choices, name, path, chains):
    """The bound of calibration images on each of these chains."""
    found = []
    for times in chains:
        cells = {(name, path, len(times)): np.asarray(times)}
        bound = likelihood.likelihoods(choices._replace(times=cells), noisy_moments(0))[name, path, len(times)]
        assert bound is not None
        found.append(bound.total)
    return np.array(found)


@pytest.mark.parametrize("name", SOME)
def test_a_free_chain_is_the_cheapest_of_all_with_their_best_decoders(own, name):
    every = totals(own, name, FREE, [(t, 60) for t in range(1, 60)])
    known = likelihood.choose(own.calibration, Comparison((name,), (FREE,), (2,)), noisy_moments(0))
    assert known.times[name, FREE, 2][0] > 1
    chosen = totals(known, name, FREE, [known.times[name, FREE, 2]])
    assert chosen[0] <= every.min() + 2e-5  # means of interpolated costs, and interpolated means


def test_a_decoder_that_is_dear_after_long_steps_is_paid_by_the_step_into_1(calibration):
    """L_0 made steep in the variance, which grows with tau_2: then tau_2 = 2, and not where the steps are cheapest."""
    moments = noisy_moments(0)
    steep = moments.decoders.copy()
    steep[:, :, 1] = 1e3 * np.linspace(1, 2, step_kl.DECODER_NODES) ** 4
    dear = moments._replace(decoders=steep)
    for name in ("small", "isotropic"):
        own, shared = (
            likelihood.choose(calibration, Comparison((name,), (OPTIMAL,), (3,), how), dear)
            .times[name, OPTIMAL, 3]
            .tolist()
            for how in ("own", "shared")
        )
        assert own == [1, 2, 60]
        assert shared[1] > 2


@pytest.mark.parametrize("name", SOME)
def test_an_optimal_chain_with_its_own_decoder_is_the_cheapest_of_all(own, name):
    every = totals(own, name, OPTIMAL, [(1, t, 60) for t in range(2, 60)])
    chosen = totals(own, name, OPTIMAL, [own.times[name, OPTIMAL, 3]])
    assert chosen[0] <= every.min() + 2e-5
    assert np.ptp(every) > 1e-3


def test_times_that_were_not_measured_are_not_visited(calibration):
    moments = noisy_moments(0)
    few = np.full_like(moments.error, np.nan)
    seen = [1, 9, 33, 50, 60]
    few[:, seen] = moments.error[:, seen]
    choice, isotropic = variances.build("spectral", calibration), variances.build("isotropic", calibration)
    for one in (choice, isotropic):
        cost, whole = (
            likelihood.cost(SCHEDULE, one, moments._replace(error=few)),
            likelihood.cost(SCHEDULE, one, moments),
        )
        reached = np.isfinite(cost)
        assert reached.sum() == 1 + 10
        np.testing.assert_allclose(cost[reached], whole[reached], rtol=1e-14)
        assert {int(i) for i in np.argwhere(reached).ravel()} == {0, *seen}


def test_only_choices_that_look_at_x_t_and_have_no_excess_have_a_table_of_decoders(calibration):
    built = {name: variances.build(name, calibration) for name in NAMES}
    owning = {name for name, choice in built.items() if step_kl.has_own_decoder(choice)}
    assert owning == {"learned", "learned_range"}
    tables = noisy_moments(1).tables
    assert {name for name, table in tables.items() if table.decoders is not None} == owning
    assert process.decoder_log_var(SCHEDULE) == step_kl.decoder_nodes(SCHEDULE)[0]
