"""Layers as a checkpoint holds them, in the order of the model, and as they lie on the stages of a mesh."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.layers.pipeline import canonical_order, stage_order
from model.sharding import letters_of, n_parts, on_host


def in_model_order(tree: Any, *, rounds: int) -> Any:
    """Every stacked leaf of what lies on stages, layers as the model counts them. Any other number of
    stages and rounds can take them.
    """
    return _reordered(tree, partial(canonical_order, rounds=rounds), rounds)


def in_memory_order(tree: Any, *, rounds: int) -> Any:
    """The inverse of `in_model_order`: what was read, as the stages of the current mesh want it."""
    return _reordered(tree, partial(stage_order, rounds=rounds), rounds)


def _reordered(tree: Any, order_of: Callable[..., np.ndarray], rounds: int) -> Any:
    stages = n_parts("N", at_rest=True)
    if stages == 1 or rounds == 1:
        return tree

    def one(path: Any, x: Any) -> Any:
        in_stack = letters_of(str(getattr(path[-1], "key", "")) if path else "").startswith("N")
        if not in_stack or n_parts("N", x.shape[0], at_rest=True) == 1:
            return x
        layout = jax.typeof(x).sharding.spec
        here = jax.device_put(x, jax.memory.Space.Device) if on_host(x) else x
        ordered = here.at[jnp.array(order_of(x.shape[0], stages=stages))].get(out_sharding=layout)
        return jax.device_put(ordered, jax.memory.Space.Host) if on_host(x) else ordered

    return jax.jit(lambda tree: jax.tree.map_with_path(one, tree))(tree)
