"""Optax transformations that treat each parameter separately, by its name."""

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
# (name, gradient, its state, parameter, step from 1) -> (direction, state)
Update = Callable[[str, Any, Any, Any, Any], tuple[Any, Any]]


class LeafStates(NamedTuple):
    """Steps made, and a tree like that of the parameters with the state of each.

    A state is an array, or a dict of arrays whose names end in letters of their own.
    """

    count: Int[Array, ""]
    states: Any


def by_leaf(init: Init, update: Update) -> optax.GradientTransformation:
    """The transformation that applies `update` to each parameter; names are full, as `layers.wq_NDHA`."""

    def init_all(params: Any) -> LeafStates:
        states = jax.tree.map_with_path(lambda path, x: init(leaf_name(path), x), params)
        return LeafStates(jnp.zeros((), jnp.int32), states)

    def update_all(gradients: Any, state: LeafStates, params: Any) -> tuple[Any, LeafStates]:
        count = state.count + 1
        leaves, tree = jax.tree.flatten_with_path(gradients)
        # flatten_up_to stops at the gradients' leaves, so a state that is a dict of arrays stays together
        leaf_states = tree.flatten_up_to(state.states)
        leaf_params = tree.flatten_up_to(params)
        directions = []
        new_states = []
        for (path, gradient), leaf_state, x in zip(leaves, leaf_states, leaf_params, strict=True):
            direction, new_state = update(leaf_name(path), gradient, leaf_state, x, count)
            directions.append(direction)
            new_states.append(new_state)
        return tree.unflatten(directions), LeafStates(count, tree.unflatten(new_states))

    return optax.GradientTransformation(init_all, update_all)


def zeros_at_rest(letters: str, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Zeros with the layout at rest of parameters with these letters."""
    return jnp.zeros(shape, dtype, out_sharding=spec(letters, shape, at_rest=True))


def ema_update(
    mean: Float[Array, "..."], new: Float[Array, "..."], rate: Any, count: Int[Array, ""]
) -> tuple[Any, Any]:
    """(mean, bias-corrected mean) after one more value, the `count`th (Kingma and Ba 2015, section 3)."""
    mean = rate * mean + (1 - rate) * new
    # The mean starts at 0, so the weights of the values in it add up to only 1 - rate^count.
    return mean, mean / (1 - rate ** count.astype(jnp.float32))


def on_hidden_matrices(
    core: optax.GradientTransformation, others: optax.GradientTransformation
) -> optax.GradientTransformation:
    """`core` for matrices between hidden units, `others` for all other parameters.

    The others are norms, biases, and tables of tokens or positions (letters V and T).
    """

    # Tables are looked up, not multiplied: most rows of their gradient are zeros.
    def kind_of(path: Any, _: Any) -> str:
        name = leaf_name(path)
        is_table = bool(set("VT") & set(letters_of(name)))
        return "hidden" if is_matrix(name) and not is_table else "other"

    return optax.partition(
        {"hidden": core, "other": others}, lambda params: jax.tree.map_with_path(kind_of, params)
    )
