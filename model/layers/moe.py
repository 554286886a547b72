"""Mixture of experts (Shazeer et al. 2017): a feed-forward layer of which each token passes only a few parts."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from model.execution import name
from model.kernels.grouped import grouped_matmul
from model.layers.dispatch import combine, order_by, slots_of, spread, window
from model.layers.feed_forward import FeedForward
from model.layers.router import Router
from model.layers.weight import bias, weight
from model.sharding import axes_of, local, shard


class Experts(NamedTuple):
    """The experts that this device has, and of each the part of F that it has."""

    w_gate_EDF: Array
    w_up_EDF: Array
    w_down_EFD: Array
    activation: Callable[[Array], Array]


class Axes(NamedTuple):
    """The mesh axes that divide experts, feed-forward width, and the positions of whole rows; () where one is not divided."""

    experts: tuple[str, ...]
    width: tuple[str, ...]
    length: tuple[str, ...]


class Choices(NamedTuple):
    """Of b rows on this device: `experts_BLS` is E for padding, which goes nowhere."""

    x_BLD: Array
    experts_BLS: Array
    weights_BLS: Array


Dispatch = Callable[[Choices, Experts, Axes], tuple[Array, Array]]  # -> (y_BLD, a part of the sum over `width`; choices that were dropped)


class MoE(nnx.Module):
    """Each token goes to `router.top_k` of E gated feed-forward layers of width F; the weighted sum of their results is the layer's.

    Every choice is computed (`dropless`), or with a `capacity_factor` only as many of a row for each expert as `at_capacity` says. A shared
    expert of width `shared_F` is added for every token (Dai et al. 2024, DeepSeekMoE). Padding (segment 0) passes the shared expert alone.

    Raises:
        ValueError: the router cannot choose from E experts, or the capacity factor is not positive.
    """

    def __init__(
        self,
        *,
        D: int,
        F: int,
        E: int,
        router: Router,
        rngs: nnx.Rngs,
        shared_F: int = 0,
        capacity_factor: float | None = None,
        activation: Callable[[Array], Array] = jax.nn.silu,
    ):
        router.check(E)
        if capacity_factor is not None and capacity_factor <= 0:
            raise ValueError(f"capacity_factor={capacity_factor} is not positive; 1.0 has room for an even load, None drops nothing")
        self.router, self.activation = router, activation
        self.dispatch = dropless if capacity_factor is None else partial(at_capacity, factor=capacity_factor)
        self.router_DE = weight(rngs, "DE", (D, E), fan_in=D)
        self.w_gate_EDF = weight(rngs, "EDF", (E, D, F), fan_in=D)
        self.w_up_EDF = weight(rngs, "EDF", (E, D, F), fan_in=D)
        self.w_down_EFD = weight(rngs, "EFD", (E, F, D), fan_in=F)
        if router.bias_rate is not None:
            self.router_bias_E = bias("E", (E,))
        if shared_F:
            self.shared = FeedForward(D=D, F=shared_F, rngs=rngs, activation=activation)

    def __call__(self, x_BLD: Float[Array, "B L D"], segments_BL: Int[Array, "B L"]) -> tuple[Float[Array, "B L D"], dict[str, Any]]:
        """The result, laid out `BlD`, and sums over the tokens of all devices: "penalty" (router losses, see `Router.balance`), "load_E"
        (tokens that chose each expert) and "dropped" (choices that found no room).
        """
        length, result = _length_letters(x_BLD.shape[1])
        letters = (f"B{length}D", f"B{length}", "..", ".", "EDF", "EDF", "EFD")
        axes = Axes(axes_of("E"), axes_of("F"), axes_of("L") if length == "L" else ())
        body = partial(self._on_device, axes=axes, token_axes=axes_of("B") + axes.length, scatter=result == "l")
        bias_E = self.router_bias_E[...] if self.router.bias_rate is not None else jnp.zeros(self.router_DE.shape[1])
        operands = (shard(x_BLD, "BLD"), segments_BL, self.router_DE[...], bias_E, self.w_gate_EDF[...], self.w_up_EDF[...])
        operands = [shard(x, to) if set(to) <= {"."} else x for x, to in zip((*operands, self.w_down_EFD[...]), letters, strict=True)]
        y_BLD, penalty, load_E, dropped = local(body, letters, (f"B{result}D", "", ".", ""))(*operands)
        if hasattr(self, "shared"):
            y_BLD = y_BLD + self.shared(x_BLD, segments_BL)[0]
        return name(y_BLD, "feed_forward"), {"penalty": penalty, "load_E": shard(load_E, "E"), "dropped": dropped}

    def _on_device(
        self,
        x_BLD: Array,
        segments_BL: Array,
        router_DE: Array,
        bias_E: Array,
        *weights: Array,
        axes: Axes,
        token_axes: tuple[str, ...],
        scatter: bool,
    ) -> tuple[Array, Array, Array, Array]:
        B, L, D = x_BLD.shape
        real_M = segments_BL.reshape(-1) > 0
        # the default precision of a TPU would round the operands of float32 products to bfloat16
        logits_ME = jnp.matmul(x_BLD.reshape(-1, D).astype(jnp.float32), router_DE.astype(jnp.float32), precision="highest")
        routes = self.router.route(logits_ME, bias_E)
        penalty, load_E = self.router.balance(logits_ME, routes, real_M, token_axes)
        experts_MS = jnp.where(real_M[:, None], routes.experts_MS, router_DE.shape[1])
        choices = Choices(x_BLD, experts_MS.reshape(B, L, -1), routes.weights_MS.reshape(B, L, -1))
        y_BLD, dropped = self.dispatch(choices, Experts(*weights, self.activation), axes)
        if axes.width:
            y_BLD = jax.lax.psum_scatter(y_BLD, axes.width, scatter_dimension=1, tiled=True) if scatter else jax.lax.psum(y_BLD, axes.width)
        dropped = jax.lax.psum(dropped, token_axes) if token_axes else dropped
        return y_BLD, penalty, load_E, dropped


def dropless(choices: Choices, experts: Experts, axes: Axes) -> tuple[Array, Array]:
    """All choices, sorted by expert and multiplied by `grouped_matmul`.

    Over a mesh axis for experts, each device gathers the tokens of its group of n devices, computes the choices of its own experts, and the
    results are scattered back. The buffer is static and has as many slots as the device has choices of its own (tokens · top_k), which is
    what falls to its experts under an even load. Where more fall to them, the buffer is filled again, up to the n · min(1, E / (n · top_k))
    times that could be needed if every token chose this device's experts; rounds that have nothing to do are skipped. So memory does not
    depend on the routing, time does, and nothing is dropped. The backward pass of several rounds computes the hidden layer again.
    """
    S = choices.experts_BLS.shape[-1]
    C, E = choices.experts_BLS.size, experts.w_gate_EDF.shape[0]
    choices = jax.tree.map(lambda x: _gather(x, axes.experts, 0), choices)
    x_MD = choices.x_BLD.reshape(-1, choices.x_BLD.shape[-1])
    weights_MS, experts_MS = (x.reshape(-1, S) for x in (choices.weights_BLS, choices.experts_BLS))
    mine_MS = experts_MS - _index(axes.experts) * E
    order = order_by(jnp.where((mine_MS >= 0) & (mine_MS < E), mine_MS, E), E)
    n_rounds = -(-min(S, E) * len(x_MD) // C)

    def one(first: Array | int) -> Array:
        slots, sizes_E = window(order, first, C)
        return combine(_feed_forward(spread(x_MD, slots), sizes_E, experts), weights_MS, slots)

    y_MD = one(0) if n_rounds == 1 else _in_rounds(one, order.ends_E[-1], n_rounds, C, x_MD)
    y_BLD = y_MD.reshape(choices.x_BLD.shape)
    if axes.experts:
        y_BLD = jax.lax.psum_scatter(y_BLD, axes.experts, scatter_dimension=0, tiled=True)
    return y_BLD, jnp.zeros(())


def _in_rounds(one: Callable[[Array], Array], total: Array, n_rounds: int, C: int, like: Array) -> Array:
    """The sum of `one(i · C)` for all rounds i that begin below `total`."""

    def step(y_MD: Array, i: Array) -> tuple[Array, None]:
        return y_MD + jax.lax.cond(i * C < total, jax.checkpoint(one), lambda _: jnp.zeros_like(like), i * C), None

    return jax.lax.scan(step, jnp.zeros_like(like), jnp.arange(n_rounds))[0]


def _feed_forward(rows_CD: Array, sizes_E: Array, experts: Experts) -> Array:
    """Rows sorted by expert through their experts."""
    # products leave rows behind the last group undefined; even a factor 0 in the backward pass would not stop a NaN there
    filled_C1 = (jnp.arange(len(rows_CD)) < jnp.sum(sizes_E))[:, None]
    gate_CF, up_CF = (
        name(jnp.where(filled_C1, grouped_matmul(rows_CD, w_EDF, sizes_E), 0), what)
        for w_EDF, what in ((experts.w_gate_EDF, "gate"), (experts.w_up_EDF, "up"))
    )
    return grouped_matmul(experts.activation(gate_CF) * up_CF, experts.w_down_EFD, sizes_E)


def at_capacity(choices: Choices, experts: Experts, axes: Axes, *, factor: float) -> tuple[Array, Array]:
    """Each expert takes at most ⌈factor · L · top_k / E⌉ choices of a row, the first by position; the others are dropped.

    As in Switch (Fedus et al. 2021), with a row as the group, so that no mesh changes what is dropped. A token takes places in the order of
    its choices before the next token does; GShard (Lepikhin et al. 2020) gives places to all first choices first, which lets later tokens
    decide about earlier ones. Slots travel to their experts and back by all-to-all; those of a row whose positions are divided over devices
    are divided over these devices too.
    """
    (B, L, S), D = choices.experts_BLS.shape, choices.x_BLD.shape[-1]
    E = experts.w_gate_EDF.shape[0] * _size(axes.experts)
    P = _size(axes.length)
    capacity = math.ceil(factor * L * P * S / E)
    C = -(-capacity // P) * P  # slots for one expert and row; P devices share them
    rank_MS = _ranks(choices.experts_BLS, E, axes.length)
    experts_MS = choices.experts_BLS.reshape(-1, S)
    row_M1 = jnp.repeat(jnp.arange(B), L)[:, None]
    kept_MS = (rank_MS < capacity) & (experts_MS < E)
    slots = slots_of(jnp.where(kept_MS, (experts_MS * B + row_M1) * C + rank_MS, E * B * C), E * B * C)
    rows_EBCD = spread(choices.x_BLD.reshape(-1, D), slots).reshape(E, B, C, D)
    y_EBCD = _exchange(rows_EBCD, experts, axes)
    y_MD = combine(y_EBCD.reshape(-1, D), choices.weights_BLS.reshape(-1, S), slots)
    return y_MD.reshape(B, L, D), jnp.sum((experts_MS < E) & ~kept_MS, dtype=jnp.float32)


def _ranks(experts_BLS: Array, E: int, axes: tuple[str, ...]) -> Array:
    """How many choices of the same expert go before each one in its row, also on the devices that have the earlier part of the row."""
    B, L, S = experts_BLS.shape
    key_BLS = jnp.where(experts_BLS < E, experts_BLS + E * jnp.arange(B)[:, None, None], E * B)
    order = order_by(key_BLS.reshape(-1, S), E * B)
    before_E = -order.starts_E
    if axes:
        sizes = jax.lax.all_gather(order.ends_E - order.starts_E, axes)
        earlier = jnp.arange(len(sizes)) < _index(axes)
        before_E = before_E + jnp.sum(jnp.where(earlier[:, None], sizes, 0), 0)
    return order.place_MS + jnp.take(before_E, key_BLS.reshape(-1, S), mode="fill", fill_value=0)


def _exchange(rows_EBCD: Array, experts: Experts, axes: Axes) -> Array:
    """Slots to the devices of their experts, through them, and back."""
    if axes.length:
        rows_EBCD = jax.lax.psum_scatter(rows_EBCD, axes.length, scatter_dimension=2, tiled=True)
    if axes.experts:
        rows_EBCD = jax.lax.all_to_all(rows_EBCD, axes.experts, split_axis=0, concat_axis=1, tiled=True)
    gate_EBCF, up_EBCF = (
        name(jnp.einsum("EBCD,EDF->EBCF", rows_EBCD, w_EDF), what)
        for w_EDF, what in ((experts.w_gate_EDF, "gate"), (experts.w_up_EDF, "up"))
    )
    y_EBCD = jnp.einsum("EBCF,EFD->EBCD", experts.activation(gate_EBCF) * up_EBCF, experts.w_down_EFD)
    if axes.experts:
        y_EBCD = jax.lax.all_to_all(y_EBCD, axes.experts, split_axis=1, concat_axis=0, tiled=True)
    return _gather(y_EBCD, axes.length, 2)


def _length_letters(L: int) -> tuple[str, str]:
    """How the positions lie in whole rows and in the result: divided where L divides, as everywhere."""
    whole = "L" if axes_of("L", L) == axes_of("L") else "."
    return whole, "l" if axes_of("l", L) == axes_of("l") else whole


def _gather(x: Array, axes: tuple[str, ...], dimension: int) -> Array:
    return jax.lax.all_gather(x, axes, axis=dimension, tiled=True) if axes else x


def _index(axes: tuple[str, ...]) -> Array | int:
    return jax.lax.axis_index(axes) if axes else 0


def _size(axes: tuple[str, ...]) -> int:
    return jax.lax.axis_size(axes) if axes else 1
