"""Context parallelism: queries, keys and values of a row are sharded over the devices of L.

With a causal mask later positions have more work. So that all devices have the same, device c of C holds the
half-chunks c and 2C-1-c of the row (Brandon et al. 2023; Llama 3, Dubey et al. 2024): the model
calls `balance` on what it embeds and `unbalance` on its hidden states. In between, masks come from
positions, and the kernels know where in the row their runs are. With C = 4, by half-chunks:

    the row          0 1 2 3 4 5 6 7
    device 0         0 7                   1 + 8 = 9 half-chunks of keys are seen by its queries
    device 1         1 6                   2 + 7
    device 2         2 5                   3 + 6
    device 3         3 4                   4 + 5
    balanced order   0 7 1 6 2 5 3 4       what `balance` makes of the row, and `unbalance` undoes

`gather` brings all keys and values to each device once (little to send with grouped heads); `ring` sends
them from device to device while computing (Liu et al. 2023), so that no device ever holds more than two
blocks of them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from model.execution import name
from model.exits import local
from model.kernels.attend import Maths
from model.kernels.loops import LOOPS
from model.kernels.runs import Kernel, Row, attend_rows, merged
from model.sharding import axes_of, n_parts, shard

# keys and values of one device, and where in the row they are
KeyBlock = tuple[Array, Array, Row]


class Ring(NamedTuple):
    """The mesh axes over which rows are sharded, the number of devices, and whether rows are in balanced
    order.
    """

    axes: tuple[str, ...]
    n: int
    balanced: bool


class Move(NamedTuple):
    """One half-chunk goes from a slot (0 or 1) of a device to a slot of another."""

    source: int
    target: int
    source_slot: int
    target_slot: int


def is_balanced(L: int) -> bool:
    """Whether rows of L positions are in balanced order: L is sharded, and divides into half-chunks."""
    C = n_parts("L", L)
    # not, for example, the single token of a decoding step
    return C > 1 and L % (2 * C) == 0


def balance(x: Array, letters: str) -> Array:
    """Bring the positions of x, laid out by `letters` (with an L or l), into balanced order; nothing is done
    unless `is_balanced`.
    """
    return _reorder(x, letters, _balanced_order)


def unbalance(x: Array, letters: str) -> Array:
    """Bring positions back into reading order: the inverse of `balance`."""
    return _reorder(x, letters, _reading_order)


def balanced_index(index: Int[Array, "*rows"], L: int) -> Int[Array, "*rows"]:
    """The index in balanced order of position `index` of a row of L positions; -1 stays -1, and nothing
    changes unless `is_balanced`.
    """
    if not is_balanced(L):
        return index
    C = n_parts("L", L)
    half_length = L // (2 * C)
    half = index // half_length
    # device c holds half-chunk c in its first half and 2C-1-c in its second
    balanced_half = jnp.where(half < C, 2 * half, 2 * (2 * C - 1 - half) + 1)
    return jnp.where(index < 0, index, balanced_half * half_length + index % half_length)


def gather(
    q_BLHA: Array,
    k_BLKA: Array,
    v_BLKA: Array,
    positions_BL: Array,
    segments_BL: Array,
    maths: Maths,
    *,
    kernel: Kernel,
) -> Array:
    """An `Attend` for a sharded L: each device gathers the keys and values of the whole row."""
    L = q_BLHA.shape[1]
    ring = _ring_of(L)
    kernel = _fitting(kernel, L)

    def on_device(
        q_BLHA: Array,
        k_BLKA: Array,
        v_BLKA: Array,
        positions_BL: Array,
        segments_BL: Array,
    ) -> Array:
        q_BHLA = q_BLHA.swapaxes(1, 2)
        k_BKTA = _gathered(k_BLKA, ring).swapaxes(1, 2)
        v_BKTA = _gathered(v_BLKA, ring).swapaxes(1, 2)
        # `_gathered` restores the reading order, so the keys are a single run that starts at 0
        start = jnp.zeros((), jnp.int32)
        k_row = Row(_gathered(positions_BL, ring), _gathered(segments_BL, ring), (start,))
        q_row = _local_row(positions_BL, segments_BL, ring)
        o_BHLA = attend_rows(q_BHLA, k_BKTA, v_BKTA, q_row, k_row, kernel, maths)
        return o_BHLA.swapaxes(1, 2)

    run = local(on_device, ("BLHA", "BLKA", "BLKA", "BL", "BL"), "BLHA")
    return run(q_BLHA, k_BLKA, v_BLKA, positions_BL, segments_BL)


def ring(
    q_BLHA: Array,
    k_BLKA: Array,
    v_BLKA: Array,
    positions_BL: Array,
    segments_BL: Array,
    maths: Maths,
    *,
    kernel: Kernel,
) -> Array:
    """An `Attend` for a sharded L: keys and values are passed round the ring of devices, and the results over
    each block are merged.

    With n devices every device reads n blocks of keys: its own, and n - 1 that its neighbour sends. In the
    backward pass the gradients of a block are passed on with it, until they reach its own device.
    """
    L = q_BLHA.shape[1]
    ring = _ring_of(L)
    kernel = _fitting(kernel, L)

    def on_device(
        q_BLHA: Array,
        k_BLKA: Array,
        v_BLKA: Array,
        positions_BL: Array,
        segments_BL: Array,
    ) -> Array:
        row = _local_row(positions_BL, segments_BL, ring)
        q_BHLA = q_BLHA.swapaxes(1, 2)
        k_BKTA = k_BLKA.swapaxes(1, 2)
        v_BKTA = v_BLKA.swapaxes(1, 2)
        o_BHLA = _ring(q_BHLA, k_BKTA, v_BKTA, row, kernel, ring, maths)
        return o_BHLA.swapaxes(1, 2)

    run = local(on_device, ("BLHA", "BLKA", "BLKA", "BL", "BL"), "BLHA")
    return run(q_BLHA, k_BLKA, v_BLKA, positions_BL, segments_BL)


# custom_vjp: the scan's own gradient would keep the keys of every step, so the whole row on every device.
@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _ring(
    q_BHLA: Array,
    k_BKTA: Array,
    v_BKTA: Array,
    row: Row,
    kernel: Kernel,
    ring: Ring,
    maths: Maths,
) -> Array:
    return _ring_forward(q_BHLA, k_BKTA, v_BKTA, row, kernel, ring, maths)[0]


def _ring_forward(
    q_BHLA: Array,
    k_BKTA: Array,
    v_BKTA: Array,
    row: Row,
    kernel: Kernel,
    ring: Ring,
    maths: Maths,
) -> tuple[Array, tuple]:
    def read(keys: KeyBlock, so_far: tuple[Array, Array]) -> tuple[Array, Array]:
        k, v, k_row = keys
        return merged(so_far, kernel.forward(q_BHLA, k, v, row, k_row, maths))

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        keys, so_far = carry
        # `_pass_on` does not depend on `read`, so keys are sent on while they are used
        return (_pass_on(keys, ring), read(keys, so_far)), None

    keys = _pass_on((k_BKTA, v_BKTA, row), ring)
    # the device's own keys are used while the first ones are sent
    own_read = kernel.forward(q_BHLA, k_BKTA, v_BKTA, row, row, maths)
    # The first and last block are outside of the loop: the own keys come from nowhere, the last are not
    # sent on.
    (keys, so_far), _ = lax.scan(step, (keys, own_read), None, ring.n - 2)
    o_BHLA, lse_BHL = read(keys, so_far)
    o_BHLA = name(o_BHLA.astype(v_BKTA.dtype), "mixed")
    lse_BHL = name(lse_BHL, "mixed")
    return o_BHLA, (q_BHLA, k_BKTA, v_BKTA, row, o_BHLA, lse_BHL)


def _ring_backward(
    kernel: Kernel,
    ring: Ring,
    maths: Maths,
    saved: tuple,
    grad_BHLA: Array,
) -> tuple[Array | None, ...]:
    """Gradients of keys and values are passed on with them, and at the end once more, to their own device."""
    q_BHLA, k_BKTA, v_BKTA, row, o_BHLA, lse_BHL = saved

    def grads(keys: KeyBlock) -> tuple[Array, tuple[Array, Array]]:
        k, v, k_row = keys
        dq, dk, dv = kernel.backward(q_BHLA, k, v, o_BHLA, lse_BHL, grad_BHLA, row, k_row, maths)
        return dq, (dk, dv)

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        keys, dq, dkv = carry
        onward = _pass_on(keys, ring)
        dq_here, dkv_here = grads(keys)
        # sent on together with the keys that they are gradients of
        dkv = _pass_on(jax.tree.map(jnp.add, dkv, dkv_here), ring)
        return (onward, dq + dq_here, dkv), None

    own_keys = (k_BKTA, v_BKTA, row)
    dq, dkv = grads(own_keys)
    # as in the forward pass, the own block comes before the loop and the last one after it
    carry = (_pass_on(own_keys, ring), dq, _pass_on(dkv, ring))
    (keys, dq, dkv), _ = lax.scan(step, carry, None, ring.n - 2)
    dq_here, dkv_here = grads(keys)
    dk, dv = _pass_on(jax.tree.map(jnp.add, dkv, dkv_here), ring)
    dq = dq + dq_here
    # None: the row is of integers, which have no gradient
    return dq.astype(q_BHLA.dtype), dk.astype(k_BKTA.dtype), dv.astype(v_BKTA.dtype), None


_ring.defvjp(_ring_forward, _ring_backward)


def _ring_of(L: int) -> Ring:
    return Ring(axes_of("L", L), n_parts("L", L), is_balanced(L))


def _fitting(kernel: Kernel, L: int) -> Kernel:
    """The kernel, or LOOPS if the length of runs is not a multiple of what the kernel needs."""
    n_runs = 2 if is_balanced(L) else 1
    # for example, splash divides runs into tiles of 128 positions
    run_length = L // n_parts("L", L) // n_runs
    return LOOPS if run_length % kernel.multiple else kernel


def _local_row(positions_BL: Array, segments_BL: Array, ring: Ring) -> Row:
    """The runs of the row that this device holds."""
    c = lax.axis_index(ring.axes)
    L = positions_BL.shape[1]  # of this device
    if not ring.balanced:
        return Row(positions_BL, segments_BL, (c * L,))
    # L is two half-chunks here, so half-chunk i of the row begins at i · L / 2
    mirrored = 2 * ring.n - 1 - c
    return Row(positions_BL, segments_BL, (c * L // 2, mirrored * L // 2))


def _gathered(x: Array, ring: Ring) -> Array:
    """x [B, L, …] of all devices, as the row reads."""
    x = lax.all_gather(x, ring.axes, axis=1, tiled=True)
    if not ring.balanced:
        return x
    halves = jnp.split(x, 2 * ring.n, 1)
    return jnp.concatenate([halves[place] for place in _reading_order(ring.n)], 1)


def _balanced_order(C: int) -> list[int]:
    """Which half-chunk of the row is at each place of the balanced order."""
    return [half for c in range(C) for half in (c, 2 * C - 1 - c)]


def _reading_order(C: int) -> list[int]:
    """At which place of the balanced order each half-chunk of the row is."""
    order = _balanced_order(C)
    return [order.index(half) for half in range(2 * C)]


def _pass_on(tree: Any, ring: Ring) -> Any:
    """Send every array to the next device of the ring."""
    n = ring.n
    around = [(i, (i + 1) % n) for i in range(n)]
    return jax.tree.map(lambda leaf: lax.ppermute(leaf, ring.axes, around), tree)


def _reorder(x: Array, letters: str, order_of: Callable[[int], list[int]]) -> Array:
    """x with half-chunk `order_of(C)[i]` of L at place i."""
    axis = letters.upper().index("L")
    letter = letters[axis]
    L = x.shape[axis]
    if not is_balanced(L):
        return x
    n = n_parts(letter, L)
    if L % (2 * n):
        # `l` is sharded further than L, and here not into two equal pieces per device
        divided_less = letters.replace("l", "L")
        return shard(_reorder(shard(x, divided_less), divided_less, order_of), letters)
    C = n_parts("L", L)
    # with `l` a half-chunk is n / C pieces on as many devices; all of them move together
    n_pieces = n // C
    pieces = [half * n_pieces + i for half in order_of(C) for i in range(n_pieces)]
    route = partial(_route, pieces=pieces, axes=axes_of(letter, L), axis=axis)
    return local(route, (letters,), letters)(x)


def _route(x: Array, pieces: list[int], axes: tuple[str, ...], axis: int) -> Array:
    """Every device holds two neighbouring pieces of L; place i is to hold piece `pieces[i]`.

    A `ppermute` sends one piece from every device and brings one to every device: two of them move all.
    """
    n = len(pieces) // 2
    moves = []
    for place, piece in enumerate(pieces):
        source, source_slot = divmod(piece, 2)
        target, target_slot = divmod(place, 2)
        moves.append(Move(source, target, source_slot, target_slot))
    rounds = _two_rounds(moves)
    device = lax.axis_index(axes)
    halves = jnp.stack(jnp.split(x, 2, axis))
    # shape [2, …]: the two pieces that this device holds
    received = []
    for moves_of_round in rounds:
        # one program runs on all devices: what differs between them is a table, read at the device's index
        slot_of = {move.source: move.source_slot for move in moves_of_round}
        slots = jnp.array([slot_of[i] for i in range(n)])
        pairs = [(move.source, move.target) for move in moves_of_round]
        received.append(lax.ppermute(halves[slots[device]], axes, pairs))
    target_slot_of = {move.target: move.target_slot for move in rounds[0]}
    target_slots = jnp.array([target_slot_of[i] for i in range(n)])
    # where the first round brought what belongs into slot 1, the two change places
    is_swapped = target_slots[device] == 1
    first = jnp.where(is_swapped, received[1], received[0])
    second = jnp.where(is_swapped, received[0], received[1])
    return jnp.concatenate([first, second], axis)


def _two_rounds(moves: list[Move]) -> tuple[list[Move], list[Move]]:
    """Split moves, two of each source and two of each target, into rounds with one of each.

    From a move, go to the other move of its target, then to the other one of that source, and so on round:
    such a cycle alternates between the rounds.
    """
    rounds: tuple[list[Move], list[Move]] = ([], [])
    left = list(moves)
    while left:
        move: Move | None = left[0]
        by_target, side = True, 0
        while move is not None:
            left.remove(move)
            rounds[side].append(move)
            same_target = (other for other in left if other.target == move.target)
            same_source = (other for other in left if other.source == move.source)
            move = next(same_target if by_target else same_source, None)
            by_target = not by_target
            side = 1 - side
    return rounds
