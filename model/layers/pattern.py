"""A scan over layers that come in a repeating pattern, such as Gemma's local and global attention."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array

# (x, what the layer has of its own: weights, slots of a cache) -> (x, outs)
Layer = Callable[[Array, Any], tuple[Array, Any]]


def scan_pattern(layers: Sequence[Layer], x: Array, own: Any, *, N: int) -> tuple[Array, Any]:
    """Apply N layers one after the other: (the last x, the outs of all layers, [N, …]).

    Layer i is `layers[i % len(layers)]`, and reads entry i of the leaves of `own`, [N, …]. The scan runs
    over whole patterns; the layers of a last, shorter pattern follow it.
    """
    n_patterns = N // len(layers)

    def pattern(x: Array, pattern_own: Any) -> tuple[Array, tuple[Any, ...]]:
        outs = []
        for i, layer in enumerate(layers):
            layer_own = pattern_own if len(layers) == 1 else _at(pattern_own, i)
            x, out = layer(x, layer_own)
            outs.append(out)
        return x, tuple(outs)

    x, outs = jax.lax.scan(pattern, x, _by_pattern(own, len(layers), n_patterns))
    last_outs = []
    for i in range(n_patterns * len(layers), N):
        x, out = layers[i % len(layers)](x, _at(own, i))
        last_outs.append(out)
    return x, _in_order(outs, last_outs)


def _at(tree: Any, i: int) -> Any:
    return jax.tree.map(lambda x: x[i], tree)


def _by_pattern(tree: Any, n: int, n_patterns: int) -> Any:
    """[N, …] leaves -> [n_patterns, n, …], without the layers of a last, shorter pattern."""

    def split(x: Array) -> Array:
        # not sliced if nothing is left over: a slice would copy the stack's weights
        whole_patterns = x if x.shape[0] == n * n_patterns else x[: n * n_patterns]
        layout = jax.typeof(x).sharding.spec.partitions
        shape = (n_patterns, n, *x.shape[1:])
        return jax.lax.reshape(whole_patterns, shape, out_sharding=PartitionSpec(None, *layout))

    return tree if n == 1 else jax.tree.map(split, tree)


def _in_order(outs: tuple[Any, ...], last_outs: list[Any]) -> Any:
    """Outs of every position of the pattern, [n_patterns, …] each, and of the layers after the last complete
    pattern -> [N, …] in the order of the layers.
    """
    if len(outs) == 1:
        return outs[0]

    def join(*arrays: Array) -> Array:
        by_position, last = arrays[: len(outs)], arrays[len(outs) :]
        # axis 1: layers are ordered by pattern, and within a pattern by position
        x = jnp.stack(by_position, 1)
        layout = jax.typeof(x).sharding.spec.partitions
        shape = (x.shape[0] * x.shape[1], *x.shape[2:])
        x = jax.lax.reshape(x, shape, out_sharding=PartitionSpec(None, *layout[2:]))
        return jnp.concatenate([x, *(layer[None] for layer in last)])

    return jax.tree.map(join, *outs, *last_outs)
