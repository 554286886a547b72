"""Fingerprints of arrays: sums of their bit patterns, which show any flipped bit and nearly any swap.

Checkpoints compare global arrays, whatever their layout; the check for bad devices compares single shards.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from model.api import leaf_name


def fingerprints(tree: Any) -> dict[str, list[int]]:
    """Name of every leaf -> [sum of its bit patterns, sum of bit pattern times index], both modulo 2^32.

    Indices count from 1. The first sum differs after any single flipped bit; the second also differs after
    nearly any swap of values (not where difference of values times distance is a multiple of 2^32). Neither
    depends on the layout over devices and processes. PRNG keys count as their key data. All processes must
    call it together, and get the same.
    """
    leaves = jax.tree.leaves_with_path(tree)
    # An adaptation may freeze nothing, and `jnp.stack` raises on an empty list.
    if not leaves:
        return {}
    sums = np.asarray(_sums_of_all([as_numbers(x) for _, x in leaves]))
    return {
        leaf_name(path): [int(n) for n in pair]
        for (path, _), pair in zip(leaves, sums, strict=True)
    }


def differing(saved: Mapping[str, list[int]], now: Mapping[str, list[int]]) -> list[str]:
    """Names whose fingerprints differ, or that only one side has."""
    names = saved.keys() | now.keys()
    return sorted(name for name in names if list(saved.get(name, ())) != list(now.get(name, ())))


def shard_fingerprint(x: Array) -> UInt32[Array, ""]:
    """The sum, modulo 2^32, of the bit patterns of one device's shard, each times an odd number of its own.

    An odd factor has an inverse modulo 2^32, so a single flipped bit always shows; nearly any swap does too.
    """
    bits = bit_patterns(x).ravel()
    return jnp.sum(bits * (2 * jax.lax.iota(jnp.uint32, bits.size) + 1), dtype=jnp.uint32)


def as_numbers(x: Array) -> Array:
    """The key data of a PRNG key; every other array as it is."""
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def bit_patterns(x: Array) -> UInt32[Array, "..."]:
    """The bits of every number as a uint32; a number of 64 bits gives two of them."""
    if x.dtype == jnp.bool_:  # XLA cannot bitcast booleans
        return x.astype(jnp.uint32)
    # Bitcasting to a narrower type adds a last dimension: 64 bits become [..., 2] of 32.
    pattern = jnp.dtype(f"uint{min(jax.dtypes.itemsize_bits(x.dtype), 32)}")
    return jax.lax.bitcast_convert_type(x, pattern).astype(jnp.uint32)


@jax.jit
def _sums_of_all(arrays: list[Array]) -> UInt32[Array, "leaf 2"]:
    return jnp.stack([_sums(x) for x in arrays])


def _sums(x: Array) -> UInt32[Array, " 2"]:
    """Both sums in one pass over the sharded array; only the sums travel between devices."""
    # an array offloaded to the host is copied to the device for this
    x = jax.device_put(x, jax.memory.Space.Device)
    bits = bit_patterns(x)
    # The row-major index of every number, built up from the last dimension; from 1, since a factor of 0 would
    # hide the first number.
    index, stride = jnp.uint32(1), 1
    for dimension in reversed(range(bits.ndim)):
        # in the layout of x: each device makes only the indices of its own shard
        along = jax.lax.broadcasted_iota(
            jnp.uint32, bits.shape, dimension, out_sharding=jax.typeof(bits).sharding
        )
        index = index + along * jnp.uint32(stride % 2**32)
        stride *= bits.shape[dimension]

    def add(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        return a[0] + b[0], a[1] + b[1]

    zero = jnp.uint32(0)
    # one reduction of two operands: two separate sums could read the array twice
    return jnp.stack(
        jax.lax.reduce((bits, bits * index), (zero, zero), add, tuple(range(bits.ndim)))
    )
