"""Random keys as people have them: those of `jax.random.key`, and the words of `jax.random.PRNGKey`."""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Key, UInt32

OneKey: TypeAlias = Key[Array, ""] | UInt32[Array, " words"] | UInt32[np.ndarray, " words"]
Keys: TypeAlias = Key[Array, "..."] | UInt32[Array, "... words"] | UInt32[np.ndarray, "... words"]


def typed(key: Any) -> Key[Array, "..."]:
    """The key, or the keys, as `jax.random.key` makes them: words give the same numbers as they do in `jax.random`.

    Raises:
      ValueError: it is no key.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return key
    try:
        return jax.random.wrap_key_data(key)
    except TypeError as error:
        what = repr(key) if dtype is None else f"an array of {dtype} and shape {key.shape}"
        raise ValueError(f"key = {what}: give one of jax.random.key(seed), or of jax.random.PRNGKey") from error
