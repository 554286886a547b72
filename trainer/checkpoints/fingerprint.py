"""Fingerprints of arrays: two sums of their bit patterns, which do not depend on how the arrays lie on
devices and processes.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

PATTERNS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
UNPACKED = ("bool", "int4", "uint4", "int2", "uint2")  # have no bit pattern of whole bytes


def fingerprints(tree: Any) -> dict[str, list[int]]:
    """Path of every leaf -> [sum of its bit patterns, sum of bit pattern times place], both modulo 2^32;
    places count from 1.

    The first sum differs after any single flipped bit, the second also where values changed places. Keys
    are counted as their numbers. All processes call it together, and get the same.
    """
    leaves = jax.tree.leaves_with_path(tree)
    sums = np.asarray(_sums_of([_plain(x) for _, x in leaves])) if leaves else []
    return {path_name(path): [int(n) for n in pair] for (path, _), pair in zip(leaves, sums, strict=True)}


def path_name(path: Any) -> str:
    """The path of a leaf: `trainable.layers.w_up_NDF`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def differing(saved: Mapping[str, list[int]], found: Mapping[str, list[int]]) -> list[str]:
    """Paths whose fingerprints differ, or that only one side has."""
    return sorted(
        path for path in saved.keys() | found.keys() if list(saved.get(path, ())) != list(found.get(path, ()))
    )


def _plain(x: Any) -> Array:
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


@jax.jit
def _sums_of(arrays: list[Array]) -> UInt32[Array, "leaf 2"]:
    return jnp.stack([_sums(x) for x in arrays])


def _sums(x: Array) -> UInt32[Array, " 2"]:
    """In one pass over the array where it lies; only the two sums travel between devices."""
    x = jax.device_put(x, jax.memory.Space.Device)  # what rests on the host comes for this
    x = x.astype(jnp.uint8) if x.dtype.name in UNPACKED else x
    bits = jax.lax.bitcast_convert_type(x, PATTERNS[x.dtype.itemsize]).astype(jnp.uint32)
    place, stride, zero = jnp.uint32(1), 1, jnp.uint32(0)
    for dimension in reversed(range(x.ndim)):
        along = jax.lax.broadcasted_iota(jnp.uint32, x.shape, dimension, out_sharding=jax.typeof(x).sharding)
        place, stride = place + along * jnp.uint32(stride % 2**32), stride * x.shape[dimension]

    def added(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        return a[0] + b[0], a[1] + b[1]

    return jnp.stack(jax.lax.reduce((bits, bits * place), (zero, zero), added, tuple(range(x.ndim))))
