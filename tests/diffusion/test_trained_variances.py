"""Trained variances: what each head means, by the oracle, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import process, sampler, schedules, variances
from ddpm_jax.diffusion.denoiser import Prediction, make_denoiser
from tests.oracle import pairs
from tests.oracle import schedules as oracle_schedules
from tests.oracle import variances as oracle_variances

SHORT = [0.1, 0.3, 0.5, 0.7]
BETAS = {name: getattr(oracle_schedules, name)(1000) for name in ("linear", "cosine", "quadratic")}
NOT_BOUNDED = {"clamp_cov": False}


def built(choice, tables, **changes):
    return variances.build(choice, variances.Calibration(tables, **changes))


READING = [name for name, entry in variances.VARIANCES.items() if entry.heads]
WITH_AN_H = [name for name in READING if name in oracle_variances.HAS_EXCESS]


def at(tables, s, t):
    """One step's coefficients."""
    step = process.pairs(tables, np.array([s]), np.array([t]))
    return process.Steps(*(column[0] for column in step))


def said(name, head, eps_hat=0.0):
    head = np.asarray(head, float)
    return Prediction(np.broadcast_to(eps_hat, head.shape), np.zeros(head.shape), {name: head})


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("of", BETAS)
@pytest.mark.parametrize("name", READING)
def test_the_perfect_head_in_a_gaussian_world_is_the_true_variance(name, of, colours):
    """Q(c) at random s < t, float64, c inside and outside of [tb, b]."""
    rng, tables = np.random.default_rng(0), schedules.SCHEDULES[of](1000)
    choice = built(name, tables, **NOT_BOUNDED)
    for t in rng.integers(2, 1001, 10):
        s = int(rng.integers(0, t))
        p, eps_hat = pairs.pair(BETAS[of], s, int(t)), rng.normal(size=(3, 2, 2, colours))
        for c in (0.25, 1.0, 4.0):
            head = np.broadcast_to(oracle_variances.gaussian_head(name, p, BETAS[of], c, eps_hat), eps_hat.shape)
            got = np.exp(choice.log_var(at(tables, s, t), None, said(name, head, eps_hat)))
            # sn: eps_hat^2 < 20 takes 16 - log10(20/h) digits of h > 1e-6 with it
            np.testing.assert_allclose(got, oracle_variances.true_variance(p, c), rtol=1e-7)


# ---------------------------------------------------------------- learned range


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("of", BETAS)
def test_the_ends_of_the_range_are_small_and_large_at_any_pair(of, colours):
    rng, tables = np.random.default_rng(1), schedules.SCHEDULES[of](1000)
    for t in rng.integers(2, 1001, 50):
        s = int(rng.integers(1, t))
        p, step = pairs.pair(BETAS[of], s, int(t)), at(tables, s, t)
        for head, end, other in ((-1.0, p.tb, variances.small()), (1.0, p.b, variances.large(tables))):
            got = variances.learned_range().log_var(
                step, None, said("learned_range", np.full((2, 3, 1, colours), head))
            )
            np.testing.assert_allclose(got, np.log(end), rtol=1e-8, atol=1e-12)
            alone = process.pairs(tables, np.array([s]), np.array([t]))
            np.testing.assert_allclose(got, variances.table(other, alone)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("of", BETAS)
@pytest.mark.parametrize("t", [1, 2, 500, 1000])
def test_at_the_data_tb_of_1_and_2_stands_for_tb(of, t):
    step, stand_in = at(schedules.SCHEDULES[of](1000), 0, t), pairs.pair(BETAS[of], 1, 2).tb
    ends = [
        variances.learned_range().log_var(step, None, said("learned_range", np.full((1, 1, 1, 1), head))).item()
        for head in (-1.0, 0.0, 1.0)
    ]
    assert np.isfinite(ends).all()
    assert ends[0] == pytest.approx(np.log(stand_in), rel=1e-8)
    assert ends[1] == pytest.approx((ends[0] + ends[2]) / 2, rel=1e-12)
    assert ends[2] == pytest.approx(np.log(pairs.pair(BETAS[of], 0, t).b), rel=1e-8, abs=1e-12)


def test_the_range_is_left_freely_unless_the_head_is_clamped(short):
    step, p = at(short, 2, 4), pairs.pair(SHORT, 2, 4)
    head = np.array([-3.0, -1.0, 0.5, 1.0, 2.5]).reshape(5, 1, 1, 1)
    free, clamped = (
        built(choice, short).log_var(step, None, said("learned_range", head)).ravel()
        for choice in ("learned_range", "learned_range:clamped")
    )
    share = (head.ravel() + 1) / 2
    np.testing.assert_allclose(free, share * np.log(p.b) + (1 - share) * np.log(p.tb), rtol=1e-12)
    np.testing.assert_allclose(clamped, np.clip(free, np.log(p.tb), np.log(p.b)), rtol=1e-12)
    assert free[0] < np.log(p.tb) and free[-1] > np.log(p.b)


# ---------------------------------------------------------------- clamps of h


@pytest.mark.parametrize(("name", "offset"), [("npr", 0.0), ("sn", 1.5**2), ("ocm", -1.0)])
def test_heads_are_clamped_where_h_leaves_its_bounds(short, name, offset):
    """h = -.3, inside and 50 with the head's own offset: sn takes eps_hat^2 off, ocm adds 1."""
    p, step = pairs.pair(SHORT, 1, 3), at(short, 1, 3)
    top = p.ab_t / p.noise_t
    h = np.array([-0.3, 0.5 * top, 50.0]).reshape(3, 1, 1, 1)
    choice = built(name, short)
    prediction = said(name, h + offset, eps_hat=1.5)
    sigma2 = np.exp(choice.log_var(step, None, prediction)).ravel()
    np.testing.assert_allclose(sigma2, [p.tb, p.tb + p.v * 0.5 * top, p.tb + p.v * top], rtol=1e-9)
    assert choice.clamped is not None
    assert choice.clamped(step, None, prediction).ravel().tolist() == [True, False, True]
    assert built(name, short, **NOT_BOUNDED).clamped is None


# ---------------------------------------------------------------- what is refused


def test_learned_is_refused_on_other_chains(short):
    choice = built("learned", short, learned_times=(1, 2, 4))
    variances.check_steps(choice, process.steps(short, [1, 2, 4]))
    for times in ([1, 4], [1, 2, 3, 4], [1, 3, 4]):
        with pytest.raises(ValueError, match="fitted on a chain of 3 steps"):
            variances.check_steps(choice, process.steps(short, times))
    with pytest.raises(ValueError, match="DDPM kernel only"):
        variances.check_steps(choice, process.steps(short, [1, 2, 4], process.ddim(0.5)))
    variances.check_steps(variances.learned(None), process.steps(short, [1, 4]))


@pytest.mark.parametrize("name", READING)
def test_a_denoiser_without_the_head_is_refused_before_it_is_compiled(short, name):
    """One line that names the head and the cure."""
    steps, shape = process.steps(short, [1, 4]), (2, 2, 2, 1)
    choice = built(name, short)
    without = make_denoiser(lambda params, x_t, t: x_t, None, short, "x_0")
    other = make_denoiser(lambda params, x_t, t: jnp.tile(x_t, 2), None, short, "x_0", ("other",))
    for denoiser, there in ((without, "none"), (other, "other")):
        with pytest.raises(ValueError, match=f"{name!r} reads a head .* has {there}: train") as caught:
            sampler.sample(jax.random.key(0), steps, denoiser, choice, shape)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="denoiser has none"):
        variances.read_head(None, name)
    with pytest.raises(ValueError, match="reads a head"):
        choice.log_var(at(short, 1, 4), None, said("other", np.zeros((1, 1, 1, 1))))


@pytest.mark.parametrize("name", READING)
def test_a_choice_that_reads_heads_has_no_table(short, name):
    with pytest.raises(ValueError, match="x_t"):
        variances.table(built(name, short), process.steps(short, [1, 4]))


def test_heads_work_on_device_arrays_as_on_the_hosts(short):
    rng = np.random.default_rng(4)
    head, eps_hat = rng.uniform(0.1, 0.9, (2, 3, 2, 2, 1))
    for name in READING:
        given = head + eps_hat**2 if name == "sn" else head
        choice, step = built(name, short, **NOT_BOUNDED), at(short, 2, 4)
        on_host = choice.log_var(step, None, said(name, given, eps_hat))
        prediction = Prediction(jnp.asarray(eps_hat), jnp.zeros(eps_hat.shape), {name: jnp.asarray(given)})
        on_device = jax.jit(lambda step, prediction, choice=choice: choice.log_var(step, None, prediction))
        np.testing.assert_allclose(on_device(step, prediction), on_host, rtol=1e-4, atol=1e-5)
