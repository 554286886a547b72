"""Named weights in nested dicts, and stacks of equal blocks applied by one `lax.scan`."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Key

from model.sharding import letters_of, shard

Tree = dict[str, Any]


def map_leaves(tree: Tree, change: Callable[[str, Any], tuple[str, Any]]) -> Tree:
    """A nested dict whose (name, leaf) pairs went through `change`."""
    return dict((key, map_leaves(value, change)) if isinstance(value, dict) else change(key, value) for key, value in tree.items())


def at_rest(tree: Tree, dtype: str) -> Tree:
    """Every leaf in `dtype` and in its layout at rest."""
    return map_leaves(tree, lambda name, x: (name, shard(x.astype(dtype), letters_of(name), at_rest=True)))


def in_use(tree: Tree, dtype: str) -> Tree:
    """Every leaf in `dtype`, gathered for its products: cast first, so that half the bytes travel."""
    return map_leaves(tree, lambda name, x: (name, shard(x.astype(dtype), letters_of(name))))


def stacked_name(name: str) -> str:
    """`w_up_DF` -> `w_up_NDF`: the weight of every layer of a stack."""
    stem, letters = name.rsplit("_", 1)
    return f"{stem}_N{letters}"


def layer_name(name: str) -> str:
    """`w_up_NDF` -> `w_up_DF`: the weight of one layer of a stack."""
    stem, letters = name.rsplit("_N", 1)
    return f"{stem}_{letters}"


class Stack:
    """N blocks made by `block(rngs)`, one after the other."""

    def __init__(self, block: Callable[[nnx.Rngs], nnx.Module], *, N: int):
        self.block, self.N = block, N

    def init(self, key: Key[Array, ""], dtype: str) -> Tree:
        """Parameters of all layers; layer i depends on the key and i alone."""

        def one(_: None, i: Array) -> tuple[None, Tree]:
            rngs = nnx.Rngs(params=jax.random.fold_in(key, i))
            return None, at_rest(nnx.to_pure_dict(nnx.state(self.block(rngs))), dtype)

        _, layers = jax.lax.scan(one, None, jax.numpy.arange(self.N))
        return map_leaves(layers, lambda name, x: (stacked_name(name), x))

    def apply(self, params: Tree, x: Array, step: Callable[..., tuple[Array, Any]], extra: Any = None, *, dtype: str) -> tuple[Array, Any]:
        """`step(block, x, extra_of_this_layer) -> (x, out)` through all layers; returns the last x and the outs stacked by N."""
        definition, _ = nnx.split(nnx.eval_shape(lambda: self.block(nnx.Rngs(0))))

        def one(x: Array, layer: tuple[Tree, Any]) -> tuple[Array, Any]:
            weights, extra = layer
            return step(nnx.merge(definition, in_use(weights, dtype)), x, extra)

        return jax.lax.scan(one, x, (map_leaves(params, lambda name, w: (layer_name(name), w)), extra))
