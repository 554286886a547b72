"""Weights of layers: how they are drawn, laid out at rest, and gathered for their products."""

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
    """A normal weight of variance 1 / fan_in, drawn in its layout at rest, since JAX would draw it replicated
    otherwise.
    """
    layout = spec(letters, shape, at_rest=True)
    normal = jax.random.normal(rngs.params(), shape, out_sharding=layout)
    return nnx.Param(normal * fan_in**-0.5)


def bias(letters: str, shape: tuple[int, ...]) -> nnx.Param:
    """A bias of zeros, in its layout at rest."""
    layout = spec(letters, shape, at_rest=True)
    return nnx.Param(jnp.zeros(shape, out_sharding=layout))


def at_rest(tree: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Every leaf in `dtype` and in its layout at rest."""

    def laid_out(name: str, x: Array) -> tuple[str, Array]:
        cast = x.astype(_dtype_of(name, dtype))
        return name, shard(cast, letters_of(name), at_rest=True)

    return map_leaves(tree, laid_out)


def in_use(tree: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Every leaf in `dtype` and gathered for its products; cast first, so that only half the bytes are sent.
    Weights of several arrays become nodes (model/weights.py).
    """

    def gathered(name: str, x: Array) -> tuple[str, Array]:
        cast = fetched(x, _dtype_of(name, dtype))
        return name, shard(cast, letters_of(name))

    return nodes(map_leaves(tree, gathered))


def _dtype_of(name: str, dtype: str) -> str:
    """The dtype of a leaf in use. Routers stay float32: just below 0.5 bfloat16 has steps of 0.002, more
    than a router bias changes in a step. Codes stay int8: they are sent as bytes, and scaled where they
    are used.
    """
    if name.startswith("codes"):
        return "int8"
    is_factor = name == "scale"  # of a low-rank update: a single number
    return "float32" if is_factor or name.startswith("router") else dtype


def fetched(x: Array, dtype: str) -> Array:
    """`x.astype(dtype)` bit for bit, on the device. On TPUs XLA would hoist a plain cast out of the scan over
    layers, and hold a copy of all of them.
    """
    if on_host(x):
        x = jax.device_put(x, jax.memory.Space.Device)
    if platform() == "tpu" and x.dtype == jnp.float32 and dtype == "bfloat16":
        # reduce_precision rounds like the cast (8 bits of exponent, 7 of mantissa) but is not hoisted;
        # the cast that follows is then exact.
        x = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
    return x.astype(dtype)


def add_bias(x: Array, bias: nnx.Param | None, letters: str) -> Array:
    """x plus the bias of its last letters; None = no bias."""
    return x if bias is None else x + repeated(bias[...], letters)


def repeated(weight: Weight, letters: str) -> Weight:
    """With fewer key/value heads than devices of `tensor`, repeat each head, so that every device
    computes one.
    """

    def for_each_device(x: Array, letters: str) -> Array:
        n, at = n_parts("K"), letters.find("K")
        if at < 0 or x.shape[at] % n == 0:  # no key/value heads, or they divide over `tensor`
            return x
        return shard(jnp.repeat(x, n // x.shape[at], at), letters)

    return mapped(weight, letters, for_each_device)


def map_leaves(
    tree: dict[str, Any], change: Callable[[str, Any], tuple[str, Any]]
) -> dict[str, Any]:
    """A nested dict with `change(name, leaf)` -> (name, leaf) applied to all leaves."""
    pairs = (
        (key, map_leaves(value, change)) if isinstance(value, dict) else change(key, value)
        for key, value in tree.items()
    )
    return dict(pairs)
