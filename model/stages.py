"""Stacks in the order of the model, as a checkpoint holds them, and in the order of the stages of a mesh."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.api import leaf_name
from model.layers.pipeline import canonical_order, stage_order
from model.mesh import on_host
from model.sharding import letters_of, n_parts


def in_model_order(tree: Any, *, rounds: int) -> Any:
    """A tree whose stacked leaves have their layers in the order of the model, from which any number of
    stages and rounds can take them.
    """
    return _reordered(tree, partial(canonical_order, rounds=rounds), rounds)


def in_memory_order(tree: Any, *, rounds: int) -> Any:
    """The inverse of `in_model_order`: layers in the order of the stages of the current mesh."""
    return _reordered(tree, partial(stage_order, rounds=rounds), rounds)


def _reordered(tree: Any, order_of: Callable[..., np.ndarray], rounds: int) -> Any:
    stages = n_parts("N", at_rest=True)
    if stages == 1 or rounds == 1:  # with one round both orders are the same
        return tree

    def reorder(path: Any, x: Any) -> Any:
        in_stack = letters_of(leaf_name(path)).startswith("N")
        # a stack of fewer layers than stages is not divided
        if not in_stack or n_parts("N", x.shape[0], at_rest=True) == 1:
            return x
        layout = jax.typeof(x).sharding.spec
        order = jnp.array(order_of(x.shape[0], stages=stages))
        # a gather computes on the device: what is in host memory comes, and goes back
        on_device = jax.device_put(x, jax.memory.Space.Device) if on_host(x) else x
        # a gather along a dimension that stages divide: on explicit axes its layout has to be
        # stated
        ordered = on_device.at[order].get(out_sharding=layout)
        return jax.device_put(ordered, jax.memory.Space.Host) if on_host(x) else ordered

    # one program for the whole tree: leaf by leaf, each of them would be compiled by itself
    return jax.jit(lambda tree: jax.tree.map_with_path(reorder, tree))(tree)
