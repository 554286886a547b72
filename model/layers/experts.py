"""Bring tokens to their experts and back: all of them in sorted order, or as many as fit into fixed slots."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from model.execution import name
from model.kernels.grouped import grouped_matmul
from model.layers.dispatch import combine, order_by, slots_of, spread, window
from model.sharding import einsum
from model.weights import LowRank


class Experts(NamedTuple):
    """The weights of the experts on this device, sharded along F."""

    w_gate_EDF: Array | LowRank
    w_up_EDF: Array | LowRank
    w_down_EFD: Array | LowRank
    activation: Callable[[Array], Array]


class Axes(NamedTuple):
    """The mesh axes over which experts, feed-forward width and positions are sharded; () = not sharded. A
    device's part of a row is this many `runs` of positions: two in balanced order (model/kernels/context.py).
    """

    experts: tuple[str, ...]
    width: tuple[str, ...]
    length: tuple[str, ...]
    runs: int


class Choices(NamedTuple):
    """The rows on this device, the experts of each token, and their weights; `experts_BLS` is E for padding,
    which goes to no expert.
    """

    x_BLD: Array
    experts_BLS: Array
    weights_BLS: Array


# -> (y_BLD, still to be summed over `width`; how many choices were dropped)
Dispatch = Callable[[Choices, Experts, Axes], tuple[Array, Array]]


def dropless(choices: Choices, experts: Experts, axes: Axes) -> tuple[Array, Array]:
    """All choices, sorted by expert and multiplied by `grouped_matmul`.

    Over a mesh axis for experts, each device gathers the tokens of its group of n devices, computes the
    choices of its own experts, and the results are reduced and scattered back. The buffer is static, with
    as many slots as the device has choices (tokens · top_k): what its experts get under an even load. If
    they get more, the buffer is filled again, up to the n · min(1, E / (n · top_k)) times that are needed
    if every token chose this device's experts; rounds without choices are skipped. So time depends on the
    routing but memory does not, and nothing is dropped. With several rounds the backward pass recomputes
    the hidden layer.
    """
    S = choices.experts_BLS.shape[-1]
    # counted before tokens are gathered: what a device gets under an even load
    C = choices.experts_BLS.size
    E = experts.w_gate_EDF.shape[0]
    choices = jax.tree.map(lambda x: _gather(x, axes.experts, 0), choices)
    x_MD = choices.x_BLD.reshape(-1, choices.x_BLD.shape[-1])
    weights_MS = choices.weights_BLS.reshape(-1, S)
    # experts are numbered from this device's first; those of other devices become E, which sorts last
    local_MS = choices.experts_BLS.reshape(-1, S) - _index(axes.experts) * E
    is_local_MS = (local_MS >= 0) & (local_MS < E)
    order = order_by(jnp.where(is_local_MS, local_MS, E), E)
    # a token has min(S, E) choices on this device at most; rounded up
    n_rounds = -(-min(S, E) * len(x_MD) // C)

    def fill(first: Array | int) -> Array:
        slots, sizes_E = window(order, first, C)
        rows_CD = spread(x_MD, slots)
        y_CD = _feed_forward(rows_CD, sizes_E, experts)
        return combine(y_CD, weights_MS, slots)

    if n_rounds == 1:
        y_MD = fill(0)
    else:
        y_MD = _in_rounds(fill, order.ends_E[-1], n_rounds, C, x_MD)
    y_BLD = y_MD.reshape(choices.x_BLD.shape)
    if axes.experts:
        # sums over the experts of a token; each device gets its own rows back
        y_BLD = jax.lax.psum_scatter(y_BLD, axes.experts, scatter_dimension=0, tiled=True)
    # no choices are dropped
    return y_BLD, jnp.zeros(())


def _in_rounds(
    fill: Callable[[Array], Array], total: Array, n_rounds: int, C: int, like: Array
) -> Array:
    """The sum of `fill(i · C)` over the rounds i with i · C < `total`."""
    # without the checkpoint the hidden layers of all possible rounds would be kept for the backward pass
    rematerialised = jax.checkpoint(fill)

    def nothing(_: Array) -> Array:
        return jnp.zeros_like(like)

    def step(y_MD: Array, i: Array) -> tuple[Array, None]:
        first = i * C
        # cond, not where: a round without choices must cost no time
        of_round_MD = jax.lax.cond(first < total, rematerialised, nothing, first)
        return y_MD + of_round_MD, None

    y_MD, _ = jax.lax.scan(step, jnp.zeros_like(like), jnp.arange(n_rounds))
    return y_MD


def _feed_forward(rows_CD: Array, sizes_E: Array, experts: Experts) -> Array:
    """Apply its expert to each row; rows are sorted by expert."""
    # Grouped products leave rows after the last group undefined: a NaN there would survive the factor 0
    # of the backward pass.
    filled_C1 = _filled(rows_CD, sizes_E)

    def product(w_EDF: Array | LowRank) -> Array:
        return jnp.where(filled_C1, _grouped(rows_CD, w_EDF, sizes_E), 0)

    gate_CF = name(product(experts.w_gate_EDF), "gate")
    up_CF = name(product(experts.w_up_EDF), "up")
    hidden_CF = experts.activation(gate_CF) * up_CF
    return _grouped(hidden_CF, experts.w_down_EFD, sizes_E)


def _filled(rows_CD: Array, sizes_E: Array) -> Array:
    """Whether a row belongs to a group, [C, 1]."""
    return (jnp.arange(len(rows_CD)) < jnp.sum(sizes_E))[:, None]


def _grouped(rows_CD: Array, w_EDF: Array | LowRank, sizes_E: Array) -> Array:
    if not isinstance(w_EDF, LowRank):
        return grouped_matmul(rows_CD, w_EDF, sizes_E)
    narrow_CR = w_EDF.scaled(grouped_matmul(rows_CD, w_EDF.a, sizes_E))
    # undefined rows (see `_feed_forward`) must not enter another product
    narrow_CR = jnp.where(_filled(rows_CD, sizes_E), narrow_CR, 0)
    base_CF = grouped_matmul(rows_CD, w_EDF.base, sizes_E)
    return base_CF + grouped_matmul(narrow_CR, w_EDF.b, sizes_E)


def at_capacity(
    choices: Choices, experts: Experts, axes: Axes, *, factor: float
) -> tuple[Array, Array]:
    """Each expert takes at most ⌈factor · L · top_k / E⌉ choices of a row, the first as it reads; the
    others are dropped.

    As in Switch (Fedus et al. 2021), with a row as the group, so that no mesh changes what is dropped. A
    token takes places in the order of its choices before the next token does; GShard (Lepikhin et al. 2020)
    gives places to all first choices first, which lets later tokens decide about earlier ones. Slots travel
    to their experts and back by all-to-all; those of a row whose positions are divided over devices are
    divided over these devices too.
    """
    B, L, S = choices.experts_BLS.shape
    D = choices.x_BLD.shape[-1]
    E = experts.w_gate_EDF.shape[0] * _size(axes.experts)
    P = _size(axes.length)
    # L · P is the complete row: sharding it must not change what is dropped
    capacity = math.ceil(factor * L * P * S / E)
    C = -(-capacity // P) * P  # slots for one expert and row; P devices share them

    rank_MS = _ranks(choices.experts_BLS, E, axes)
    experts_MS = choices.experts_BLS.reshape(-1, S)
    is_real_MS = experts_MS < E
    has_room_MS = (rank_MS < capacity) & is_real_MS
    # slots are numbered by (expert, row, rank); E·B·C is one past the last
    n_slots = E * B * C
    row_M1 = jnp.repeat(jnp.arange(B), L)[:, None]
    slot_MS = (experts_MS * B + row_M1) * C + rank_MS
    slots = slots_of(jnp.where(has_room_MS, slot_MS, n_slots), n_slots)

    x_MD = choices.x_BLD.reshape(-1, D)
    rows_EBCD = spread(x_MD, slots).reshape(E, B, C, D)
    y_EBCD = _exchange(rows_EBCD, experts, axes)
    weights_MS = choices.weights_BLS.reshape(-1, S)
    y_MD = combine(y_EBCD.reshape(-1, D), weights_MS, slots)
    n_dropped = jnp.sum(is_real_MS & ~has_room_MS, dtype=jnp.float32)
    return y_MD.reshape(B, L, D), n_dropped


def _ranks(experts_BLS: Array, E: int, axes: Axes) -> Array:
    """How many choices of the same expert come before each one in its row, in the order of positions, those
    on devices that hold other parts of the row included.
    """
    B, L, S = experts_BLS.shape
    P = axes.runs
    # a key is (row, run of the row, expert); padding has the one after the last
    n_keys = E * B * P
    first_run_B1 = P * jnp.arange(B)[:, None]
    run_BL = first_run_B1 + P * jnp.arange(L) // L
    key_BLS = jnp.where(experts_BLS < E, experts_BLS + E * run_BL[:, :, None], n_keys)
    key_MS = key_BLS.reshape(-1, S)
    order = order_by(key_MS, n_keys)
    sizes_BPE = (order.ends_E - order.starts_E).reshape(B, P, E)
    before_BPE = _in_earlier_runs(sizes_BPE, axes)
    # place among all here - those of smaller keys + those in earlier runs
    offset = before_BPE.reshape(-1) - order.starts_E
    return order.place_MS + jnp.take(offset, key_MS, mode="fill", fill_value=0)


def _in_earlier_runs(sizes_BPE: Array, axes: Axes) -> Array:
    """For each run here, the sum of the sizes of all runs of its row that come before it. Device c of C has
    runs c and, in balanced order, 2C-1-c.
    """
    if not axes.length:
        return jnp.zeros_like(sizes_BPE)
    sizes_CBPE = jax.lax.all_gather(sizes_BPE, axes.length)
    # reversed, since device c holds run 2C-1-c: second runs read from the last device to the first
    second_runs = [sizes_CBPE[::-1, :, p] for p in range(1, axes.runs)]
    in_order = jnp.concatenate([sizes_CBPE[:, :, 0], *second_runs])
    earlier = jnp.cumsum(in_order, 0) - in_order
    device = _index(axes.length)
    C = _size(axes.length)
    runs_if_balanced = [device, 2 * C - 1 - device]
    own_runs = jnp.stack(runs_if_balanced[: axes.runs])
    return earlier[own_runs].swapaxes(0, 1)


def _exchange(rows_EBCD: Array, experts: Experts, axes: Axes) -> Array:
    """Slots to the devices of their experts, through them, and back."""
    if axes.length:
        # each slot is filled on one device of the row and zero on the others, so a sum joins them
        rows_EBCD = jax.lax.psum_scatter(rows_EBCD, axes.length, scatter_dimension=2, tiled=True)
    if axes.experts:
        # all experts with the rows of this device become this device's experts with all rows
        rows_EBCD = jax.lax.all_to_all(
            rows_EBCD, axes.experts, split_axis=0, concat_axis=1, tiled=True
        )
    gate_EBCF = einsum("EBCD,EDF->EBCF", rows_EBCD, experts.w_gate_EDF)
    gate_EBCF = name(gate_EBCF, "gate")
    up_EBCF = einsum("EBCD,EDF->EBCF", rows_EBCD, experts.w_up_EDF)
    up_EBCF = name(up_EBCF, "up")
    hidden_EBCF = experts.activation(gate_EBCF) * up_EBCF
    y_EBCD = einsum("EBCF,EFD->EBCD", hidden_EBCF, experts.w_down_EFD)
    if axes.experts:
        # the way back of the exchange above
        y_EBCD = jax.lax.all_to_all(y_EBCD, axes.experts, split_axis=1, concat_axis=0, tiled=True)
    return _gather(y_EBCD, axes.length, 2)


def _gather(x: Array, axes: tuple[str, ...], dimension: int) -> Array:
    return jax.lax.all_gather(x, axes, axis=dimension, tiled=True) if axes else x


def _index(axes: tuple[str, ...]) -> Array | int:
    return jax.lax.axis_index(axes) if axes else 0


def _size(axes: tuple[str, ...]) -> int:
    return jax.lax.axis_size(axes) if axes else 1
