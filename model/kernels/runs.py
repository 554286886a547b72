"""Attention to a part of the keys of a row: the interface and helpers of kernels that are told where in the
row their queries and keys are.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from model.execution import name
from model.kernels.attend import Maths


class Row(NamedTuple):
    """Positions and segments of the queries or keys on this device, and where in the row each of their runs
    starts; runs have equal lengths.
    """

    positions_BL: Int[Array, "B L"]
    segments_BL: Int[Array, "B L"]
    starts: tuple[Int[Array, ""], ...]


class Kernel(NamedTuple):
    """Attention of this device's queries to a part of the keys.

    Attributes:
        forward: (q_BHLA, k_BKTA, v_BKTA, q_row, k_row, maths) → the result over these keys, in float32, and
            the log-sum-exp of their scores; 0 and MASKED for a query that sees none of them.
        backward: (q_BHLA, k_BKTA, v_BKTA, o_BHLA, lse_BHL, grad_BHLA, q_row, k_row, maths) → gradients of
            queries, keys and values through these keys alone, in float32; `o` and `lse` are over all keys.
        multiple: The length of runs must be a multiple of this.
    """

    forward: Callable[..., tuple[Array, Array]]
    backward: Callable[..., tuple[Array, Array, Array]]
    multiple: int


# custom_vjp: JAX cannot differentiate loops with traced bounds, and kernels recompute scores from `lse`.
# nondiff_argnums 5 and 6: functions and numbers, not arrays.
@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def attend_rows(
    q_BHLA: Array,
    k_BKTA: Array,
    v_BKTA: Array,
    q_row: Row,
    k_row: Row,
    kernel: Kernel,
    maths: Maths,
) -> Array:
    """Attention of queries to keys that include all those they see; the result has the dtype of values."""
    return kernel.forward(q_BHLA, k_BKTA, v_BKTA, q_row, k_row, maths)[0].astype(v_BKTA.dtype)


def _attend_rows_forward(
    q_BHLA: Array,
    k_BKTA: Array,
    v_BKTA: Array,
    q_row: Row,
    k_row: Row,
    kernel: Kernel,
    maths: Maths,
) -> tuple[Array, tuple]:
    o_BHLA, lse_BHL = kernel.forward(q_BHLA, k_BKTA, v_BKTA, q_row, k_row, maths)
    # named, so that `Remat` can keep both and the backward pass need not repeat the forward pass
    o_BHLA = name(o_BHLA.astype(v_BKTA.dtype), "mixed")
    lse_BHL = name(lse_BHL, "mixed")
    return o_BHLA, (q_BHLA, k_BKTA, v_BKTA, o_BHLA, lse_BHL, q_row, k_row)


def _attend_rows_backward(
    kernel: Kernel,
    maths: Maths,
    saved: tuple,
    grad_BHLA: Array,
) -> tuple[Array | None, ...]:
    q_BHLA, k_BKTA, v_BKTA, o_BHLA, lse_BHL, q_row, k_row = saved
    grads = kernel.backward(q_BHLA, k_BKTA, v_BKTA, o_BHLA, lse_BHL, grad_BHLA, q_row, k_row, maths)
    inputs = (q_BHLA, k_BKTA, v_BKTA)
    typed_grads = (grad.astype(x.dtype) for grad, x in zip(grads, inputs, strict=True))
    return (*typed_grads, None, None)  # rows are integers: they have no gradient


attend_rows.defvjp(_attend_rows_forward, _attend_rows_backward)


def merged(
    *reads: tuple[Float[Array, "B H L A"], Float[Array, "B H L"]],
) -> tuple[Float[Array, "B H L A"], Float[Array, "B H L"]]:
    """Merge results (o, lse) over several sets of keys into that over all of them."""
    o_BHLA, lse_BHL = reads[0]
    for o2_BHLA, lse2_BHL in reads[1:]:
        # shares of both sets in the total weight; MASKED is finite, so there is no NaN where neither was seen
        total_BHL = jnp.logaddexp(lse_BHL, lse2_BHL)
        w_BHL = jnp.exp(lse_BHL - total_BHL)
        w2_BHL = jnp.exp(lse2_BHL - total_BHL)
        o_BHLA = o_BHLA * w_BHL[..., None] + o2_BHLA * w2_BHL[..., None]
        lse_BHL = total_BHL
    return o_BHLA, lse_BHL


def output_dot(
    o: Float[Array, "*rows A"],
    grad: Float[Array, "*rows A"],
) -> Float[Array, "*rows"]:
    """Output · its gradient, which equals the sum over keys of weight · gradient of weight (Dao et al. 2022,
    eq. 4).

    The gradient of the softmax needs that sum over all keys; this gives it before any block of keys is read.
    """
    return jnp.sum(o.astype(jnp.float32) * grad.astype(jnp.float32), -1)


def block_of(length: int, most: int) -> int:
    """The largest block size up to `most` that divides `length`."""
    return next(size for size in range(min(length, most), 0, -1) if length % size == 0)
