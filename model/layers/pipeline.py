"""The circular pipeline: layers are divided over the stages of the mesh, and micro-batches go round the
ring of stages.

The schedule is the interleaved one of Narayanan et al. 2021; with `rounds` = 1 it is GPipe (Huang et al.
2019). With S stages, R rounds and M micro-batches a stage holds R runs of layers and works R M of R M + S
- 1 ticks, so the bubble is (S - 1) / (R M + S - 1) of the time.

Micro-batches come in groups of S, one from the rows of each stage. A group goes through all its rounds
before the next one enters, so what leaves the last stage is what the first one needs next, and nothing is
buffered. In each tick two arrays of the size of a micro-batch are sent: the activations to the next
stage, and a register to the previous one. The register brings the next rows to the first stage; there it
takes over a finished micro-batch for each one that enters, and carries it back to the stage that its rows
are from.

A tick needs no checkpoint: the layer inputs of all turns are together as large as those of the whole stack on
as many devices without a pipeline.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from model.sharding import axes_of, n_parts

Tree = Any  # nested containers of arrays
# (x_BlD, weights of one layer, rows of one micro-batch) -> (x_BlD, outs)
Layer = Callable[[Array, Tree, Tree], tuple[Array, Tree]]


def stage_order(N: int, *, stages: int, rounds: int) -> np.ndarray:
    """The order of layers in memory: entry j is the number in the model of the j-th layer in memory.

    Memory is ordered (stage, round, layer of a round), so that dividing it evenly gives each stage its
    layers; the model is ordered (round, stage, layer of a round). With one round they are the same.

    Raises:
        ValueError: the layers do not divide.
    """
    # equal numbers only: a stage with fewer layers would wait for the others in every tick
    if N % (stages * rounds):
        product = f"mesh.stage={stages} times execution.pipeline.rounds={rounds}"
        why = f"architecture.layers={N} is no multiple of {product}"
        raise ValueError(
            f"{why}; change one of them so that every stage has as many layers in every round"
        )
    return np.arange(N).reshape(rounds, stages, -1).swapaxes(0, 1).ravel()


def canonical_order(N: int, *, stages: int, rounds: int) -> np.ndarray:
    """The place in memory of each layer of the model: the inverse of `stage_order`."""
    return np.argsort(stage_order(N, stages=stages, rounds=rounds))


class Schedule(NamedTuple):
    """The mesh axis of the stages, their number, the rounds, and the number of groups of micro-batches."""

    axis: str
    stages: int
    rounds: int
    groups: int

    @property
    def period_ticks(self) -> int:
        """Ticks from the entry of a group to that of the next."""
        return self.rounds * self.stages

    @property
    def n_turns(self) -> int:
        """The number of ticks in which a stage works; stage s works from tick s on."""
        return self.period_ticks * self.groups


class Turn(NamedTuple):
    """What a stage does in a tick: the round, and the micro-batch as (`home`, the stage that its rows are
    from; group). If it is not `live`, the tick is part of the bubble.
    """

    round: Array
    home: Array
    group: Array
    live: Array


def turn(schedule: Schedule, n: Array) -> Turn:
    """The n-th turn of a stage; stage s has it at tick n + s."""
    # clipped: in the bubble the first or last turn is repeated, so that all indices are in bounds
    i = jnp.clip(n, 0, schedule.n_turns - 1)
    return Turn(
        round=i // schedule.stages % schedule.rounds,
        home=i % schedule.stages,
        group=i // schedule.period_ticks,
        live=(n >= 0) & (n < schedule.n_turns),
    )


def pipeline(
    layers: Sequence[Layer],
    weights: Tree,
    x_BlD: Float[Array, "B L D"],
    shared: Tree,
    *,
    remat: Callable[[Callable[..., Any]], Callable[..., Any]],
    rounds: int,
    micro_batches: int,
) -> tuple[Float[Array, "B L D"], Tree]:
    """All N layers of a stack over the stages: the last x, and the outs summed over the micro-batches, [N,
    …] in the order in memory.

    Layer i of the model is `layers[i % len(layers)]`, a repeating pattern. Leaves of `weights` are [N, …]
    in `stage_order`; those of `shared` are [B, …], what every layer knows of its rows; a layer reads no
    other traced array. `remat` wraps the application of a layer together with the choice of its weights and
    rows: a layer that is checkpointed by itself would keep its weights for every tick. `micro_batches` = 0
    means as many as there are stages; more of them shrink the bubble, but every tick gathers its layers'
    weights anew, so raise `rounds` first.

    Raises:
        ValueError: layers, micro-batches or rows do not divide.
    """
    schedule = _schedule(rounds=rounds, micro_batches=micro_batches, B=x_BlD.shape[0])
    N = jax.tree.leaves(weights)[0].shape[0]
    stage_order(N, stages=schedule.stages, rounds=rounds)  # raises where the layers do not divide
    n_run = N // schedule.period_ticks
    if n_run % len(layers):
        over = f"mesh.stage={schedule.stages} and execution.pipeline.rounds={rounds}"
        why = f"architecture.layers={N} over {over} are runs of {n_run} layers"
        raise ValueError(f"{why}, no whole patterns of {len(layers)}; lower rounds or stage")
    stage = partial(_stage, layers=layers, schedule=schedule, remat=remat)
    return by_stage(stage)((weights, x_BlD, shared), ())


def by_stage(fn: Callable[[Tree, Tree], Tree]) -> Callable[[Tree, Tree], Tree]:
    """Run fn(divided, replicated) on every stage: their axis is manual, all others stay explicit.

    The first dimension of `divided`, and of the result, is divided over stages; `replicated` is the same on
    all. fn reads no traced array but these.
    """
    (axis,) = axes_of("N", at_rest=True)
    by_first = PartitionSpec(axis)
    in_specs = by_first, PartitionSpec()
    return jax.shard_map(
        fn, in_specs=in_specs, out_specs=by_first, axis_names={axis}, check_vma=False
    )


def one_layer(weights: Tree, place: Array) -> Tree:
    """The weights of the layer at index `place` in memory of a stack that is divided over stages, on all of
    them: for decoding, which applies the layers one after the other.
    """
    (axis,) = axes_of("N", at_rest=True)

    def chosen(weights: Tree, place: Array) -> Tree:
        def choose(x_N: Array) -> Array:
            i = place - jax.lax.axis_index(axis) * x_N.shape[0]
            is_here = (i >= 0) & (i < x_N.shape[0])
            # clipped: on other stages the index is out of bounds, and the result is not used
            x = _index(x_N, jnp.clip(i, 0, x_N.shape[0] - 1))
            # summed below: all stages but one contribute zeros
            x = jnp.where(is_here, x, jnp.zeros_like(x))
            return _manually(lambda x: jax.lax.psum(x, axis), x, ())

        return jax.tree.map(choose, weights)

    everywhere = PartitionSpec()
    choose_on_stages = jax.shard_map(
        chosen,
        in_specs=(PartitionSpec(axis), everywhere),
        out_specs=everywhere,
        axis_names={axis},
        check_vma=False,
    )
    return choose_on_stages(weights, place)


def _schedule(*, rounds: int, micro_batches: int, B: int) -> Schedule:
    (axis,) = axes_of("N", at_rest=True)
    stages = n_parts("N", at_rest=True)
    micro_batches = micro_batches or stages
    # full groups only: a partial one would leave stages without work in every round
    groups, rest = divmod(micro_batches, stages)
    if rest:
        why = f"execution.pipeline.micro_batches={micro_batches} is no multiple of mesh.stage={stages}"
        raise ValueError(
            f"{why}; set it to {stages * (groups + 1)}, or to 0 for as many as there are stages"
        )
    rows = B // n_parts("B")
    if rows % groups:
        over = f"execution.pipeline.micro_batches={micro_batches} over mesh.stage={stages}"
        why = f"{over} is {groups} parts of the {rows} rows of a device"
        raise ValueError(f"{why}; set micro_batches to {stages}, or raise the batch size")
    return Schedule(axis, stages, rounds, groups)


def _stage(
    divided: tuple[Tree, Array, Tree],
    _: Tree,
    *,
    layers: Sequence[Layer],
    schedule: Schedule,
    remat: Any,
) -> tuple[Array, Tree]:
    weights, x, shared = divided
    stage = jax.lax.axis_index(schedule.axis)
    slots = _split(x, schedule.groups)

    # A layer processes rows of every stage, and needs their positions and segments: [home, group, B, …].
    def from_all_stages(x: Array) -> Array:
        return _of_all_stages(_split(x, schedule.groups), schedule.axis)

    rows = jax.tree.map(from_all_stages, shared)
    rematerialised = [remat(_chosen(layer)) for layer in layers]
    run = partial(_run, rematerialised, weights, rows, n_rounds=schedule.rounds)

    def tick(carry: Any, t: Array) -> tuple[Any, None]:
        state, register, slots, sums = carry
        slots, register = _serve(slots, register, t, schedule)
        first_round = t // schedule.stages % schedule.rounds == 0
        x, register = _enter(state, register, (stage == 0) & first_round)
        now = turn(schedule, t - stage)
        x, outs = run(x, now)
        # in opposite directions, so that every link is used both ways in each tick
        carry = _push(x, 1, schedule), _push(register, -1, schedule), slots, _add(sums, outs, now)
        return carry, None

    # In the bubble layers process real rows, not zeros or garbage that could become NaN; the results are not
    # used.
    start = slots[0], slots[0], slots, _no_sums(run, slots[0], schedule)
    # the last stage starts stages - 1 ticks after the first
    ticks = jnp.arange(schedule.n_turns + schedule.stages - 1)
    (state, register, slots, sums), _ = jax.lax.scan(tick, start, ticks)
    # The last micro-batches of the last group are still in the activations: one more exchange and push.
    _, register = _enter(state, register, stage == 0)
    register = _push(register, -1, schedule)
    slots = jax.lax.dynamic_update_index_in_dim(slots, register, schedule.groups - 1, 0)
    return _join(slots), sums


def _enter(state: Array, register: Array, entering: Array) -> tuple[Array, Array]:
    """Where new rows enter, exchange the register with the activations that came round the ring."""
    return jnp.where(entering, register, state), jnp.where(entering, state, register)


def _serve(slots: Array, register: Array, t: Array, schedule: Schedule) -> tuple[Array, Array]:
    """Put a finished group into its slot, and load the next one from its own; most ticks do neither."""
    n_stages, period = schedule.stages, schedule.period_ticks
    # a group that entered at tick g · period is home, on the way back, after another period and all stages
    finished = jnp.clip((t - n_stages) // period - 1, 0, schedule.groups - 1)
    is_home = (t % period == n_stages % period) & (t >= period + n_stages)
    slot = jnp.where(is_home, register, _index(slots, finished))
    slots = jax.lax.dynamic_update_index_in_dim(slots, slot, finished, 0)
    following = jnp.clip(t // period, 0, schedule.groups - 1)
    return slots, jnp.where(t % period == 0, _index(slots, following), register)


def _run(
    layers: Sequence[Callable[..., Any]],
    weights: Tree,
    rows: Tree,
    x: Array,
    now: Turn,
    *,
    n_rounds: int,
) -> tuple[Array, Tree]:
    """A turn: apply this stage's layers of the round to x; also returns their outs, [layers of a round,
    …].
    """
    n = jax.tree.leaves(weights)[0].shape[0] // n_rounds  # layers of a round
    p = len(layers)
    values = jax.tree.map(jax.lax.stop_gradient, weights)  # see `_choose`

    def pattern(x: Array, indexed: tuple[Array, Tree]) -> tuple[Array, Tree]:
        i, carriers = indexed
        outs = []
        for j, layer in enumerate(layers):
            place = now.round * n + i * p + j
            x, out = layer(x, (values, place, _index(carriers, j)), rows, now)
            outs.append(out)
        return x, jax.tree.map(lambda *outs: jnp.stack(outs), *outs)

    # gradients of the scan are then those of this round's layers alone
    def of_round(x: Array) -> Array:
        x = jax.lax.dynamic_slice_in_dim(x, now.round * n, n)
        return _front(x, 1, (n // p, p))

    carriers = jax.tree.map(of_round, weights)
    x, outs = jax.lax.scan(pattern, x, (jnp.arange(n // p), carriers))
    return x, jax.tree.map(lambda x: _front(x, 2, (n,)), outs)


def _chosen(layer: Layer) -> Callable[..., tuple[Array, Tree]]:
    def apply(
        x: Array, place: tuple[Tree, Array, Tree], rows: Tree, now: Turn
    ) -> tuple[Array, Tree]:
        return layer(x, _choose(*place), _index(_index(rows, now.home), now.group))

    return apply


@jax.custom_jvp
def _choose(values: Tree, at: Array, carrier: Tree) -> Tree:
    """values[at], whose gradient goes to `carrier`: the same weights, as an element of the slice over which
    this turn's scan runs.

    The gradient of values[at] itself would be as large as `values`, and be added for every layer of every
    tick; reading the weights from the slice would keep a copy of it for every tick.
    """
    return _index(values, at)


@_choose.defjvp
def _choose_jvp(
    primals: tuple[Tree, Array, Tree], tangents: tuple[Tree, Any, Tree]
) -> tuple[Tree, Tree]:
    # tangents[0], of `values`, is zero: their gradient is stopped in `_run`
    return _choose(*primals), tangents[2]


def _add(sums: Tree, outs: Tree, now: Turn) -> Tree:
    def add(sums: Array, outs: Array) -> Array:
        # sums are in memory order, where a stage's layers of a round are neighbours
        first = now.round * outs.shape[0]
        so_far = jax.lax.dynamic_slice_in_dim(sums, first, outs.shape[0])
        # a bubble repeats a turn, whose sums would count twice
        live_outs = jnp.where(now.live, outs, jnp.zeros_like(outs))
        return jax.lax.dynamic_update_slice_in_dim(sums, so_far + live_outs, first, 0)

    return jax.tree.map(add, sums, outs)


def _no_sums(
    run: Callable[[Array, Turn], tuple[Array, Tree]], x: Array, schedule: Schedule
) -> Tree:
    # a scan's carry must start with the shapes and layouts that its body returns
    def zeros(out: jax.ShapeDtypeStruct) -> Array:
        layout = out.sharding.spec if out.sharding else None
        shape = (schedule.rounds * out.shape[0], *out.shape[1:])
        return jnp.zeros(shape, out.dtype, out_sharding=layout)

    first_turn = turn(schedule, jnp.int32(0))
    shapes = jax.eval_shape(lambda x: run(x, first_turn)[1], x)
    return jax.tree.map(zeros, shapes)


def _push(x: Array, step: int, schedule: Schedule) -> Array:
    """Send x to the stage `step` further round the ring."""
    n = schedule.stages
    return jax.lax.ppermute(x, schedule.axis, [(stage, (stage + step) % n) for stage in range(n)])


def _of_all_stages(x: Array, axis: str) -> Array:
    """[…] of one stage -> [stages, …]."""
    return _manually(lambda x: jax.lax.all_gather(x, axis), x, (None,))


def _manually(fn: Callable[[Array], Array], x: Array, front: tuple[None, ...]) -> Array:
    """Apply a collective over stages to each device's own block. If only the stage axis were manual, XLA
    would first gather the array over the other axes.
    """
    layout = jax.typeof(x).sharding.spec
    out = PartitionSpec(*front, *layout.partitions)
    return jax.shard_map(fn, in_specs=layout, out_specs=out, check_vma=False)(x)


def _index(tree: Tree, i: Any) -> Tree:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, 0, keepdims=False), tree)


def _split(x: Array, groups: int) -> Array:
    """[B, …] -> [groups, B / groups, …]; part i is rows i::groups of each shard, so that no row moves
    between devices.
    """
    rows, *rest = jax.typeof(x).sharding.spec.partitions
    # (B / groups, groups) and not (groups, B / groups): so each device keeps its rows
    shape = (x.shape[0] // groups, groups, *x.shape[1:])
    x = jax.lax.reshape(x, shape, out_sharding=PartitionSpec(rows, None, *rest))
    return jnp.moveaxis(x, 1, 0)


def _join(x: Array) -> Array:
    """The inverse of `_split`."""
    _, rows, *rest = jax.typeof(x).sharding.spec.partitions
    groups, B, *sizes = x.shape
    x = jnp.moveaxis(x, 0, 1)
    return jax.lax.reshape(x, (groups * B, *sizes), out_sharding=PartitionSpec(rows, *rest))


def _front(x: Array, n: int, sizes: tuple[int, ...]) -> Array:
    """Reshape the first n dimensions, which are not sharded, to `sizes`."""
    # under explicit axes a reshape needs its layout
    layout = PartitionSpec(*[None] * len(sizes), *jax.typeof(x).sharding.spec.partitions[n:])
    return jax.lax.reshape(x, (*sizes, *x.shape[n:]), out_sharding=layout)
