"""One variance on its whole chain: the bound is what training with it minimises, and what a study finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.data import datasets
from ddpm_jax.data.datasets import DataSet, Split
from ddpm_jax.data.transforms import to_unit
from ddpm_jax.diffusion import losses, process, schedules, variances
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.denoiser import Prediction
from ddpm_jax.evaluation import ablation
from ddpm_jax.evaluation.design import Design
from ddpm_jax.training.model import Model

T, DRAWS = 25, 8
LINEAR = schedules.linear(T)
CHAIN = process.every_step(LINEAR)
FEW = DataSet(
    "few", "twelve, six and thirty digits", 17, False,
    *(Split(*(part[:n] for part in split)) for split, n in zip(datasets.digits()[4:], (12, 6, 30), strict=True)),
)  # fmt: skip
EVERY = tuple(range(1, T + 1))


def crooked(x_t, t):
    """x_0 within [-1, 1], so that clipping changes nothing, and a head that is far off tb at t = 1."""
    column = lambda table: jnp.asarray(np.float32(table))[t].reshape(-1, 1, 1, 1)  # noqa: E731
    ab, noise = column(LINEAR.alpha_bar), column(LINEAR.one_minus_alpha_bar)
    low = column(np.concatenate([[0], CHAIN.log_tb_floored]))
    x_0 = jnp.tanh(x_t)
    head = low + 0.5 + 0.3 * jnp.sin(x_t) + 3.0 * (t == 1).reshape(-1, 1, 1, 1)
    return Prediction((x_t - jnp.sqrt(ab) * x_0) / jnp.sqrt(noise), x_0, {"learned": head})


OWN = Model("trained", "crooked", crooked, LINEAR, "x_0", FEW.shape, FEW.levels, "crooked", ("learned",), EVERY)


def judged(name: str, decoder: str) -> tuple[dict, dict]:
    wanted = ablation.whole_chain_design(name, Rules(levels=17, decoder=decoder), LINEAR, images=5, seeds=2)
    return ablation.evaluate_whole_chain(OWN, FEW, wanted, jax.random.key(0))


def loss_in_bits(choice) -> float:
    """The objective vlb, averaged over every step and a few draws of the noise."""
    x_0 = jnp.repeat(to_unit(jnp.asarray(FEW.test.images), 17), T * DRAWS, axis=0)
    k = jnp.tile(jnp.arange(T), DRAWS * len(FEW.test.images))
    eps = jax.random.normal(jax.random.key(1), x_0.shape)
    drawn = losses.noised(LINEAR, CHAIN, k, x_0, eps, 17)
    return float(losses.vlb(choice, CHAIN)(drawn, crooked).mean() / np.log(2))


@pytest.mark.slow
def test_the_bound_of_a_learned_variance_is_the_loss_that_trains_it() -> None:
    """Within five standard errors over images; with the decoder variance of all others it is not."""
    row, of_classifier = judged("learned", "own")
    expected, apart = loss_in_bits(variances.learned(EVERY)) + row["prior"], 5 * row["standard_error"]
    assert row["bits_per_dim"] == pytest.approx(expected, abs=apart)
    assert abs(judged("learned", "shared")[0]["bits_per_dim"] - expected) > apart
    assert row["bits_per_dim"] == pytest.approx(row["prior"] + row["kl"] + row["decoder"])
    assert len(row["frechet_by_seed"]) == 2
    assert row["frechet"] == pytest.approx(np.mean(row["frechet_by_seed"]))
    assert row["frechet_std"] == pytest.approx(np.std(row["frechet_by_seed"], ddof=1))
    assert of_classifier["held_out_images"] == 36


@pytest.mark.slow
def test_a_fixed_variance_has_the_bound_of_a_study_and_one_decoder() -> None:
    row, _ = judged("large", "own")
    (known,) = ablation.compare(OWN, FEW, Design(Rules(levels=17), ("large",), ("even",), (T,)))
    assert (row["bits_per_dim"], row["standard_error"]) == pytest.approx(
        (known["bits_per_dim"], known["standard_error"])
    )


def test_the_design_is_one_variance_on_all_steps() -> None:
    found = ablation.whole_chain_design("large", Rules(levels=17), LINEAR, images=5, seeds=2)
    assert (found.variances, found.K, found.sample_K, found.trajectories) == (("large",), (T,), (T,), ("even",))
    assert (found.images, found.seeds, found.rules.levels) == (5, 2, 17)


@pytest.mark.parametrize("name", ["isotropic", "family"])
def test_a_variance_that_has_to_be_measured_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"variance '{name}' needs .*: measure the moments of the network first"):
        judged(name, "own")
