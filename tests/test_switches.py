"""JAX's switches: what is computed, and in which precision, does not depend on what is switched on beside it.

Programs are traced and not compiled: types and ranks are known then.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import api
from ddpm_jax.data import datasets
from ddpm_jax.diffusion import (
    bases,
    conventions,
    gaussian,
    mixtures,
    process,
    sampler,
    schedules,
    timesteps,
    toy,
    variances,
)
from ddpm_jax.diffusion.variances import Calibration
from ddpm_jax.evaluation import moments, step_kl
from ddpm_jax.models import unet
from ddpm_jax.training import checkpoints, loop, model, setup, step, timestep_sampling
from ddpm_jax.training import heads as head_training
from ddpm_jax.training.config import Config, Heads
from ddpm_jax.training.step import TENTHS, Recent
from tests.cli.conftest import few_digits
from tests.models.test_unet import LEAST, TINY

TRAININGS = {
    "simple": Config(preset="tiny", T=50, batch=8),
    "mu": Config(preset="tiny", T=50, batch=8, prediction="mu", objective="mu_mse", time_sampler="antithetic"),
    "vlb": Config(preset="tiny", T=50, batch=8, prediction="x_0", objective="vlb", optimizer="lookahead"),
    "hybrid": Config(
        preset="tiny", T=50, batch=8, objective="hybrid", variance="learned_range", weighting="min_snr",
        time_sampler="loss_second_moment", optimizer="adamw", rate_schedule="cosine", steps=50, warmup=2,
    ),
}  # fmt: skip
SHORT = Config(preset="tiny", data="digits", T=50, steps=2, batch=8, log_every=1, save_every=2, sample_every=0)
HEADS = Heads(heads=("npr", "sn", "ocm", "learned", "learned_range"), chain=4)
KEY = jax.random.key(3)
LINEAR = schedules.linear(50)
X64, RANKS = partial(jax.enable_x64, True), partial(jax.numpy_rank_promotion, "raise")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(unet.PRESETS, "tiny", TINY)
    monkeypatch.setitem(unet.HEAD_SIZES, "narrow", replace(LEAST, dropout=0.0))
    monkeypatch.setitem(datasets.DATASETS, "digits", few_digits)


Program = tuple[Callable, tuple]


def training(name: str) -> Program:
    run = setup.resolve(TRAININGS[name])
    state = jax.eval_shape(partial(setup.fresh, run))
    recipe = run.recipe._replace(unroll=False, flip=True, microbatches=2)
    return partial(step.train_steps, recipe), (state, jax.ShapeDtypeStruct((2, 8, 8, 8, 1), np.uint8))


def headed() -> tuple[model.Model, head_training.HeadRun]:
    """A network of zeros with heads of zeros, and the run that might train them."""
    run = setup.resolve(TRAININGS["simple"])
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), unet.shapes(run.network))
    stored = model.stored_network(
        "trained", "it", run.config, run.network, params, 2, datasets.describe(datasets.load("digits"))
    )
    wanted = head_training.resolve(HEADS, stored.model, run.data)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), unet.shapes(wanted.network))
    return model.with_heads(stored.model, HEADS, wanted.network, params), wanted


def training_of_heads() -> Program:
    found, wanted = headed()
    state, images = jax.eval_shape(partial(head_training.fresh, wanted, 0)), np.zeros((1, 8, 8, 8, 1), np.uint8)
    recipe = wanted.recipe._replace(unroll=False)
    return partial(step.train_steps, recipe), (state, images, None, found.denoiser)


def held_out() -> Program:
    run = setup.resolve(TRAININGS["simple"])
    images, index = np.zeros((4, 8, 8, 1), np.uint8), np.arange(4)
    return partial(step.held_out_loss, run.recipe), ((KEY, unet.shapes(run.network), None), (12 * index, index, images))


def known(found: model.Model) -> Calibration:
    table = np.linspace(0, 0.5, found.schedule.T + 1)
    spectrum = np.full((found.schedule.T + 1, *found.shape), 0.4)
    return Calibration(found.schedule, 0.3, table, table, spectrum, ((1.0,),), learned_times=found.learned_times)


def sampling(name: str, eta: float | None = None, given: bool = False) -> Program:
    found, _ = headed()
    kernel = process.DDPM if eta is None else process.ddim(eta)
    steps = process.steps(found.schedule, timesteps.even(50, 4), kernel)
    x_T = jnp.zeros((3, *found.shape), jnp.float32) if given else None
    rules, choice = conventions.Rules(levels=17, pixel_clip=1.0), variances.build(name, known(found))
    shared, chains, static = sampler.prepare(KEY, steps, found.denoiser, (choice,), (3, *found.shape), rules, x_T)
    return partial(sampler.scan, **static, record=True), (shared, chains)


def measuring() -> Program:
    found, _ = headed()
    times = timesteps.even(50, 4)
    names = ("npr", "sn", "ocm", "learned", "learned_range", "spectral")
    choices = {name: variances.build(name, known(found)) for name in names}
    at = process.pairs(found.schedule, np.zeros_like(times), times)
    prepared = {name: step_kl.prepare(found.schedule, choice, times) for name, choice in choices.items()}
    fixed = {
        name: step_kl.Tabulated(
            None if choice.headless else choice.log_var,
            choice.excess,
            choice.clamped,
            choice.basis,
            step_kl.has_own_decoder(choice),
        )
        for name, choice in choices.items()
    }
    look = partial(moments.look, levels=17, clip_x_0=True, spectral=bases.dct(((1.0,),)), fixed=tuple(fixed.items()))
    shared = (KEY, (at, prepared), step_kl.decoder_nodes(found.schedule), found.denoiser)
    return look, (shared, (np.arange(4), np.zeros((4, *found.shape), np.uint8)))


PROGRAMS: dict[str, Callable[[], Program]] = {
    **{f"train {name}": partial(training, name) for name in TRAININGS},
    "train heads": training_of_heads,
    "held out": held_out,
    **{f"sample {name}": partial(sampling, name) for name in ("large", "spectral", "npr", "learned_range:clamped")},
    "sample from x_T": partial(sampling, "sn", given=True),
    "sample ddim": partial(sampling, "analytic", eta=0.5),
    "measure": measuring,
}


def inner(jaxpr: Any) -> Iterator[Any]:
    """All its equations, and those of the programs within."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for part in value if isinstance(value, (tuple, list)) else (value,):
                part = getattr(part, "jaxpr", part)
                if hasattr(part, "eqns"):
                    yield from inner(part)


def wide(jaxpr: Any) -> set[str]:
    """Where arrays of float64 are made; single numbers, as of an optimizer's rate, may be."""
    return {
        f"{equation.primitive} {variable.aval}"
        for equation in inner(jaxpr)
        for variable in equation.outvars
        if getattr(variable.aval, "dtype", None) == np.float64 and variable.aval.size > 1
    }


def types(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)


QUICK = ("sample large", "measure")
OF_EACH = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in PROGRAMS]
)


@OF_EACH
def test_under_x64_a_program_takes_and_leaves_what_it_does_without(name: str) -> None:
    function, arguments = PROGRAMS[name]()
    usual = types(jax.eval_shape(function, *arguments))
    with X64():
        function, arguments = PROGRAMS[name]()
        assert types(jax.eval_shape(function, *arguments)) == usual
        found = wide(jax.make_jaxpr(function)(*arguments).jaxpr)
    assert not found


@OF_EACH
def test_no_program_leaves_ranks_to_be_guessed(name: str) -> None:
    with RANKS():
        function, arguments = PROGRAMS[name]()
        jax.eval_shape(function, *arguments)


def known_data() -> dict[str, toy.ToyData]:
    schedule, images = LINEAR, np.linspace(-1, 1, 20).reshape(5, 2, 2, 1)
    two = np.stack([np.full((2, 2, 1), -0.5), np.full((2, 2, 1), 0.5)])
    return {
        "point": toy.point(schedule, images[0]),
        "gaussian": toy.gaussian(schedule, images[0], np.full((2, 2, 1), 0.5)),
        "mixture": toy.mixture(schedule, np.array([0.3, 0.7]), two, np.array([0.1, 0.2])),
        "finite": toy.finite(schedule, images, 2),
        "coefficients": toy.in_basis(schedule, images, bases.dct(((1.0,),))),
    }


def answers(data: toy.ToyData) -> dict[str, Any]:
    x_0 = data.sample(KEY, 3)
    t = jnp.asarray([2, 9, 50])
    kernel = data.reverse_kernel(x_0, 3, 7)
    drawn = gaussian.sample(kernel, x_0) if isinstance(kernel, gaussian.Gaussian) else mixtures.mean(kernel)
    heads = toy.exact_heads(data, process.steps(LINEAR, [2, 9, 50]))(x_0, t).heads
    return {"x_0": x_0, "said": data.denoiser(x_0, t)[:2], "cov": data.cov(x_0, t), "drawn": drawn, "heads": heads}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["point", "gaussian", "mixture", "finite", "coefficients"])
@pytest.mark.parametrize("switch", [X64, RANKS, partial(jax.debug_nans, True)], ids=["x64", "ranks", "nans"])
def test_data_with_known_answers_give_the_same_ones(name: str, switch: Callable) -> None:
    expected = answers(known_data()[name])
    with switch():
        found = answers(known_data()[name])
    assert types(found) == types(expected)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, expected)


@pytest.mark.parametrize("x64", [False, True])
def test_an_own_denoiser_is_fed_float32_and_known_by_the_same_name(x64: bool) -> None:
    """One that keeps x_t's dtype, one that is a network of float32, and one that asks for float32 itself."""
    seen = set()

    def scaled(x_t: jax.Array, t: jax.Array) -> jax.Array:
        seen.add(str(x_t.dtype))
        return 0.9 * x_t

    functions = (scaled, lambda x_t, t: np.float32(0.9) * x_t, lambda x_t, t: (0.9 * x_t).astype(jnp.float32))
    without = [model.of_function(function, LINEAR, "eps", (8, 8, 1)).fingerprint for function in functions]
    with jax.enable_x64(x64):
        models = [model.of_function(function, LINEAR, "eps", (8, 8, 1)) for function in functions]
        x_0 = api.sample(KEY, models[0], K=3, n=2)
    assert [found.fingerprint for found in models] == without
    assert seen == {"float32"} and x_0.dtype == np.float32


def test_a_denoiser_that_returns_float64_is_told_so_still() -> None:
    with X64(), pytest.raises(ValueError, match=r"returns float64 \(23, 8, 8, 1\) .* it must return float32"):
        model.of_function(lambda x_t, t: x_t * np.float64(0.9), LINEAR, "eps", (8, 8, 1))


@pytest.mark.slow
@pytest.mark.parametrize("trained_with", [False, True])
def test_a_run_is_read_and_sampled_whichever_way_it_was_trained(tmp_path: Path, trained_with: bool) -> None:
    with jax.enable_x64(trained_with):
        loop.fit(SHORT, tmp_path)
    stored = checkpoints.describe(tmp_path / "checkpoints")["layout"]
    assert {dtype for _, dtype in stored.values()} == {"float32", "int32", "uint32"}
    found = {}
    for x64 in (False, True):
        with jax.enable_x64(x64):
            read = model.load(tmp_path)
            measured = api.measure(KEY, read, datasets.load("digits").calibration.images[:4], times=[1, 25, 50])
            drawn = np.asarray(api.sample(KEY, read, "large", K=3, n=2))
        found[x64] = (drawn, measured.error[:, [1, 25, 50]], measured.decoder[:, [1, 25, 50]])
    for one, other in zip(found[False], found[True], strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    with jax.enable_x64(not trained_with):
        assert loop.fit(replace(SHORT, steps=3), tmp_path).step == 3  # it goes on, too


@pytest.mark.slow
def test_training_draws_the_same_under_x64(tmp_path: Path) -> None:
    found = {}
    for x64 in (False, True):
        with jax.enable_x64(x64):
            loop.fit(SHORT, tmp_path / str(x64))
        found[x64] = checkpoints.read_arrays(tmp_path / str(x64) / "checkpoints", 2)
    for name, values in found[False].items():
        np.testing.assert_allclose(found[True][name], values, rtol=1e-3, atol=1e-5, err_msg=name)


def test_losses_of_levels_that_were_not_drawn_are_not_divided_on_a_device() -> None:
    sums, counts = jnp.arange(TENTHS, dtype=jnp.float32), jnp.arange(TENTHS, dtype=jnp.float32) % 3
    with jax.debug_nans(True):
        means = Recent(sums, counts).means
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.asarray(sums) / np.where(np.asarray(counts) > 0, counts, np.nan).astype(np.float32)
    np.testing.assert_array_equal(means, expected)
    assert means.dtype == np.float32


def test_what_is_masked_is_not_a_number_before_it_is_left_out_either() -> None:
    """Times without a loss, all losses 0, and a block's data that another block holds at a time without data."""
    nothing = timestep_sampling.empty(5)
    full = nothing._replace(counts=jnp.full(5, 10, jnp.int32))
    blocks = toy.finite(schedules.jsd(4), np.linspace(-1, 1, 5).reshape(5, 1, 1, 1), 2)
    with jax.debug_nans(True), jax.disable_jit():
        for history in (nothing, full):
            np.testing.assert_allclose(timestep_sampling.shares(history), np.full(5, 2**30 / 5), rtol=1e-6)
        x_0 = blocks.denoiser(jnp.ones((1, 1, 1, 1), jnp.float32), jnp.asarray([4])).x_0
    np.testing.assert_allclose(x_0, 0, atol=1e-6)  # the mean of the data, as nothing is known


@pytest.mark.parametrize("switch", [RANKS, partial(jax.debug_nans, True)], ids=["ranks", "nans"])
def test_the_mass_of_a_pixel_is_found_for_any_residual(switch: Callable) -> None:
    levels = jnp.linspace(-1, 1, 17, dtype=jnp.float32).reshape(1, 1, 17, 1)
    kernel = gaussian.Gaussian(jnp.zeros_like(levels), jnp.float32(-9.0))
    expected = gaussian.discretised_log_prob(kernel, levels, 17)
    with switch():
        np.testing.assert_array_equal(gaussian.discretised_log_prob(kernel, levels, 17), expected)


@pytest.mark.slow
@pytest.mark.parametrize("switch", [RANKS, partial(jax.debug_nans, True)], ids=["ranks", "nans"])
def test_a_sound_run_trains_is_measured_and_compared(tmp_path: Path, switch: Callable) -> None:
    """Of 8 images a step most noise levels have no loss when the first line is logged."""
    rows = {}
    for name, within in (("usual", nullcontext), ("switched", switch)):
        with within():
            loop.fit(SHORT, tmp_path / name)
            found = model.load(tmp_path / name)
            rows[name] = api.compare(found, datasets.load("digits"), ("small", "isotropic", "spectral"), K=(3,))
    for one, other in zip(rows["usual"], rows["switched"], strict=True):
        assert one["bits_per_dim"] == pytest.approx(other["bits_per_dim"], rel=1e-5)
