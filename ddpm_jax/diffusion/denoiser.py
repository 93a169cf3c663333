"""What a denoiser says of x_t, in any of its forms: eps, x_0, v or mu, freely converted.

The article's predict step. A network is read once, here; samplers, losses and evaluation see a Prediction.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial
from jaxtyping import Float, Int

from ddpm_jax.diffusion.process import Column, add_noise
from ddpm_jax.diffusion.schedules import Schedule, Times, rows

Images = Float[Array, "b *x"]


class Prediction(NamedTuple):
    """What a denoiser says of x_t: the noise and the data in it, formed once, and the variance's extra channels.

    Attributes:
      eps: predicted noise.
      x_0: predicted data.
      heads: what the variances that are trained read, each (b, *x), by name and in its natural unit (`models.heads`).
    """

    eps: Images
    x_0: Images
    heads: dict[str, Images] | None = None


@runtime_checkable
class Denoiser(Protocol):
    """All that samplers, losses and evaluation know of a network: (x_t, t) -> Prediction, with t (b,) in 1..T."""

    def __call__(self, x_t: Images, t: Int[Array, " b"], /) -> Prediction: ...


Network = Callable[..., Images]


def from_eps(schedule: Schedule, x_t: Images, t: Times, output: Images) -> Prediction:
    """The network says eps. Ho et al. 2020, equation 15; at alpha_bar_t = 0 it says nothing of x_0 and is refused."""
    signal, noise = _roots(schedule, t, x_t)
    return Prediction(output, (x_t - noise * output) / signal)


def from_x_0(schedule: Schedule, x_t: Images, t: Times, output: Images) -> Prediction:
    """The network says x_0: the article's x-bar(x_t)."""
    return Prediction(_eps_of(x_t, output, *_roots(schedule, t, x_t)), output)


def from_v(schedule: Schedule, x_t: Images, t: Times, output: Images) -> Prediction:
    """The network says v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0. Salimans & Ho 2022, section 4."""
    signal, noise = _roots(schedule, t, x_t)
    return Prediction(noise * x_t + signal * output, signal * x_t - noise * output)


def from_mu(schedule: Schedule, x_t: Images, t: Times, output: Images) -> Prediction:
    """The network says mu, the mean of q(x_{t-1} | x_t, x_0): mu = p x_0 + q x_t with the posterior's coefficients.

    Ho et al. 2020, equations 7 and 8. Differs from: nothing else predicts a quantity of the pair (t - 1, t); x_0 and
    eps follow from it at any pair.
    """
    of_x_0, of_x_t = _posterior(schedule, t, x_t)
    return from_x_0(schedule, x_t, t, (output - of_x_t * x_t) / of_x_0)


def _roots(schedule: Schedule, t: Times, like: Images) -> tuple[Array, Array]:
    """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), shaped to multiply a batch.

    Numerics: of the rows in the batch's precision, on the host and where the schedule is an argument of a jitted
    function alike, so that a network means the same in training and wherever it is evaluated.
    """
    return jnp.sqrt(rows(schedule.alpha_bar, t, like)), jnp.sqrt(rows(schedule.one_minus_alpha_bar, t, like))


def _eps_of(x_t: Images, x_0: Images, signal: Column | Array, noise: Column | Array) -> Images:
    """The noise that is left when x_0 is taken out of x_t."""
    return (x_t - signal * x_0) / noise


def _posterior(schedule: Schedule, t: Times, like: Images) -> tuple[Array, Array]:
    """sqrt(alpha_bar_{t-1}) beta_t/(1 - alpha_bar_t) and sqrt(1 - beta_t) (1 - alpha_bar_{t-1})/(1 - alpha_bar_t)."""
    beta, noise = rows(schedule.beta, t, like), rows(schedule.one_minus_alpha_bar, t, like)
    before = jnp.asarray(t) - 1
    of_x_0 = jnp.sqrt(rows(schedule.alpha_bar, before, like)) * beta / noise
    return of_x_0, jnp.sqrt(1 - beta) * rows(schedule.one_minus_alpha_bar, before, like) / noise


PREDICTIONS: dict[str, Callable[[Schedule, Images, Times, Images], Prediction]] = {
    "eps": from_eps,
    "x_0": from_x_0,
    "v": from_v,
    "mu": from_mu,
}


def check_prediction(kind: str, schedule: Schedule) -> None:
    """Refuse an unknown kind of prediction, and eps where no data are left at T.

    Raises:
      ValueError: see above.
    """
    if kind not in PREDICTIONS:
        raise ValueError(f"unknown prediction {kind!r}: choose one of {', '.join(PREDICTIONS)}")
    if kind == "eps" and not schedule.alpha_bar[-1] > 0:
        raise ValueError("prediction 'eps' needs alpha_bar_T > 0 and this schedule has 0: choose x_0 or v")


def target(schedule: Schedule, x_0: Images, t: Times, eps: Images, kind: str) -> Images:
    """What a network of this kind is asked for: eps, x_0, v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0, or mu.

    Raises:
      ValueError: the kind is unknown.
    """
    signal, noise = _roots(schedule, t, x_0)
    if kind == "v":
        return signal * eps - noise * x_0
    if kind == "mu":
        of_x_0, of_x_t = _posterior(schedule, t, x_0)
        return of_x_0 * x_0 + of_x_t * add_noise(x_0, eps, signal, noise)
    if kind not in PREDICTIONS:
        raise ValueError(f"unknown prediction {kind!r}: choose one of {', '.join(PREDICTIONS)}")
    return {"eps": eps, "x_0": x_0}[kind]


def clip_x_0(x_t: Images, prediction: Prediction, signal: Column | Array, noise: Column | Array) -> Prediction:
    """x_0_hat clipped to [-1, 1] before the mean is formed, and eps_hat made to agree with it.

    Source: Ho et al. 2020, released code. Differs from: DDIM implementations that keep the unclipped eps_hat.

    Args:
      x_t: what the prediction is of.
      prediction: the denoiser's.
      signal: sqrt(alpha_bar_t), broadcastable.
      noise: sqrt(1 - alpha_bar_t), broadcastable.
    """
    x_0 = jnp.clip(prediction.x_0, -1, 1)
    return prediction._replace(eps=_eps_of(x_t, x_0, signal, noise), x_0=x_0)


def _clipped(denoiser: Denoiser, schedule: Schedule, x_t: Images, t: Int[Array, " b"]) -> Prediction:
    return clip_x_0(x_t, denoiser(x_t, t), *_roots(schedule, t, x_t))


def clipped(denoiser: Denoiser, schedule: Schedule) -> Denoiser:
    """The denoiser with `clip_x_0`: eps_hat = (x_t - sqrt(alpha_bar_t) clip(x_0_hat))/sqrt(1 - alpha_bar_t)."""
    return Partial(_clipped, as_argument(denoiser), schedule)


class _Reader(NamedTuple):
    """A network with the meaning of its output; hashes by value, so that jitted users recognise it."""

    network: Network
    kind: str
    heads: tuple[str, ...]

    def __call__(self, params: object, schedule: Schedule, x_t: Images, t: Int[Array, " b"]) -> Prediction:
        output = self.network(params, x_t, t)
        there, wanted = output.shape[-1], x_t.shape[-1] * (1 + len(self.heads))
        if there != wanted:
            raise ValueError(
                f"the network has {there} output channels and {self.kind} with heads ({', '.join(self.heads)}) needs "
                f"{wanted}: name the heads it was made with"
            )
        predicted, *heads = jnp.split(output, 1 + len(self.heads), axis=-1)
        named = dict(zip(self.heads, heads, strict=True)) if heads else None
        return PREDICTIONS[self.kind](schedule, x_t, t, predicted)._replace(heads=named)


def as_argument(denoiser: Denoiser) -> Partial:
    """The denoiser as an argument of a jitted function: what `make_denoiser` bound stays leaves, so that new parameters
    need no compilation; any other callable is compiled in.
    """
    return denoiser if isinstance(denoiser, Partial) else Partial(denoiser)


def make_denoiser(
    network: Network, params: object, schedule: Schedule, kind: str, heads: tuple[str, ...] = ()
) -> Denoiser:
    """A Denoiser of network(params, x_t, t) -> output.

    Args:
      network: a pure function; the same object each time, or jitted users compile again.
      params: its parameters; they stay leaves of the result, so that new values need no compilation.
      schedule: the forward process the network was trained for.
      kind: what it predicts, a name of PREDICTIONS.
      heads: names of what its further output channels say, C channels each.

    Raises:
      ValueError: see `check_prediction`.
    """
    check_prediction(kind, schedule)
    return Partial(_Reader(network, kind, heads), params, schedule)
