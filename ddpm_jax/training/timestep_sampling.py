"""How training draws its times: an index k in 0..K-1 into a chain of K pairs of times, and the weight of its loss.

With p_k the probability of drawing k, a loss weighted by 1/(K p_k) has the mean over all k as its expectation, whatever
p is: the time sampler changes the noise of training, not its aim. An example's draw depends on its own key and on what
all devices share, so one device and eight draw the same.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, UInt32

from ddpm_jax.diffusion.random_keys import Keys, OneKey

KEPT = 10  # losses an index remembers. Nichol & Dhariwal 2021, section 3.3
UNIFORM_SHARE = 0.001  # of the draws. Nichol & Dhariwal 2021, released code

Indices = Int[Array, " b"]
Weights = Float[Array, " b"]


class History(NamedTuple):
    """The latest losses of every index. All samplers have one, those that need none leave it empty.

    Attributes:
      losses: (K, 10) nats, in the order they are overwritten, not in that of time; 0 where none was drawn yet.
      counts: (K,) draws of each index, up to 19; from there on 10 less, so that the place to write next stays right.
    """

    losses: Float[Array, "K n"]
    counts: Int[Array, " K"]


class TimeSampler(NamedTuple):
    """How the indices of a batch are drawn; pure functions.

    Attributes:
      init: K -> the history before the first step.
      draw: (history, root_key, keys, index, batch) -> indices k and weights 1/(K p_k), both (b,). root_key is one key a
        step, the same on all devices and used for nothing else; keys (b,) are one per example; index (b,) are the
        examples' places in the global batch of size `batch`.
      update: (history, k, losses) -> the history after a step; k and losses are the whole global batch's, in its order.
    """

    init: Callable[[int], History]
    draw: Callable[[History, OneKey, Keys, Int[Array, " b"], int], tuple[Indices, Weights]]
    update: Callable[[History, Int[Array, " B"], Float[Array, " B"]], History]


def empty(K: int) -> History:
    """No losses yet, of K indices.

    Raises:
      ValueError: K < 1.
    """
    if K < 1:
        raise ValueError(f"K = {K}: there is at least one index to draw")
    return History(jnp.zeros((K, KEPT), jnp.float32), jnp.zeros(K, jnp.int32))


def uniform(
    history: History, root_key: OneKey, keys: Keys, index: Int[Array, " b"], batch: int
) -> tuple[Indices, Weights]:
    """Every k alike and each example for itself: p_k = 1/K. Ho et al. 2020, algorithm 1."""
    K = history.counts.shape[0]
    return jax.vmap(lambda key: jax.random.randint(key, (), 0, K, jnp.int32))(keys), jnp.ones(index.shape, jnp.float32)


def antithetic(
    history: History, root_key: OneKey, keys: Keys, index: Int[Array, " b"], batch: int
) -> tuple[Indices, Weights]:
    """k_i = floor(K frac(u_0 + i/B)), one u_0 a step: the batch is spread evenly, each k_i alone is uniform.

    Source: Kingma et al. 2021 (VDM), appendix I.1.
    Numerics: with u_0 = (r + u)/(K B), r whole and u in [0, 1), k_i = floor((r + i K) mod (K B) / B) whatever u is, so
    r is drawn and all is exact in whole numbers.

    Raises:
      ValueError: K B does not fit into the numbers.
    """
    K = history.counts.shape[0]
    if K * batch >= 2**30:
        raise ValueError(f"{K} times and a batch of {batch}: their product must be below 2**30")
    r = jax.random.randint(root_key, (), 0, K * batch, jnp.int32)
    k = (r + index * K) % (K * batch) // batch
    return k.astype(jnp.int32), jnp.ones(index.shape, jnp.float32)


def shares(history: History) -> UInt32[Array, " K"]:
    """p_k ~ sqrt(E[L_k^2]), mixed with .001 uniform, in whole numbers; alike until every k has 10 losses.

    Source: Nichol & Dhariwal 2021, equation 18 and section 3.3.
    Numerics: p_k is share_k / sum of shares exactly; sums of float32 shares would lose those of 1e-6.

    Returns:
      Shares that sum to about 2^30.
    """
    K = history.counts.shape[0]
    root = jnp.sqrt(jnp.mean(history.losses**2, axis=1))
    total = jnp.sum(root)
    ready = (jnp.min(history.counts) >= KEPT) & (total > 0)
    divisor = jnp.where(total > 0, total, 1)  # or what `where` leaves out is 0/0
    p = jnp.where(ready, (1 - UNIFORM_SHARE) * root / divisor + UNIFORM_SHARE / K, 1 / K)
    return jnp.round(p * 2**30).astype(jnp.uint32)


def loss_second_moment(
    history: History, root_key: OneKey, keys: Keys, index: Int[Array, " b"], batch: int
) -> tuple[Indices, Weights]:
    """p_k ~ sqrt(E[L_k^2]) over the last 10 losses of k, the p with the least noisy loss; each example for itself.

    Source: Nichol & Dhariwal 2021, equation 18.
    """
    share = shares(history)
    ends = jnp.cumsum(share)
    place = jax.vmap(lambda key: jax.random.randint(key, (), 0, ends[-1], jnp.uint32))(keys)
    k = jnp.searchsorted(ends, place, side="right").astype(jnp.int32)
    return k, ends[-1].astype(jnp.float32) / (share.shape[0] * share[k].astype(jnp.float32))


def remember(history: History, k: Int[Array, " B"], losses: Float[Array, " B"]) -> History:
    """The history with a step's losses, in the order of the batch; each k keeps its last 10.

    Source: Nichol & Dhariwal 2021, section 3.3.
    """
    same = k[:, None] == k[None]
    before = jnp.sum(jnp.tril(same, -1), axis=1)
    after = jnp.sum(jnp.triu(same, 1), axis=1)
    place = jnp.where(after < KEPT, (history.counts[k] + before) % KEPT, KEPT)
    counts = history.counts.at[k].add(1)
    return History(
        history.losses.at[k, place].set(losses.astype(jnp.float32), mode="drop"),
        jnp.where(counts < 2 * KEPT, counts, KEPT + counts % KEPT),
    )


def forget(history: History, k: Int[Array, " B"], losses: Float[Array, " B"]) -> History:
    """Draws that do not depend on losses leave the history empty: history = history."""
    return history


TIME_SAMPLERS: dict[str, TimeSampler] = {
    "uniform": TimeSampler(empty, uniform, forget),
    "antithetic": TimeSampler(empty, antithetic, forget),
    "loss_second_moment": TimeSampler(empty, loss_second_moment, remember),
}


def build(name: str) -> TimeSampler:
    """The time sampler called `name`.

    Raises:
      ValueError: no time sampler has this name.
    """
    if name not in TIME_SAMPLERS:
        raise ValueError(f"unknown time sampler {name!r}: choose one of {', '.join(TIME_SAMPLERS)}")
    return TIME_SAMPLERS[name]
