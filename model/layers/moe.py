"""Mixture of experts (Shazeer et al. 2017): many feed-forward layers, of which each token passes only a
few.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from model.architecture import ExpertFacts
from model.execution import name
from model.exits import local
from model.kernels.context import is_balanced
from model.layers.experts import Axes, Choices, Dispatch, Experts, at_capacity, dropless
from model.layers.feed_forward import FeedForward
from model.layers.router import Router
from model.layers.rows import Rows
from model.layers.weight import bias, weight
from model.sharding import axes_of, shard
from model.weights import LowRank, without_codes


class MoE(nnx.Module):
    """Each token goes to `router.top_k` of E gated feed-forward layers of width F; the weighted sum of
    their results is the layer's.

    Every choice is computed (`dropless`), or with a `capacity_factor` only as many of a row for each expert
    as `at_capacity` says. A shared expert of width `shared_F` is added for every token (Dai et al. 2024,
    DeepSeekMoE). Padding (segment 0) passes the shared expert alone.

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
            remedy = "1.0 has room for an even load, None drops nothing"
            raise ValueError(f"capacity_factor={capacity_factor} is not positive; {remedy}")
        self.E = E
        self.router = router
        self.activation = activation
        self.dispatch: Dispatch = dropless
        if capacity_factor is not None:
            self.dispatch = partial(at_capacity, factor=capacity_factor)
        self.router_DE = weight(rngs, "DE", (D, E), fan_in=D)
        self.w_gate_EDF = weight(rngs, "EDF", (E, D, F), fan_in=D)
        self.w_up_EDF = weight(rngs, "EDF", (E, D, F), fan_in=D)
        self.w_down_EFD = weight(rngs, "EFD", (E, F, D), fan_in=F)
        if router.bias_rate is not None:
            self.router_bias_E = bias("E", (E,))
        # one assignment: nnx would hold an attribute that was None first for static, without parameters
        self.shared = (
            FeedForward(D=D, F=shared_F, rngs=rngs, activation=activation) if shared_F else None
        )

    def __call__(
        self, x_BLD: Float[Array, "B L D"], rows: Rows
    ) -> tuple[Float[Array, "B L D"], dict[str, Any]]:
        """The result, laid out `BlD`, and sums over the tokens of all devices: "penalty" (router losses,
        see `Router.balance`), "load_E" (tokens that chose each expert) and "dropped" (choices that found no
        room).
        """
        L = x_BLD.shape[1]
        length, result = _length_letters(L)
        # decoding has a length too, but its tokens are in their own order
        balanced = is_balanced(L) and rows.lengths_B is None
        axes = Axes(
            experts=axes_of("E"),
            width=axes_of("F"),
            length=axes_of("L") if length == "L" else (),
            runs=2 if balanced else 1,
        )
        # the axes along which tokens differ; along `tensor` all devices have the same ones, and a
        # sum over it too would count each token several times
        token_axes = axes_of("B") + axes.length
        body = partial(self._on_device, axes=axes, token_axes=token_axes, scatter=result == "l")
        if self.router.bias_rate is None:
            # zeros change no choice: the body below is one for routers with and without a bias
            bias_E = jnp.zeros(self.router_DE.shape[1])
        else:
            bias_E = self.router_bias_E[...]
        # `.`: the router and its bias are the same on every device, as each routes its own tokens
        letters = (f"B{length}D", f"B{length}", "..", ".", "EDF", "EDF", "EFD")
        on_devices = local(body, letters, (f"B{result}D", "", ".", ""))
        y_BLD, penalty, load_E, dropped = on_devices(
            shard(x_BLD, "BLD"),
            rows.segments_BL,
            shard(self.router_DE[...], ".."),
            shard(bias_E, "."),
            # codes are multiplied with their scales here: inside, a device's part of F may cut a block of
            # them
            without_codes(self.w_gate_EDF[...]),
            without_codes(self.w_up_EDF[...]),
            without_codes(self.w_down_EFD[...]),
        )
        if self.shared is not None:
            # outside of `local`: it is a plain product, which explicit axes lay out by themselves
            shared_BLD, _ = self.shared(x_BLD, rows)
            y_BLD = y_BLD + shared_BLD
        aux = {"penalty": penalty, "load_E": shard(load_E, "E"), "dropped": dropped}
        return name(y_BLD, "feed_forward"), aux

    def facts(self) -> ExpertFacts:
        """How many experts there are, and how many a token passes beside the shared one."""
        return ExpertFacts(experts=self.E, top_k=self.router.top_k)

    def _on_device(
        self,
        x_BLD: Array,
        segments_BL: Array,
        router_DE: Array,
        bias_E: Array,
        *weights: Array | LowRank,
        axes: Axes,
        token_axes: tuple[str, ...],
        scatter: bool,
    ) -> tuple[Array, Array, Array, Array]:
        B, L, D = x_BLD.shape
        real_M = segments_BL.reshape(-1) > 0
        x_MD = x_BLD.reshape(-1, D).astype(jnp.float32)
        # the default precision of a TPU would round the operands of float32 products to bfloat16
        logits_ME = jnp.matmul(x_MD, router_DE.astype(jnp.float32), precision="highest")
        routes = self.router.route(logits_ME, bias_E)
        penalty, load_E = self.router.balance(logits_ME, routes, real_M, token_axes)
        # padding goes to the expert E, which there is not
        experts_MS = jnp.where(real_M[:, None], routes.experts_MS, router_DE.shape[1])
        experts_BLS = experts_MS.reshape(B, L, -1)
        weights_BLS = routes.weights_MS.reshape(B, L, -1)
        choices = Choices(x_BLD, experts_BLS, weights_BLS)
        experts = Experts(*weights, self.activation)
        y_BLD, dropped = self.dispatch(choices, experts, axes)
        # each device of `width` has the sum over its part of F alone
        if axes.width and scatter:
            # scattered over positions, so that the stream is `BlD` without a second step
            y_BLD = jax.lax.psum_scatter(y_BLD, axes.width, scatter_dimension=1, tiled=True)
        elif axes.width:
            y_BLD = jax.lax.psum(y_BLD, axes.width)
        # `penalty` and `load_E` are sums over these axes already: see `Router.balance`
        dropped = jax.lax.psum(dropped, token_axes) if token_axes else dropped
        return y_BLD, penalty, load_E, dropped


def _length_letters(L: int) -> tuple[str, str]:
    """The letters of positions in whole rows and in the result; `.` where the mesh does not divide L."""
    # one token of decoding is divided by no axis, and then all devices route the same token
    is_divided = axes_of("L", L) == axes_of("L")
    length = "L" if is_divided else "."
    # the result is divided over `tensor` too, where its size allows
    is_finely_divided = axes_of("l", L) == axes_of("l")
    return length, "l" if is_finely_divided else length
