"""Transformations that treat each parameter alone, by its name."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from model.api import leaf_name
from model.sharding import letters_of, spec
from model.size import is_matrix

Init = Callable[[str, Any], Any]  # (name, parameter) -> its state
Update = Callable[
    [str, Any, Any, Any, Any], tuple[Any, Any]
]  # (name, gradient, its state, parameter, step from 1) -> (direction, state)


class LeafStates(NamedTuple):
    """Steps made, and the state of each parameter in its place: an array of its name, or several with names
    of their own.
    """

    count: Int[Array, ""]
    states: Any


def by_leaf(init: Init, update: Update) -> optax.GradientTransformation:
    """The transformation that applies `update` to one parameter after the other; names are whole
    (`layers.wq_NDHA`).
    """

    def init_all(params: Any) -> LeafStates:
        return LeafStates(
            jnp.zeros((), jnp.int32), jax.tree.map_with_path(lambda path, x: init(leaf_name(path), x), params)
        )

    def update_all(gradients: Any, state: LeafStates, params: Any) -> tuple[Any, LeafStates]:
        leaves, tree = jax.tree.flatten_with_path(gradients)
        count = state.count + 1
        others = zip(leaves, tree.flatten_up_to(state.states), tree.flatten_up_to(params), strict=True)
        found = [update(leaf_name(path), gradient, mine, x, count) for (path, gradient), mine, x in others]
        return tree.unflatten([direction for direction, _ in found]), LeafStates(
            count, tree.unflatten([mine for _, mine in found])
        )

    return optax.GradientTransformation(init_all, update_all)


def zeros_at_rest(letters: str, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Zeros laid out as parameters of these letters are."""
    return jnp.zeros(shape, dtype, out_sharding=spec(letters, shape, at_rest=True))


def moved(
    mean: Float[Array, "..."], new: Float[Array, "..."], rate: Any, count: Int[Array, ""]
) -> tuple[Any, Any]:
    """An exponential mean that has taken in what is new, and the same without its start at zero (Kingma and
    Ba 2015, section 3).
    """
    mean = rate * mean + (1 - rate) * new
    return mean, mean / (1 - rate ** count.astype(jnp.float32))


def on_hidden_matrices(
    core: optax.GradientTransformation, others: optax.GradientTransformation
) -> optax.GradientTransformation:
    """`core` for matrices between hidden units, `others` for norms, biases, and tables of tokens or
    positions (letters V and T).
    """

    def is_hidden(name: str) -> bool:
        return is_matrix(name) and not set("VT") & set(letters_of(name))

    def kinds(params: Any) -> Any:
        return jax.tree.map_with_path(
            lambda path, _: "hidden" if is_hidden(leaf_name(path)) else "other", params
        )

    return optax.partition({"hidden": core, "other": others}, kinds)
