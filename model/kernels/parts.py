"""Attention to parts of a row: what the kernels that know where their queries and keys lie in the row have
in common.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from model.execution import name
from model.kernels.plain import Maths


class Row(NamedTuple):
    """Positions and segments of the queries or keys at hand, and the index in the row where each of their
    equal runs starts.
    """

    positions_BL: Int[Array, "B L"]
    segments_BL: Int[Array, "B L"]
    starts: tuple[Int[Array, ""], ...]


class Kernel(NamedTuple):
    """Attention to a part of the keys (see `loops.forward`, `loops.backward`), for runs of a multiple of so
    many positions.
    """

    forward: Callable[..., tuple[Array, Array]]
    backward: Callable[..., tuple[Array, Array, Array]]
    multiple: int


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def attend_rows(
    q_BHLA: Array, k_BKTA: Array, v_BKTA: Array, q_row: Row, k_row: Row, kernel: Kernel, maths: Maths
) -> Array:
    """What the queries read of all the keys that they see, which must be at hand, in the type of the
    values.
    """
    return kernel.forward(q_BHLA, k_BKTA, v_BKTA, q_row, k_row, maths)[0].astype(v_BKTA.dtype)


def _attend_rows_forward(
    q_BHLA: Array, k_BKTA: Array, v_BKTA: Array, q_row: Row, k_row: Row, kernel: Kernel, maths: Maths
) -> tuple[Array, tuple]:
    o_BHLA, lse_BHL = kernel.forward(q_BHLA, k_BKTA, v_BKTA, q_row, k_row, maths)
    o_BHLA, lse_BHL = name(o_BHLA.astype(v_BKTA.dtype), "mixed"), name(lse_BHL, "mixed")
    return o_BHLA, (q_BHLA, k_BKTA, v_BKTA, o_BHLA, lse_BHL, q_row, k_row)


def _attend_rows_backward(
    kernel: Kernel, maths: Maths, saved: tuple, grad_BHLA: Array
) -> tuple[Array | None, ...]:
    q_BHLA, k_BKTA, v_BKTA, o_BHLA, lse_BHL, q_row, k_row = saved
    grads = kernel.backward(q_BHLA, k_BKTA, v_BKTA, o_BHLA, lse_BHL, grad_BHLA, q_row, k_row, maths)
    return (*(g.astype(x.dtype) for g, x in zip(grads, (q_BHLA, k_BKTA, v_BKTA), strict=True)), None, None)


attend_rows.defvjp(_attend_rows_forward, _attend_rows_backward)


def merged(
    *found: tuple[Float[Array, "B H L A"], Float[Array, "B H L"]],
) -> tuple[Float[Array, "B H L A"], Float[Array, "B H L"]]:
    """What queries read from several sets of keys together: outputs weighted by their sums, which are given
    as logarithms.
    """
    o_BHLA, lse_BHL = found[0]
    for o2_BHLA, lse2_BHL in found[1:]:
        total_BHL = jnp.logaddexp(lse_BHL, lse2_BHL)
        w_BHL, w2_BHL = jnp.exp(lse_BHL - total_BHL), jnp.exp(lse2_BHL - total_BHL)
        o_BHLA, lse_BHL = o_BHLA * w_BHL[..., None] + o2_BHLA * w2_BHL[..., None], total_BHL
    return o_BHLA, lse_BHL


def output_dot(o: Float[Array, "*rows A"], grad: Float[Array, "*rows A"]) -> Float[Array, "*rows"]:
    """Output · its gradient, which is the sum over keys of weight · gradient of weight (Dao et al. 2022,
    eq. 4).
    """
    return jnp.sum(o.astype(jnp.float32) * grad.astype(jnp.float32), -1)


def block_of(length: int, most: int) -> int:
    """The largest size of equal blocks up to `most`."""
    return next(size for size in range(min(length, most), 0, -1) if length % size == 0)
