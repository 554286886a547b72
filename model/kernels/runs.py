"""Attention to a part of a row: what the kernels that know where their queries and keys are in the row have
in common.
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
    """Positions and segments of the queries or keys at hand, and the index in the row where each of their
    equal runs starts.
    """

    positions_BL: Int[Array, "B L"]
    segments_BL: Int[Array, "B L"]
    starts: tuple[Int[Array, ""], ...]


class Kernel(NamedTuple):
    """Attention of the queries at hand to a part of the keys.

    Attributes:
        forward: (q_BHLA, k_BKTA, v_BKTA, q_row, k_row, maths) → what the queries read of these keys, in
            float32, and the logarithm of the sum of their weights; where nothing is seen 0 and MASKED.
        backward: (q_BHLA, k_BKTA, v_BKTA, o_BHLA, lse_BHL, grad_BHLA, q_row, k_row, maths) → gradients of
            queries, keys and values through these keys alone, in float32; `o` and `lse` are those of all
            keys.
        multiple: Runs must have a length that is a multiple of so many positions.
    """

    forward: Callable[..., tuple[Array, Array]]
    backward: Callable[..., tuple[Array, Array, Array]]
    multiple: int


# a gradient of our own: loops with traced bounds have none in JAX, and a kernel makes its scores
# again from `lse`. Arguments 5 and 6 are functions and numbers, not arrays.
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
    """What the queries read of all the keys that they see, which must be at hand, in the type of the
    values.
    """
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
    # both carry the name by which `Remat` keeps them: with them the backward pass needs no forward pass again
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
    """What queries read from several sets of keys together: outputs weighted by their sums, which are given
    as logarithms.
    """
    o_BHLA, lse_BHL = reads[0]
    for o2_BHLA, lse2_BHL in reads[1:]:
        # weights relative to the sum over both sets; MASKED + MASKED stays finite where neither was seen
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
    """Output · its gradient, which is the sum over keys of weight · gradient of weight (Dao et al. 2022,
    eq. 4).

    The gradient of a softmax needs that sum over all keys; this way it is known before any block of them
    is met.
    """
    return jnp.sum(o.astype(jnp.float32) * grad.astype(jnp.float32), -1)


def block_of(length: int, most: int) -> int:
    """The largest size up to `most` of equal blocks that fill `length`."""
    # equal blocks: a loop has one shape for all of them
    return next(size for size in range(min(length, most), 0, -1) if length % size == 0)
