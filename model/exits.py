"""The two exits from explicit mesh axes, for code that does not state layouts: kernels and libraries."""

from collections.abc import Callable
from typing import Any

import jax

from model.node import Node
from model.sharding import spec


def local(fn: Callable, in_letters: tuple[str, ...], out_letters: Any) -> Callable:
    """Run fn on each device's own block (a fully manual `shard_map`): for kernels and library code that
    do not support explicit axes.

    `out_letters` are the letters of the result, or a tuple of them for several results.
    """
    if isinstance(out_letters, str):
        out_specs = spec(out_letters)
    else:
        out_specs = tuple(spec(letters) for letters in out_letters)

    def layout(operand: Any, letters: str) -> Any:
        if isinstance(operand, Node):
            return operand.map(lambda array, own_letters: spec(own_letters), letters)
        return spec(letters)

    def on_blocks(*operands: Any) -> Any:
        # a node's layout has the structure of the node, so it is made from the operand
        in_specs = tuple(map(layout, operands, in_letters))
        # check_vma=False: JAX cannot infer over which axes a kernel's result varies
        return jax.shard_map(fn, in_specs=in_specs, out_specs=out_specs, check_vma=False)(*operands)

    return on_blocks


def library(fn: Callable, out_letters: str, *, at_rest: bool = False) -> Callable:
    """Run fn under automatic axes: for library code that multiplies or sorts without stating layouts."""
    return jax.sharding.auto_axes(fn, out_sharding=spec(out_letters, at_rest=at_rest))
