"""Names of the weights of a stack, whose arrays hold N layers."""

from collections.abc import Callable
from typing import Any

from model.sharding import letters_of

Tree = dict[str, Any]


def renamed(tree: Tree, new_name: Callable[[str], str]) -> Tree:
    """A nested dict with `new_name` applied to all keys."""
    return {
        new_name(key): renamed(value, new_name) if isinstance(value, dict) else value
        for key, value in tree.items()
    }


def stacked_name(name: str) -> str:
    """`w_up_DF` -> `w_up_NDF`: the weight of every layer of a stack. A name without letters stays."""
    if not letters_of(name):
        return name
    stem, letters = name.rsplit("_", 1)
    return f"{stem}_N{letters}"


def layer_name(name: str) -> str:
    """`w_up_NDF` -> `w_up_DF`: the weight of a single layer; `scale_N` becomes `scale`."""
    if not letters_of(name):
        return name
    stem, letters = name.rsplit("_N", 1)
    return f"{stem}_{letters}" if letters else stem


def stacked(tree: Tree) -> Tree:
    """The tree with every leaf under its name in a stack."""
    return renamed(tree, stacked_name)


def of_layer(tree: Tree) -> Tree:
    """The tree with every leaf under its name in a single layer."""
    return renamed(tree, layer_name)
