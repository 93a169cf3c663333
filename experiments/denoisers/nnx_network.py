r"""A Flax NNX module as a denoiser, for --denoiser: it predicts v.

It learns the digits when it is imported, in seconds on two CPU cores; a network of your own would read its parameters.
Command: ddpm-jax ablate --denoiser experiments.denoisers.nnx_network:v --prediction v \
    --workdir runs/nnx
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from ddpm_jax.data import datasets
from ddpm_jax.data.transforms import to_unit
from ddpm_jax.diffusion import losses, process, schedules
from ddpm_jax.diffusion.denoiser import from_v

STEPS, BATCH = 1000, 256
DIGITS = datasets.digits()
LINEAR = schedules.linear()
CHAIN = process.every_step(LINEAR)


class Perceptron(nnx.Module):
    """v_hat from flat pixels and the log of the signal-to-noise ratio."""

    def __init__(self, rngs: nnx.Rngs, pixels: int = 64, width: int = 256):
        self.first = nnx.Linear(pixels + 8, width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.last = nnx.Linear(width, pixels, rngs=rngs)

    def __call__(self, x_t: jax.Array, t: jax.Array) -> jax.Array:
        """What is predicted of x_t."""
        ratio = jnp.asarray(LINEAR.alpha_bar / np.maximum(LINEAR.one_minus_alpha_bar, 1e-9), jnp.float32)[t]
        phases = jnp.log(ratio)[:, None] * jnp.array([0.1, 0.3, 0.6, 1.0], jnp.float32)
        h = jnp.concatenate([x_t.reshape(len(x_t), -1), jnp.sin(phases), jnp.cos(phases)], axis=1)
        h = nnx.swish(self.first(h))
        return self.last(nnx.swish(self.second(h)) + h).reshape(x_t.shape)


def learn() -> Perceptron:
    """The module after a short training with NNX's own optimizer."""
    model = Perceptron(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(optax.cosine_decay_schedule(2e-3, STEPS)), wrt=nnx.Param)
    loss = losses.simple("v")

    @nnx.jit
    def step(model: Perceptron, optimizer: nnx.Optimizer, images: jax.Array, key: jax.Array) -> None:
        time_key, noise_key = jax.random.split(key)
        x_0 = to_unit(images, DIGITS.levels)
        k = jax.random.randint(time_key, (BATCH,), 0, LINEAR.T, jnp.int32)
        eps = jax.random.normal(noise_key, x_0.shape, x_0.dtype)

        def mean_loss(model: Perceptron) -> jax.Array:
            denoiser = lambda x_t, t: from_v(LINEAR, x_t, t, model(x_t, t))  # noqa: E731
            return loss(losses.noised(LINEAR, CHAIN, k, x_0, eps), denoiser).mean()

        optimizer.update(model, nnx.grad(mean_loss)(model))

    images, draw = DIGITS.train.images, np.random.default_rng(0)
    for index in range(STEPS):
        batch = jnp.asarray(images[draw.integers(0, len(images), BATCH)])
        step(model, optimizer, batch, jax.random.fold_in(jax.random.key(1), index))
    return model


v = learn()
