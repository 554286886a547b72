"""Context parallelism: queries, keys and values of a row lie divided on the devices of L.

A causal mask gives the last positions most of the work. So that all devices do the same, device c of C
holds the half-chunks c and 2C-1-c of the row (Brandon et al. 2023; Llama 3, Dubey et al. 2024): the model
calls `balance` on what it embeds and `unbalance` on its hidden states. In between, masks come from
positions, and the kernels know where in the row their runs lie.

`gather` brings all keys and values to each device once (little to send with grouped heads); `ring` sends
them from device to device while computing (Liu et al. 2023), so that no device ever holds more than two
blocks of them.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from model.execution import name
from model.kernels.loops import LOOPS
from model.kernels.parts import Kernel, Row, attend_rows, merged
from model.kernels.plain import Maths
from model.sharding import axes_of, local, n_parts, shard


class Ring(NamedTuple):
    """The devices that rows are divided on, and whether these lie in balanced order."""

    axes: tuple[str, ...]
    n: int
    balanced: bool


def is_balanced(L: int) -> bool:
    """Whether rows of L positions are held in balanced order: L is divided, and into equal half-chunks."""
    C = n_parts("L", L)
    return C > 1 and L % (2 * C) == 0


def balance(x: Array, letters: str) -> Array:
    """Move the rows of x, laid out by `letters` (with an L or l among them), into balanced order; none
    where `is_balanced` says so.
    """
    return _reorder(x, letters, _balanced_order)


def unbalance(x: Array, letters: str) -> Array:
    """The inverse of `balance`."""
    return _reorder(x, letters, lambda C: sorted(range(2 * C), key=_balanced_order(C).__getitem__))


def gather(
    q_BLHA: Float[Array, "B L H A"],
    k_BLKA: Float[Array, "B L K A"],
    v_BLKA: Float[Array, "B L K A2"],
    positions_BL: Int[Array, "B L"],
    segments_BL: Int[Array, "B L"],
    *,
    scale: float,
    window: int | None,
    soft_cap: float | None,
    kernel: Kernel,
) -> Float[Array, "B L H A2"]:
    """`plain.attend` for a divided L: each device reads its queries against the whole row."""
    maths, devices = Maths(scale, window, soft_cap), _devices_of(q_BLHA.shape[1])
    kernel = _fitting(kernel, q_BLHA.shape[1])

    def here(q_BLHA: Array, k_BLKA: Array, v_BLKA: Array, positions_BL: Array, segments_BL: Array) -> Array:
        k_BKTA, v_BKTA = (_whole(x, devices).swapaxes(1, 2) for x in (k_BLKA, v_BLKA))
        k_row = Row(_whole(positions_BL, devices), _whole(segments_BL, devices), (jnp.zeros((), jnp.int32),))
        q_row = _row_here(positions_BL, segments_BL, devices)
        return attend_rows(q_BLHA.swapaxes(1, 2), k_BKTA, v_BKTA, q_row, k_row, kernel, maths).swapaxes(1, 2)

    return local(here, ("BLHA", "BLKA", "BLKA", "BL", "BL"), "BLHA")(
        q_BLHA, k_BLKA, v_BLKA, positions_BL, segments_BL
    )


def ring(
    q_BLHA: Float[Array, "B L H A"],
    k_BLKA: Float[Array, "B L K A"],
    v_BLKA: Float[Array, "B L K A2"],
    positions_BL: Int[Array, "B L"],
    segments_BL: Int[Array, "B L"],
    *,
    scale: float,
    window: int | None,
    soft_cap: float | None,
    kernel: Kernel,
) -> Float[Array, "B L H A2"]:
    """`plain.attend` for a divided L: keys and values go round, and what the queries read of each part is
    merged.
    """
    maths, devices = Maths(scale, window, soft_cap), _devices_of(q_BLHA.shape[1])
    kernel = _fitting(kernel, q_BLHA.shape[1])

    def here(q_BLHA: Array, k_BLKA: Array, v_BLKA: Array, positions_BL: Array, segments_BL: Array) -> Array:
        row = _row_here(positions_BL, segments_BL, devices)
        return _ring(
            *(x.swapaxes(1, 2) for x in (q_BLHA, k_BLKA, v_BLKA)), row, kernel, devices, maths
        ).swapaxes(1, 2)

    return local(here, ("BLHA", "BLKA", "BLKA", "BL", "BL"), "BLHA")(
        q_BLHA, k_BLKA, v_BLKA, positions_BL, segments_BL
    )


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _ring(
    q_BHLA: Array, k_BKTA: Array, v_BKTA: Array, row: Row, kernel: Kernel, devices: Ring, maths: Maths
) -> Array:
    return _ring_forward(q_BHLA, k_BKTA, v_BKTA, row, kernel, devices, maths)[0]


def _ring_forward(
    q_BHLA: Array, k_BKTA: Array, v_BKTA: Array, row: Row, kernel: Kernel, devices: Ring, maths: Maths
) -> tuple[Array, tuple]:
    def read(part: tuple[Array, Array, Row], so_far: tuple[Array, Array]) -> tuple[Array, Array]:
        k, v, k_row = part
        return merged(so_far, kernel.forward(q_BHLA, k, v, row, k_row, maths))

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        part, so_far = carry
        return (_pass_on(part, devices), read(part, so_far)), None

    here = k_BKTA, v_BKTA, row
    part, so_far = _pass_on(here, devices), kernel.forward(q_BHLA, k_BKTA, v_BKTA, row, row, maths)
    (part, so_far), _ = lax.scan(step, (part, so_far), None, devices.n - 2)
    o_BHLA, lse_BHL = read(part, so_far)
    o_BHLA, lse_BHL = name(o_BHLA.astype(v_BKTA.dtype), "mixed"), name(lse_BHL, "mixed")
    return o_BHLA, (q_BHLA, k_BKTA, v_BKTA, row, o_BHLA, lse_BHL)


def _ring_backward(
    kernel: Kernel, devices: Ring, maths: Maths, saved: tuple, grad_BHLA: Array
) -> tuple[Array | None, ...]:
    """Gradients of keys and values go round with them, and one step further, home."""
    q_BHLA, k_BKTA, v_BKTA, row, o_BHLA, lse_BHL = saved

    def grads(part: tuple[Array, Array, Row]) -> tuple[Array, Array, Array]:
        k, v, k_row = part
        return kernel.backward(q_BHLA, k, v, o_BHLA, lse_BHL, grad_BHLA, row, k_row, maths)

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        part, dq, dkv = carry
        onward = _pass_on(part, devices)
        dq_now, *dkv_now = grads(part)
        dkv = _pass_on(tuple(a + b for a, b in zip(dkv, dkv_now, strict=True)), devices)
        return (onward, dq + dq_now, dkv), None

    here = k_BKTA, v_BKTA, row
    dq, *dkv = grads(here)
    carry = _pass_on(here, devices), dq, _pass_on(tuple(dkv), devices)
    (part, dq, dkv), _ = lax.scan(step, carry, None, devices.n - 2)
    dq_now, *dkv_now = grads(part)
    dk, dv = _pass_on(tuple(a + b for a, b in zip(dkv, dkv_now, strict=True)), devices)
    return (dq + dq_now).astype(q_BHLA.dtype), dk.astype(k_BKTA.dtype), dv.astype(v_BKTA.dtype), None


_ring.defvjp(_ring_forward, _ring_backward)


def _devices_of(L: int) -> Ring:
    return Ring(axes_of("L", L), n_parts("L", L), is_balanced(L))


def _fitting(kernel: Kernel, L: int) -> Kernel:
    """The kernel, or the loops for runs that it cannot cut."""
    run = L // n_parts("L", L) // (2 if is_balanced(L) else 1)
    return LOOPS if run % kernel.multiple else kernel


def _row_here(positions_BL: Array, segments_BL: Array, devices: Ring) -> Row:
    """The runs of the row that this device holds."""
    c, n = lax.axis_index(devices.axes), positions_BL.shape[1]
    starts = (c * n // 2, (2 * devices.n - 1 - c) * n // 2) if devices.balanced else (c * n,)
    return Row(positions_BL, segments_BL, starts)


def _whole(x: Array, devices: Ring) -> Array:
    """All parts of x [B, L, …] from all devices, as the row reads."""
    x = lax.all_gather(x, devices.axes, axis=1, tiled=True)
    if not devices.balanced:
        return x
    halves, order = jnp.split(x, 2 * devices.n, 1), _balanced_order(devices.n)
    return jnp.concatenate([halves[order.index(i)] for i in range(2 * devices.n)], 1)


def _balanced_order(C: int) -> list[int]:
    """Which half-chunk of the row lies at each place of the balanced order."""
    return [half for c in range(C) for half in (c, 2 * C - 1 - c)]


def _pass_on(x, devices: Ring):
    """To the next device of the ring."""
    around = [(i, (i + 1) % devices.n) for i in range(devices.n)]
    return jax.tree.map(lambda leaf: lax.ppermute(leaf, devices.axes, around), x)


def _reorder(x: Array, letters: str, order_of: Callable[[int], list[int]]) -> Array:
    at = letters.upper().index("L")
    L, letter = x.shape[at], letters[at]
    if not is_balanced(L):
        return x
    n = n_parts(letter, L)
    if L % (2 * n):  # between products L is divided further, here not into two equal pieces a device
        whole_letters = letters.replace("l", "L")
        return shard(_reorder(shard(x, whole_letters), whole_letters, order_of), letters)
    C, axes = n_parts("L", L), axes_of(letter, L)
    pieces = [half * (n // C) + i for half in order_of(C) for i in range(n // C)]
    return local(partial(_route, pieces=pieces, axes=axes, at=at), (letters,), letters)(x)


def _route(x: Array, pieces: list[int], axes: tuple[str, ...], at: int) -> Array:
    """Every device holds two neighbouring pieces of L; place i is to hold piece `pieces[i]`. Two permutes
    move them all.
    """
    n = len(pieces) // 2
    rounds = _two_rounds(
        [(piece // 2, place // 2, piece % 2, place % 2) for place, piece in enumerate(pieces)]
    )
    me = lax.axis_index(axes)
    halves = jnp.stack(jnp.split(x, 2, at))
    received = []
    for moves in rounds:
        sent = {source: slot for source, _, slot, _ in moves}
        part = halves[jnp.array([sent[i] for i in range(n)])[me]]
        received.append(lax.ppermute(part, axes, [(source, target) for source, target, _, _ in moves]))
    place = {target: slot for _, target, _, slot in rounds[0]}
    swap = jnp.array([place[i] for i in range(n)])[me] == 1
    first, second = (jnp.where(swap, a, b) for a, b in (received[::-1], received))
    return jnp.concatenate([first, second], at)


def _two_rounds(
    moves: list[tuple[int, int, int, int]],
) -> tuple[list[tuple[int, int, int, int]], list[tuple[int, int, int, int]]]:
    """Split moves (source, target, …), two of each source and two of each target, into rounds with one of
    each.

    From a move, go to the other move of its target, then to the other one of that source, and so on round:
    such a cycle alternates.
    """
    rounds: tuple[list, list] = ([], [])
    left = list(moves)
    while left:
        move, end, side = left[0], 1, 0
        while move is not None:
            left.remove(move)
            rounds[side].append(move)
            move = next((other for other in left if other[end] == move[end]), None)
            end, side = 1 - end, 1 - side
    return rounds
