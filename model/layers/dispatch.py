"""Which slot of a buffer ordered by expert holds which choice, and how tokens are copied there and back.

This works on the arrays of a single device. Both directions are gathers, in the backward pass too: the choice
of each slot and the slot of each choice are known, so no floats are scattered (which is slow on TPUs and not
deterministic on GPUs). Choice m·S + s is the s-th of token m.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Slots(NamedTuple):
    """The slot of each choice, or C if it has none; and the choice in each slot, or M·S if it is empty."""

    slot_MS: Int[Array, "M S"]
    choice_C: Int[Array, "C"]


class Order(NamedTuple):
    """All choices sorted by key: `choice_C[i]` is the i-th of them, `place_MS` the index of each in this
    order, and those of key e have indices from `starts_E[e]` up to `ends_E[e]`.
    """

    choice_C: Int[Array, "C"]
    place_MS: Int[Array, "M S"]
    starts_E: Int[Array, "E"]
    ends_E: Int[Array, "E"]


def order_by(key_MS: Int[Array, "M S"], E: int) -> Order:
    """Sort choices by their keys 0 … E-1, with equal keys in the order of tokens; other keys (E) come
    last.
    """
    keys_C = key_MS.reshape(-1)
    # stable: choices with equal keys stay in the order of tokens, in which `at_capacity` drops the last ones
    choice_C = jnp.argsort(keys_C, stable=True)
    place_C = jnp.argsort(choice_C)  # argsort of a permutation is its inverse
    # a sum over a mask: counting by `bincount` would scatter
    sizes_E = jnp.sum(keys_C[:, None] == jnp.arange(E), 0, dtype=jnp.int32)
    ends_E = jnp.cumsum(sizes_E)
    return Order(choice_C, place_C.reshape(key_MS.shape), ends_E - sizes_E, ends_E)


def window(order: Order, first: Int[Array, ""] | int, C: int) -> tuple[Slots, Int[Array, "E"]]:
    """(a buffer of the C sorted choices from index `first` on, how many of its slots each key has)."""
    n = order.choice_C.size
    last = order.ends_E[-1]
    # padded, since `dynamic_slice` moves back a slice that passes the end
    padded_C = jnp.pad(order.choice_C, (0, C), constant_values=n)
    has_choice_C = first + jnp.arange(C) < last
    sorted_C = jax.lax.dynamic_slice(padded_C, (first,), (C,))
    choice_C = jnp.where(has_choice_C, sorted_C, n)

    slot_MS = order.place_MS - first
    inside_MS = (slot_MS >= 0) & (slot_MS < C) & (order.place_MS < last)
    slots = Slots(jnp.where(inside_MS, slot_MS, C), choice_C)

    # what of each key's places lies in this window
    ends_E = jnp.clip(order.ends_E, first, first + C)
    starts_E = jnp.clip(order.starts_E, first, first + C)
    return slots, ends_E - starts_E


def slots_of(slot_MS: Int[Array, "M S"], C: int) -> Slots:
    """Slots from the slot of each choice: different numbers below C, or C for none."""
    # the only scatter of this file: of unique integers, and not differentiated
    choices_C = jnp.arange(slot_MS.size, dtype=slot_MS.dtype)
    empty_C = jnp.full(C, slot_MS.size, slot_MS.dtype)
    at_slots_C = empty_C.at[slot_MS.reshape(-1)]
    choice_C = at_slots_C.set(choices_C, mode="drop", unique_indices=True)
    return Slots(slot_MS, choice_C)


@jax.custom_vjp
def spread(x_MD: Float[Array, "M D"], slots: Slots) -> Float[Array, "C D"]:
    """Copy each token to the slots of its choices; empty slots are zeros."""
    return _rows(x_MD, slots.choice_C // slots.slot_MS.shape[1])


# written out, since JAX's gradient of a gather is a scatter
def _spread_backward(slots: Slots, d_rows_CD: Array) -> tuple[Array, None]:
    # a token was copied to each of its slots: its gradient is the sum over them
    ones_MS = jnp.ones(slots.slot_MS.shape, jnp.float32)
    return _sum_of_choices(d_rows_CD, ones_MS, slots), None


spread.defvjp(lambda x_MD, slots: (spread(x_MD, slots), slots), _spread_backward)


@jax.custom_vjp
def combine(
    rows_CD: Float[Array, "C D"], weights_MS: Float[Array, "M S"], slots: Slots
) -> Float[Array, "M D"]:
    """The weighted sum of each token's slots, computed in float32; choices without a slot are left out."""
    return _sum_of_choices(rows_CD, weights_MS, slots)


def _combine_backward(
    saved: tuple[Array, Array, Slots], d_y_MD: Array
) -> tuple[Array, Array, None]:
    rows_CD, weights_MS, slots = saved
    d_y_CD = _rows(d_y_MD, slots.choice_C // weights_MS.shape[1]).astype(jnp.float32)
    # a slot has a single choice and so a single weight; that of an empty slot is 0
    weights_C1 = _rows(weights_MS.reshape(-1, 1), slots.choice_C)
    # undefined for empty slots, which no choice reads
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
    """The weighted sum of each token's slots, one choice after the other, so that no [M, S, D] array
    exists.
    """

    def weighted(s: int) -> Array:
        rows_MD = _rows(rows_CD, slots.slot_MS[:, s]).astype(jnp.float32)
        return rows_MD * weights_MS[:, s, None]

    n_choices = weights_MS.shape[1]
    return sum(map(weighted, range(n_choices))).astype(rows_CD.dtype)


def _rows(table_MD: Array, ids: Array) -> Array:
    """Rows of a table; ids past its end give zeros."""
    return jnp.take(table_MD, ids, axis=0, mode="fill", fill_value=0)
