"""The sampler against the recursion, for every choice of the registry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import process, toy, variances
from ddpm_jax.diffusion.variances import Calibration
from ddpm_jax.evaluation.exact import gaussian_chain, gaussian_samples
from ddpm_jax.evaluation.exact.gaussian_samples import Data
from ddpm_jax.evaluation.likelihood import calibrate
from tests.oracle import gaussian_world, pairs
from tests.oracle import variances as oracle_variances

SHORT = [0.1, 0.3, 0.5, 0.7]
TIMES = np.array([1, 2, 4])
LEVELS = (0.1, 1.0, 4.0)
DATA = Data(0.3, np.repeat(LEVELS, 4).reshape(3, 4, 1))
N = 1000
KERNELS = {"ddpm": process.DDPM, "ddim": process.ddim(0.5)}
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def known(short):
    """What the registry needs in this world."""
    fixed = Calibration(short, clamp_cov=False, learned_times=tuple(TIMES.tolist()))
    return calibrate(fixed, gaussian_chain.moments(short, DATA.c))


@pytest.fixture(scope="module")
def rows(short):
    return gaussian_samples.compare(KEY, short, DATA, TIMES, KERNELS, N)


@pytest.mark.slow
def test_every_choice_takes_part_with_the_kernels_it_knows(rows, known):
    found = {(row["variance"], row["kernel"]) for row in rows}
    every = {name: variances.build(name, known) for name in variances.VARIANCES}
    with_ddim = {name for name, choice in every.items() if choice.every_kernel}
    assert found == {(name, "ddpm") for name in every} | {(name, "ddim") for name in with_ddim}
    assert {row["last_step"] for row in rows} == {"noise", "mean"}
    assert len(rows) == 2 * len(found)
    assert all(row["level"] == list(LEVELS) and row["K"] == 3 for row in rows)


def test_samples_agree_with_the_recursion_within_five_standard_errors(rows):
    for row in rows:
        z = np.abs([*row["variance_z"], *row["error_z"]])
        assert z.max() < 5, row


def test_the_deviation_is_of_the_drawn_variance(rows):
    """For choices that are isotropic every coefficient of a level ends alike: z = (drawn/P - 1)/sqrt(2/n)."""
    for row in rows:
        if row["variance"] in ("small", "large", "isotropic"):
            P, drawn = np.asarray(row["variance_exact"]), np.asarray(row["variance_drawn"])
            np.testing.assert_allclose(row["variance_z"], (drawn / P - 1) / np.sqrt(2 / (4 * N)), rtol=1e-6)


@pytest.mark.parametrize(("kernel", "eta"), [("ddpm", None), ("ddim", 0.5)])
@pytest.mark.parametrize("last_step", ["noise", "mean"])
def test_the_exact_column_is_the_oracles(rows, kernel, eta, last_step):
    chain = pairs.chain(SHORT, TIMES)
    row = next(r for r in rows if (r["variance"], r["kernel"], r["last_step"]) == ("large", kernel, last_step))
    sigma2 = [oracle_variances.variance("large", p, SHORT, eta=eta) for p in chain]
    sigma2[0] *= last_step == "noise"
    for level, P, error in zip(row["level"], row["variance_exact"], row["error_exact"], strict=True):
        mean, var = gaussian_world.sample_moments(chain, sigma2, DATA.mean, level, eta)
        assert P == pytest.approx(var, rel=1e-9)
        assert error == pytest.approx(mean - DATA.mean, rel=1e-9)


@pytest.mark.parametrize("name", ["spectral", "npr", "sn", "ocm", "learned", "learned_range"])
def test_choices_that_know_every_direction_are_exact(rows, name):
    """They end with the data's variance but for x_T: (ab_T c^2/V_T^2)(1 - V_T), large on this short schedule."""
    ab_T = np.prod(1 - np.asarray(SHORT))
    c = np.asarray(LEVELS)
    V_T = ab_T * c + 1 - ab_T
    row = next(r for r in rows if (r["variance"], r["kernel"], r["last_step"]) == (name, "ddpm", "noise"))
    np.testing.assert_allclose(row["variance_exact"], c + ab_T * c**2 / V_T**2 * (1 - V_T), rtol=1e-5)


def test_a_wrong_recursion_would_be_seen(short, monkeypatch):
    def wrong(choice, steps, denoiser, shape):
        return np.broadcast_to(np.log(steps.b * 1.2)[:, None, None, None], (steps.K, *shape))

    monkeypatch.setattr(variances, "VARIANCES", {"large": variances.VARIANCES["large"]})
    monkeypatch.setattr(gaussian_samples, "fixed_log_var", wrong)
    found = gaussian_samples.compare(KEY, short, DATA, TIMES, {"ddpm": process.DDPM}, N)
    assert min(np.abs(row["variance_z"]).max() for row in found) > 5


@pytest.mark.parametrize("name", ["npr", "sn", "ocm", "learned", "learned_range"])
def test_an_exact_head_makes_the_variance_the_same_at_every_x_t(short, known, name):
    choice, steps = variances.build(name, known), process.steps(short, TIMES)
    world = toy.gaussian(short, np.full(DATA.c.shape, DATA.mean), DATA.c)
    denoiser = toy.exact_heads(world, steps)
    table = gaussian_samples.fixed_log_var(choice, steps, denoiser, DATA.c.shape)
    true = gaussian_chain.true_log_var(short, steps, DATA.c)
    np.testing.assert_allclose(table, true, atol=1e-5)
    x_t = jax.random.normal(KEY, (5, *DATA.c.shape))
    for k in range(1, 3):
        step = process.Steps(*(column[k] for column in steps))
        drawn = choice.log_var(step, x_t, denoiser(x_t, jnp.full(5, step.t)))
        np.testing.assert_allclose(drawn, np.broadcast_to(true[k], drawn.shape), atol=1e-5)
