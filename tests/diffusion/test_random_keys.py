"""Keys of `jax.random.PRNGKey` are taken wherever a key is, with the numbers of `jax.random.key` of the same seed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import api
from ddpm_jax.diffusion import mixtures, process, random_keys, sampler, schedules, toy, variances
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.evaluation import moments, samples
from ddpm_jax.models import layers, unet
from ddpm_jax.training import model, timestep_sampling
from tests.models.test_unet import LEAST

SCHEDULE = schedules.linear(50)
STEPS = process.steps(SCHEDULE, [1, 20, 50])
WORLD = toy.gaussian(SCHEDULE, np.full((2, 2, 1), 0.3), np.full((2, 2, 1), 0.5))
MODEL = model.of_function(lambda x_t, t: 0.9 * x_t, SCHEDULE, "eps", (2, 2, 1))
TWO = mixtures.of(np.array([0.3, 0.7]), np.stack([np.zeros((2, 2, 1)), np.ones((2, 2, 1))]), np.array([0.1, 0.2]))
IMAGES = np.arange(24, dtype=np.uint8).reshape(6, 2, 2, 1)


def drawn(key: Any, n: int = 4) -> Any:
    return sampler.sample(key, STEPS, WORLD.denoiser, variances.small(), (n, 2, 2, 1))


def draw_times(name: str, key: Any) -> Any:
    time_sampler = timestep_sampling.TIME_SAMPLERS[name]
    return time_sampler.draw(time_sampler.init(5), key, jax.random.split(key, 3), jnp.arange(3), 3)


TAKES: dict[str, Callable[[Any], Any]] = {
    "sample": drawn,
    "sample of 2": lambda key: drawn(key, 2),  # as many as a key has words
    "sample_path": lambda key: sampler.sample_path(key, STEPS, WORLD.denoiser, variances.small(), (2, 2, 2, 1)),
    "a key a sample": lambda key: drawn(jax.random.split(key, 4)),
    "two keys": lambda key: drawn(jax.random.split(key, 2), 2),
    "keys_of": lambda key: jax.random.key_data(sampler.keys_of(key, 3, 5)),
    "sample_each": lambda key: samples.sample_each(key, STEPS, WORLD.denoiser, [variances.small()], (2, 2, 2, 1)),
    "jitted": jax.jit(drawn),
    "mapped": lambda key: jax.vmap(drawn)(jax.random.split(key, 3)),
    "api.sample": lambda key: api.sample(key, MODEL, K=3, n=2),
    "api.measure": lambda key: api.measure(key, MODEL, IMAGES, times=[1, 50]).error,
    "measure": lambda key: moments.measure(key, SCHEDULE, WORLD.denoiser, IMAGES, Rules(), np.array([1, 50])).excess,
    "ToyData": lambda key: WORLD.sample(key, 3),
    "finite": lambda key: toy.finite(SCHEDULE, np.linspace(-1, 1, 20).reshape(5, 2, 2, 1)).sample(key, 3),
    "mixture": lambda key: mixtures.sample(key, TWO, 3),
    "parameters": lambda key: jax.tree.leaves(jax.jit(unet.init, static_argnums=(1, 2))(key, LEAST, 4)),
    "dropout": lambda key: layers.dropout(jnp.ones((3, 8)), 0.5, jax.random.split(key, 3)),
    "uniform": lambda key: draw_times("uniform", key),
    "antithetic": lambda key: draw_times("antithetic", key),
}


SLOW = {"parameters", "sample_each", "mapped"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in TAKES])
def test_the_numbers_are_those_of_a_key_of_the_same_seed(name: str) -> None:
    expected, found = (TAKES[name](make(7)) for make in (jax.random.key, jax.random.PRNGKey))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    other = TAKES[name](jax.random.PRNGKey(8))
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(found), strict=True))


def test_words_on_the_host_and_other_generators_are_taken_as_jax_takes_them() -> None:
    np.testing.assert_array_equal(drawn(np.asarray(jax.random.PRNGKey(7))), drawn(jax.random.key(7)))
    with jax.default_prng_impl("rbg"):
        assert jax.random.PRNGKey(7).shape == (4,)
        np.testing.assert_array_equal(drawn(jax.random.PRNGKey(7), 2), drawn(jax.random.key(7), 2))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (7, "key = 7:"),
        (None, "key = None:"),
        (np.float32([1, 2]), r"key = an array of float32 and shape \(2,\):"),
        (np.uint32([1, 2, 3]), r"key = an array of uint32 and shape \(3,\):"),
        (np.uint32(7), r"key = an array of uint32 and shape \(\):"),
    ],
)
def test_what_is_no_key_is_refused_with_the_cure(key: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said} give one of jax.random.key") as refused:
        random_keys.typed(key)
    assert "\n" not in str(refused.value)


def test_the_number_of_keys_is_counted_in_keys() -> None:
    for make in (jax.random.key, jax.random.PRNGKey):
        with pytest.raises(ValueError, match=r"^3 keys for 4 samples: give one key"):
            drawn(jax.random.split(make(0), 3))
