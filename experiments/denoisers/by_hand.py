"""A denoiser written by hand in plain JAX, for --denoiser: a perceptron that predicts eps.

It learns the digits when it is imported, in seconds on two CPU cores; a network of your own would read its parameters.
Command: ddpm-jax ablate --denoiser experiments.denoisers.by_hand:eps --workdir runs/by_hand
"""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddpm_jax.data import datasets
from ddpm_jax.diffusion import losses, process, schedules
from ddpm_jax.training import timestep_sampling
from ddpm_jax.training.step import Recipe, in_training, initial_state, train_step

WIDTHS = (64 + 33, 256, 256, 64)  # 8 x 8 pixels and 33 features of the time
STEPS, BATCH = 1000, 256
DIGITS = datasets.digits()


def network(params, x_t, t, keys=None):
    """eps_hat from flat pixels and sinusoids of t."""
    angles = t[:, None].astype(jnp.float32) / 1000 * 2.0 ** jnp.arange(-1, 10, dtype=jnp.float32) * jnp.pi
    features = jnp.concatenate([jnp.sin(angles), jnp.cos(angles), jnp.sin(2.5 * angles)], axis=1)
    h = jnp.concatenate([x_t.reshape(len(x_t), -1), features], axis=1)
    for weights, bias in params[:-1]:
        h = jax.nn.swish(h @ weights + bias)
    weights, bias = params[-1]
    return (h @ weights + bias).reshape(x_t.shape)


def learn():
    """Averaged parameters after a short training, by the project's own step."""
    shapes = list(pairwise(WIDTHS))
    keys = jax.random.split(jax.random.key(0), len(shapes))
    params = [
        (jax.random.normal(key, shape, jnp.float32) / float(np.sqrt(shape[0])), jnp.zeros(shape[1], jnp.float32))
        for key, shape in zip(keys, shapes, strict=True)
    ]
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, STEPS))
    linear = schedules.linear()
    recipe = Recipe(
        schedule=linear,
        chain=process.every_step(linear),
        denoiser=in_training(network, linear, "eps"),
        objective=losses.simple("eps"),
        time_sampler=timestep_sampling.build("uniform"),
        optimizer=optimizer,
        ema_decay=(0.99,),
        levels=DIGITS.levels,
        flip=False,
    )
    state = initial_state(jax.random.key(1), params, recipe)
    step = jax.jit(partial(train_step, recipe))
    images, draw = DIGITS.train.images, np.random.default_rng(0)
    for _ in range(STEPS):
        state, _ = step(state, images[draw.integers(0, len(images), BATCH)])
    return state.ema[0]


eps = partial(network, learn())
