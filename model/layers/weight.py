"""A weight: how it is drawn, how it rests, and how it is gathered for its products."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from model.mesh import on_host, platform
from model.sharding import letters_of, n_parts, shard, spec
from model.weights import Weight, mapped, nodes


def weight(rngs: nnx.Rngs, letters: str, shape: tuple[int, ...], *, fan_in: int) -> nnx.Param:
    """A normal weight of variance 1 / fan_in, made in its layout at rest: without one JAX would draw it
    replicated.
    """
    layout = spec(letters, shape, at_rest=True)
    normal = jax.random.normal(rngs.params(), shape, out_sharding=layout)
    return nnx.Param(normal * fan_in**-0.5)


def bias(letters: str, shape: tuple[int, ...]) -> nnx.Param:
    """Zeros, made in their layout at rest."""
    layout = spec(letters, shape, at_rest=True)
    return nnx.Param(jnp.zeros(shape, out_sharding=layout))


def at_rest(tree: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Every leaf in `dtype` and in its layout at rest."""

    def laid_out(name: str, x: Array) -> tuple[str, Array]:
        cast = x.astype(_dtype_of(name, dtype))
        return name, shard(cast, letters_of(name), at_rest=True)

    return map_leaves(tree, laid_out)


def in_use(tree: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Every leaf in `dtype`, gathered for its products: cast first, so that half the bytes travel. Weights
    of several arrays become nodes (model/weights.py).
    """

    def gathered(name: str, x: Array) -> tuple[str, Array]:
        cast = fetched(x, _dtype_of(name, dtype))
        return name, shard(cast, letters_of(name))

    return nodes(map_leaves(tree, gathered))


def _dtype_of(name: str, dtype: str) -> str:
    """Routers stay float32: near 0.5 a bfloat16 has steps of 0.002, more than a bias moves in a step. Codes
    are int8 in use too: they travel as bytes, and are multiplied with their scales where they are used.
    """
    if name.startswith("codes"):
        return "int8"
    is_factor = name == "scale"  # of a low-rank update: a single number, which weighs nothing
    return "float32" if is_factor or name.startswith("router") else dtype


def fetched(x: Array, dtype: str) -> Array:
    """Bit for bit `x.astype(dtype)`, on the device. On a TPU XLA would move a plain cast out of the scan
    and hold a copy of all layers.
    """
    if on_host(x):
        x = jax.device_put(x, jax.memory.Space.Device)
    if platform() == "tpu" and x.dtype == jnp.float32 and dtype == "bfloat16":
        # rounds to the bits of a bfloat16 (8 of exponent, 7 of mantissa) and is not moved; the cast that
        # follows is then exact
        x = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
    return x.astype(dtype)


def add_bias(x: Array, bias: nnx.Param | None, letters: str) -> Array:
    """x and the bias of its last letters; None is no bias."""
    return x if bias is None else x + repeated(bias[...], letters)


def repeated(weight: Weight, letters: str) -> Weight:
    """Fewer key/value heads than `tensor`: each is repeated for the devices that share it, so that each
    computes one (HOUSE §2).
    """

    def for_each_device(x: Array, letters: str) -> Array:
        n, at = n_parts("K"), letters.find("K")
        if at < 0 or x.shape[at] % n == 0:  # the array has no such heads, or they divide
            return x
        return shard(jnp.repeat(x, n // x.shape[at], at), letters)

    return mapped(weight, letters, for_each_device)


def map_leaves(
    tree: dict[str, Any], change: Callable[[str, Any], tuple[str, Any]]
) -> dict[str, Any]:
    """A nested dict of what `change` makes of each (name, leaf)."""
    pairs = (
        (key, map_leaves(value, change)) if isinstance(value, dict) else change(key, value)
        for key, value in tree.items()
    )
    return dict(pairs)
