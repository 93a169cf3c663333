"""Optimisers and learning-rate schedules by name, all through optax.

Updates work on packed trees: the small arrays joined in one, so that an update is a few dozen operations and not
hundreds. Two thirds of a U-Net's arrays are biases and scales, a thousandth of its numbers. Whatever treats every
number alike (a sum of squares, Adam) gives the same on packed trees. Every operation costs compile time and, on CPUs,
3 KiB of the program's memory, however small its arrays are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array


class Settings(NamedTuple):
    """What an optimiser is made of.

    Attributes:
      optimizer: one of OPTIMIZERS.
      learning_rate: the largest, after warm-up.
      rate_schedule: one of RATE_SCHEDULES.
      warmup: steps over which the learning rate grows linearly from 0.
      steps: training steps, at whose end a falling learning rate reaches 0.
      clip_norm: largest norm of a gradient.
      weight_decay: of adamw, per unit of learning rate; None for its default, as below.
      slow_period: of lookahead, fast steps to one slow step.
      slow_step: of lookahead, share of the way from the slow parameters to the fast ones.
    """

    optimizer: str = "adam"
    learning_rate: float = 2e-4
    rate_schedule: str = "constant"
    warmup: int = 0
    steps: int = 1
    clip_norm: float = 1.0
    weight_decay: float | None = None
    slow_period: int | None = None
    slow_step: float | None = None


class Lookahead(NamedTuple):
    """The state of `lookahead`.

    Attributes:
      slow: the slow parameters.
      inner: optax's state.
    """

    slow: Any
    inner: optax.OptState


def lookahead(fast: optax.GradientTransformation, period: int, step: float) -> optax.GradientTransformation:
    """`period` fast steps predict, one slow step corrects. Zhang et al. 2019, algorithm 1.

    slow <- slow + step (fast - slow), and the fast parameters start again from there: in the space of weights what the
    article's sampler does in that of images. optax wants both sets as its parameters; here the slow ones are state, so
    that a network is called as with any other optimiser.

    Args:
      fast: the optimiser between two slow steps.
      period: fast steps to one slow step.
      step: in (0, 1].
    """
    both = optax.lookahead(fast, period, step)

    def init(params: optax.Params) -> Lookahead:
        return Lookahead(params, both.init(optax.LookaheadParams(params, params)))

    def update(gradient: optax.Updates, state: Lookahead, params: Any = None) -> tuple[optax.Updates, Lookahead]:
        moves, inner = both.update(gradient, state.inner, optax.LookaheadParams(params, state.slow))
        return moves.fast, Lookahead(optax.apply_updates(state.slow, moves.slow), inner)

    return optax.GradientTransformation(init, update)


Rate: TypeAlias = float | optax.Schedule

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "lookahead": lambda rate, slow_period, slow_step: lookahead(optax.adam(rate), slow_period, slow_step),
    "sgd": optax.sgd,
}
"""By name: (learning rate, **its own settings) -> optimiser.

adam: Kingma & Ba 2015. adamw: Loshchilov & Hutter 2019. lookahead: over adam. All treat every number alike: small
arrays reach them joined (see `pack`), and one that looks at whole arrays, as LAMB does, would see the joined ones."""

OWN = {"adamw": {"weight_decay": 0.01}, "lookahead": {"slow_period": 5, "slow_step": 0.5}}
"""The settings that one optimiser alone reads, with their defaults: those of optax's examples for lookahead."""

RATE_SCHEDULES: dict[str, Callable[[float, int], Rate]] = {
    "constant": lambda rate, steps: rate,
    "cosine": lambda rate, steps: optax.cosine_decay_schedule(rate, steps),
    "linear": lambda rate, steps: optax.linear_schedule(rate, 0.0, steps),
}
"""By name: (learning rate, steps after warm-up) -> learning rate of a step. cosine: Loshchilov & Hutter 2017."""


def check(settings: Settings) -> None:
    """Refuse what cannot work.

    Raises:
      ValueError: an unknown name, a number out of range, or a setting that the optimiser does not read.
    """
    for table, name, kind in (
        (OPTIMIZERS, settings.optimizer, "optimizer"),
        (RATE_SCHEDULES, settings.rate_schedule, "rate_schedule"),
    ):
        if name not in table:
            raise ValueError(f"unknown {kind} {name!r}: choose one of {', '.join(table)}")
    for name in ("learning_rate", "clip_norm"):
        if not getattr(settings, name) > 0:
            raise ValueError(f"{name} = {getattr(settings, name):g}: it must be positive")
    for name, least in (("warmup", 0), ("weight_decay", 0), ("slow_period", 1)):
        value = getattr(settings, name)
        if value is not None and not value >= least:
            raise ValueError(f"{name} = {value:g}: it is at least {least}")
    if settings.slow_step is not None and not 0 < settings.slow_step <= 1:
        raise ValueError(f"slow_step = {settings.slow_step:g}: it lies above 0 and is at most 1")
    if settings.rate_schedule != "constant" and settings.warmup >= settings.steps:
        raise ValueError(f"warmup = {settings.warmup} leaves nothing of steps = {settings.steps}: make it shorter")
    for owner, names in OWN.items():
        for name in names:
            if owner != settings.optimizer and getattr(settings, name) is not None:
                raise ValueError(f"{name} has no effect on optimizer {settings.optimizer!r}: leave it out")


def build(settings: Settings) -> optax.GradientTransformation:
    """Clipping of the global norm, then the optimiser; Ho et al. 2020, appendix B, with adam at a constant rate.

    Raises:
      ValueError: see `check`.
    """
    check(settings)
    given = {name: getattr(settings, name) for name in OWN.get(settings.optimizer, {})}
    own = {name: OWN[settings.optimizer][name] if value is None else value for name, value in given.items()}
    warmup, rate = settings.warmup, settings.learning_rate
    after = RATE_SCHEDULES[settings.rate_schedule](rate, settings.steps - warmup)
    if warmup:
        later = after if callable(after) else optax.constant_schedule(after)
        after = optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), later], [warmup])
    return optax.chain(_clip(settings.clip_norm), OPTIMIZERS[settings.optimizer](after, **own))


def _clip(most: float) -> optax.GradientTransformation:
    """Scale a gradient whose global norm is larger to this norm.

    By one factor, multiplied in wherever the gradient is read: optax divides every number by the norm, and XLA's CPU
    backend keeps the quotients, as much memory as the parameters take.
    """

    def clipped(gradient: optax.Updates, params: optax.Params | None = None) -> optax.Updates:
        return optax.tree.scale(jnp.minimum(1, most / optax.tree.norm(gradient)), gradient)

    return optax.stateless(clipped)


SMALL = 4096  # numbers in an array, at most


def pack(tree: Any) -> list[Array]:
    """The large arrays of a tree of float arrays, in order, and then the small ones as one vector, if there are any."""
    leaves = jax.tree.leaves(tree)
    small = [leaf.ravel() for leaf in leaves if leaf.size <= SMALL]
    return [leaf for leaf in leaves if leaf.size > SMALL] + ([jnp.concatenate(small)] if small else [])


def unpack(packed: list[Array], like: Any) -> Any:
    """The inverse of `pack`.

    Args:
      packed: what was made of a tree.
      like: a tree of the same shapes.
    """
    leaves, build = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves if leaf.size <= SMALL])
    large, small = iter(packed), iter(jnp.split(packed[-1], ends[:-1]) if len(ends) else [])
    back = [next(small).reshape(leaf.shape) if leaf.size <= SMALL else next(large) for leaf in leaves]
    return jax.tree.unflatten(build, back)
