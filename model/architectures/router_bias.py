"""State of routers that no gradient moves."""

from functools import reduce
from operator import getitem
from typing import Any

import jax

from model.api import Params
from model.layers.router import move_bias


def move_biases(params: Params, aux: dict[str, Any], *, rate: float) -> Params:
    """Every router bias after a step, by the loads of its layer in `aux` (Wang et al. 2024).

    `params` may be only those that are trained, without any router.
    """

    def moved(path: Any, leaf: jax.Array) -> jax.Array:
        *parts, name = (key.key for key in path)
        if not name.startswith("router_bias"):
            return leaf
        found = reduce(getitem, [part for part in parts if part not in ("block", "feed_forward")], aux)
        return move_bias(leaf, found[name.replace("router_bias", "load")], rate=rate)

    return jax.tree.map_with_path(moved, params)
