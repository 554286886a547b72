"""Reorder stacks between the order of the model, as in checkpoints, and the order of a mesh's stages."""

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
    """The tree with the layers of its stacked leaves in the order of the model, which does not depend on the
    number of stages and rounds.
    """
    return _reordered(tree, partial(canonical_order, rounds=rounds), rounds)


def in_memory_order(tree: Any, *, rounds: int) -> Any:
    """The inverse of `in_model_order`: layers in the order of the stages of the current mesh."""
    return _reordered(tree, partial(stage_order, rounds=rounds), rounds)


def _reordered(tree: Any, order_of: Callable[..., np.ndarray], rounds: int) -> Any:
    stages = n_parts("N", at_rest=True)
    if stages == 1 or rounds == 1:  # with a single round both orders are the same
        return tree

    def reorder(path: Any, x: Any) -> Any:
        in_stack = letters_of(leaf_name(path)).startswith("N")
        # a stack of fewer layers than stages is replicated over them, in the model's order
        if not in_stack or n_parts("N", x.shape[0], at_rest=True) == 1:
            return x
        layout = jax.typeof(x).sharding.spec
        order = jnp.array(order_of(x.shape[0], stages=stages))
        # gathers run on the device: arrays in host memory are moved there and back
        on_device = jax.device_put(x, jax.memory.Space.Device) if on_host(x) else x
        # along a sharded dimension, a gather under explicit axes needs its result's layout
        ordered = on_device.at[order].get(out_sharding=layout)
        return jax.device_put(ordered, jax.memory.Space.Host) if on_host(x) else ordered

    # one program for the whole tree, instead of one to compile for each leaf
    return jax.jit(lambda tree: jax.tree.map_with_path(reorder, tree))(tree)
