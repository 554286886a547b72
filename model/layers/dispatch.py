"""Which slot of a buffer ordered by expert holds which choice, and how tokens get there and back.

All of this works on arrays of one device. Both ways are gathers, in the backward pass too: each slot knows
the choice that it holds and each choice its slot, so that nothing is ever scattered (slow on TPU, not
repeatable on GPU). Choice m·S + s is the s-th of token m.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Slots(NamedTuple):
    """The slot of each choice, C where it is not in the buffer; and the choice in each slot, M·S where it is
    empty.
    """

    slot_MS: Int[Array, "M S"]
    choice_C: Int[Array, "C"]


class Order(NamedTuple):
    """All choices sorted by key: `choice_C[i]` is the i-th of them, `place_MS` where each one went, and
    those of key e fill the places from `starts_E[e]` up to `ends_E[e]`.
    """

    choice_C: Int[Array, "C"]
    place_MS: Int[Array, "M S"]
    starts_E: Int[Array, "E"]
    ends_E: Int[Array, "E"]


def order_by(key_MS: Int[Array, "M S"], E: int) -> Order:
    """Choices by their keys 0 … E-1, those of one key in the order of tokens; other keys (E) come last."""
    keys_C = key_MS.reshape(-1)
    # stable: choices of one key stay in the order of tokens, by which `at_capacity` decides who
    # comes first
    choice_C = jnp.argsort(keys_C, stable=True)
    place_C = jnp.argsort(choice_C)  # the inverse of a permutation is what sorts it
    # a sum over a mask: counting by `bincount` would scatter
    sizes_E = jnp.sum(keys_C[:, None] == jnp.arange(E), 0, dtype=jnp.int32)
    ends_E = jnp.cumsum(sizes_E)
    return Order(choice_C, place_C.reshape(key_MS.shape), ends_E - sizes_E, ends_E)


def window(order: Order, first: Int[Array, ""] | int, C: int) -> tuple[Slots, Int[Array, "E"]]:
    """The C sorted places from `first` on as a buffer, and how many of its slots belong to each key, in
    order.
    """
    n = order.choice_C.size
    last = order.ends_E[-1]
    # `dynamic_slice` moves a slice that would pass the end back to it: the padding gives it room
    padded_C = jnp.pad(order.choice_C, (0, C), constant_values=n)
    has_choice_C = first + jnp.arange(C) < last
    choice_C = jnp.where(has_choice_C, jax.lax.dynamic_slice(padded_C, (first,), (C,)), n)
    slot_MS = order.place_MS - first
    inside_MS = (slot_MS >= 0) & (slot_MS < C) & (order.place_MS < last)
    sizes_E = jnp.clip(order.ends_E, first, first + C) - jnp.clip(order.starts_E, first, first + C)
    return Slots(jnp.where(inside_MS, slot_MS, C), choice_C), sizes_E


def slots_of(slot_MS: Int[Array, "M S"], C: int) -> Slots:
    """Slots from those of the choices: numbers below C that differ from one another, or C for none."""
    # the one scatter of this file: of integers, unique, and never differentiated
    choices_C = jnp.arange(slot_MS.size, dtype=slot_MS.dtype)
    empty_C = jnp.full(C, slot_MS.size, slot_MS.dtype)
    return Slots(
        slot_MS, empty_C.at[slot_MS.reshape(-1)].set(choices_C, mode="drop", unique_indices=True)
    )


@jax.custom_vjp
def spread(x_MD: Float[Array, "M D"], slots: Slots) -> Float[Array, "C D"]:
    """Each token in the slots of its choices; empty slots hold zeros."""
    return _rows(x_MD, slots.choice_C // slots.slot_MS.shape[1])


# written out, since the gradient of a gather is a scatter for JAX
def _spread_backward(slots: Slots, d_rows_CD: Array) -> tuple[Array, None]:
    # a token was copied to each of its slots: its gradient is the sum over them
    ones_MS = jnp.ones(slots.slot_MS.shape, jnp.float32)
    return _sum_of_choices(d_rows_CD, ones_MS, slots), None


spread.defvjp(lambda x_MD, slots: (spread(x_MD, slots), slots), _spread_backward)


@jax.custom_vjp
def combine(
    rows_CD: Float[Array, "C D"], weights_MS: Float[Array, "M S"], slots: Slots
) -> Float[Array, "M D"]:
    """The weighted sum of the slots of each token, in float32, without choices that are not in the
    buffer.
    """
    return _sum_of_choices(rows_CD, weights_MS, slots)


def _combine_backward(
    saved: tuple[Array, Array, Slots], d_y_MD: Array
) -> tuple[Array, Array, None]:
    rows_CD, weights_MS, slots = saved
    d_y_CD = _rows(d_y_MD, slots.choice_C // weights_MS.shape[1]).astype(jnp.float32)
    # a slot holds one choice, and so has one weight; those of empty slots come out as 0
    weights_C1 = _rows(weights_MS.reshape(-1, 1), slots.choice_C)
    # of an empty slot this is undefined, and no choice reads it
    d_weights_C = jnp.sum(rows_CD.astype(jnp.float32) * d_y_CD, -1)
    d_rows_CD = (d_y_CD * weights_C1).astype(rows_CD.dtype)
    d_weights_MS = _rows(d_weights_C, slots.slot_MS).astype(weights_MS.dtype)
    return d_rows_CD, d_weights_MS, None


combine.defvjp(
    lambda rows_CD, weights_MS, slots: (
        combine(rows_CD, weights_MS, slots),
        (rows_CD, weights_MS, slots),
    ),
    _combine_backward,
)


def _sum_of_choices(rows_CD: Array, weights_MS: Array, slots: Slots) -> Array:
    """One choice after the other, so that no [M, S, D] array exists."""

    def weighted(s: int) -> Array:
        rows_MD = _rows(rows_CD, slots.slot_MS[:, s]).astype(jnp.float32)
        return rows_MD * weights_MS[:, s, None]

    n_choices = weights_MS.shape[1]
    return sum(map(weighted, range(n_choices))).astype(rows_CD.dtype)


def _rows(table_MD: Array, ids: Array) -> Array:
    """Rows of a table; a row beyond its end is zero."""
    return jnp.take(table_MD, ids, axis=0, mode="fill", fill_value=0)
