"""The circular pipeline: layers lie on the stages of the mesh, and parts of the rows are pushed round the
ring of stages.

Narayanan et al. 2021 (interleaved schedule; GPipe, Huang et al. 2019, is `rounds` = 1). With S stages, R
rounds and M micro-batches a stage holds R runs of layers and works R M of R M + S - 1 ticks, so that the
bubble is (S - 1) / (R M + S - 1) of the time.

Micro-batches come in groups of S, one from the rows of each stage: a group goes through all its rounds
before the next one enters, so what leaves the last stage is what the first one needs next, and nothing
waits in a buffer. Two things travel a tick, each as large as one micro-batch: the activations, one stage
on, and a register, one stage back. The register brings the next rows to the first stage, takes a finished
micro-batch in the place of every one that enters, and so carries it home to the stage that it came from.

A tick needs no checkpoint of its own: the inputs of the layers of all turns are as large as those of the
whole stack are on as many devices without a pipeline.
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
Layer = Callable[
    [Array, Tree, Tree], tuple[Array, Tree]
]  # (x_BlD, weights of one layer, rows of one micro-batch) -> (x_BlD, outs)


def stage_order(N: int, *, stages: int, rounds: int) -> np.ndarray:
    """Which layer lies where: place j of a stack in memory holds layer `stage_order(…)[j]` of the model.

    Memory is ordered (stage, round, layer of a round), so that equal parts are what the stages need; the
    model runs through (round, stage, layer of a round). With one round they are the same.

    Raises:
        ValueError: the layers do not divide.
    """
    if N % (stages * rounds):
        why = f"architecture.layers={N} is no multiple of mesh.stage={stages} times execution.pipeline.rounds={rounds}"
        raise ValueError(f"{why}; change one of them so that every stage has as many layers in every round")
    return np.arange(N).reshape(rounds, stages, -1).swapaxes(0, 1).ravel()


def canonical_order(N: int, *, stages: int, rounds: int) -> np.ndarray:
    """Where each layer lies: the inverse of `stage_order`."""
    return np.argsort(stage_order(N, stages=stages, rounds=rounds))


class Schedule(NamedTuple):
    """The mesh axis of `stages`, the rounds, and the groups of as many micro-batches as there are stages."""

    axis: str
    stages: int
    rounds: int
    groups: int

    @property
    def period_ticks(self) -> int:
        """From one group's entrance to the next one's."""
        return self.rounds * self.stages

    @property
    def n_turns(self) -> int:
        """Ticks that a stage works; stage s works from tick s on."""
        return self.period_ticks * self.groups


class Turn(NamedTuple):
    """What a stage does in a tick: the round, and the micro-batch as (stage whose rows it is, group); not
    `live` is bubble.
    """

    round: Array
    home: Array
    group: Array
    live: Array


def turn(schedule: Schedule, n: Array) -> Turn:
    """The n-th turn of a stage; stage s has it at tick n + s."""
    at = jnp.clip(n, 0, schedule.n_turns - 1)
    return Turn(
        round=at // schedule.stages % schedule.rounds,
        home=at % schedule.stages,
        group=at // schedule.period_ticks,
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
    other traced array. `remat` wraps the application of a
    layer together with the choice of its weights and rows: a layer that were checkpointed inside would keep
    its weights for every tick. `micro_batches` = 0 means as many as there are stages; more of them shrink
    the bubble, but every tick gathers its layers' weights anew, so raise `rounds` first.

    Raises:
        ValueError: layers, micro-batches or rows do not divide.
    """
    schedule = _schedule(rounds=rounds, micro_batches=micro_batches, B=x_BlD.shape[0])
    N = jax.tree.leaves(weights)[0].shape[0]
    n_run = len(stage_order(N, stages=schedule.stages, rounds=rounds)) // schedule.period_ticks
    if n_run % len(layers):
        why = f"architecture.layers={N} over mesh.stage={schedule.stages} and execution.pipeline.rounds={rounds} are runs of {n_run} layers"
        raise ValueError(f"{why}, no whole patterns of {len(layers)}; lower rounds or stage")
    stage = partial(_stage, layers=layers, schedule=schedule, remat=remat)
    return by_stage(stage)((weights, x_BlD, shared), ())


def by_stage(fn: Callable[[Tree, Tree], Tree]) -> Callable[[Tree, Tree], Tree]:
    """Run fn(divided, whole) on every stage: their axis is manual, all others stay explicit.

    What is `divided`, and what comes out, lies on stages in its first dimension; `whole` is the same on
    all. fn reads no traced array but these.
    """
    (axis,) = axes_of("N", at_rest=True)
    first = PartitionSpec(axis)
    return jax.shard_map(
        fn, in_specs=(first, PartitionSpec()), out_specs=first, axis_names={axis}, check_vma=False
    )


def one_layer(weights: Tree, at: Array) -> Tree:
    """Place `at` in the memory of a stack that lies on stages, without its N, on all of them: how decoding
    goes through the layers.
    """
    (axis,) = axes_of("N", at_rest=True)

    def chosen(weights: Tree, at: Array) -> Tree:
        def one(x: Array) -> Array:
            i = at - jax.lax.axis_index(axis) * x.shape[0]
            mine = _index(x, jnp.clip(i, 0, x.shape[0] - 1))
            mine = jnp.where((i >= 0) & (i < x.shape[0]), mine, jnp.zeros_like(mine))
            return _manually(lambda x: jax.lax.psum(x, axis), mine, ())

        return jax.tree.map(one, weights)

    in_specs = PartitionSpec(axis), PartitionSpec()
    return jax.shard_map(
        chosen, in_specs=in_specs, out_specs=PartitionSpec(), axis_names={axis}, check_vma=False
    )(weights, at)


def _schedule(*, rounds: int, micro_batches: int, B: int) -> Schedule:
    (axis,), stages = axes_of("N", at_rest=True), n_parts("N", at_rest=True)
    micro_batches = micro_batches or stages
    groups, rest = divmod(micro_batches, stages)
    if rest:
        why = f"execution.pipeline.micro_batches={micro_batches} is no multiple of mesh.stage={stages}"
        raise ValueError(f"{why}; set it to {stages * (groups + 1)}, or to 0 for as many as there are stages")
    if (rows := B // n_parts("B")) % groups:
        why = f"execution.pipeline.micro_batches={micro_batches} over mesh.stage={stages} is {groups} parts of the {rows} rows of a device"
        raise ValueError(f"{why}; set micro_batches to {stages}, or raise the batch size")
    return Schedule(axis, stages, rounds, groups)


def _stage(
    divided: tuple[Tree, Array, Tree], _: Tree, *, layers: Sequence[Layer], schedule: Schedule, remat: Any
) -> tuple[Array, Tree]:
    weights, x, shared = divided
    me = jax.lax.axis_index(schedule.axis)
    slots = _split(x, schedule.groups)
    rows = jax.tree.map(
        lambda x: _of_all_stages(_split(x, schedule.groups), schedule.axis), shared
    )  # [home, group, B, …]
    run = partial(_run, [remat(_chosen(layer)) for layer in layers], weights, rows, n_rounds=schedule.rounds)

    def tick(carry: Any, t: Array) -> tuple[Any, None]:
        state, register, slots, sums = carry
        slots, register = _serve(slots, register, t, schedule)
        x, register = _enter(state, register, (me == 0) & (t // schedule.stages % schedule.rounds == 0))
        now = turn(schedule, t - me)
        x, outs = run(x, now)
        return (_push(x, 1, schedule), _push(register, -1, schedule), slots, _add(sums, outs, now)), None

    # bubbles work on real rows, so that no layer meets numbers it could make infinite; nothing of them
    # reaches the results
    start = slots[0], slots[0], slots, _no_sums(run, slots[0], schedule)
    (state, register, slots, sums), _ = jax.lax.scan(
        tick, start, jnp.arange(schedule.n_turns + schedule.stages - 1)
    )
    register = _push(_enter(state, register, me == 0)[1], -1, schedule)  # the last of the last group
    return _join(jax.lax.dynamic_update_index_in_dim(slots, register, schedule.groups - 1, 0)), sums


def _enter(state: Array, register: Array, entering: Array) -> tuple[Array, Array]:
    """Where new rows enter, they and what came round the ring change places."""
    return jnp.where(entering, register, state), jnp.where(entering, state, register)


def _serve(slots: Array, register: Array, t: Array, schedule: Schedule) -> tuple[Array, Array]:
    """Put a group that has come home back into its slot, and take the next one out of its own."""
    n_stages, period = schedule.stages, schedule.period_ticks
    home = jnp.clip((t - n_stages) // period - 1, 0, schedule.groups - 1)
    is_home = (t % period == n_stages % period) & (t >= period + n_stages)
    slots = jax.lax.dynamic_update_index_in_dim(
        slots, jnp.where(is_home, register, _index(slots, home)), home, 0
    )
    return slots, jnp.where(
        t % period == 0, _index(slots, jnp.clip(t // period, 0, schedule.groups - 1)), register
    )


def _run(
    layers: Sequence[Callable[..., Any]], weights: Tree, rows: Tree, x: Array, now: Turn, *, n_rounds: int
) -> tuple[Array, Tree]:
    """A turn: x through this stage's layers of the round, and their outs [layers of a round, …]."""
    n, p = jax.tree.leaves(weights)[0].shape[0] // n_rounds, len(layers)
    values = jax.tree.map(jax.lax.stop_gradient, weights)

    def pattern(x: Array, part: tuple[Array, Tree]) -> tuple[Array, Tree]:
        i, carriers = part
        outs = []
        for j, layer in enumerate(layers):
            x, out = layer(x, (values, now.round * n + i * p + j, _index(carriers, j)), rows, now)
            outs.append(out)
        return x, jax.tree.map(lambda *outs: jnp.stack(outs), *outs)

    carriers = jax.tree.map(
        lambda x: _front(jax.lax.dynamic_slice_in_dim(x, now.round * n, n), 1, (n // p, p)), weights
    )
    x, outs = jax.lax.scan(pattern, x, (jnp.arange(n // p), carriers))
    return x, jax.tree.map(lambda x: _front(x, 2, (n,)), outs)


def _chosen(layer: Layer) -> Callable[..., tuple[Array, Tree]]:
    def apply(x: Array, place: tuple[Tree, Array, Tree], rows: Tree, now: Turn) -> tuple[Array, Tree]:
        return layer(x, _choose(*place), _index(_index(rows, now.home), now.group))

    return apply


@jax.custom_jvp
def _choose(values: Tree, at: Array, carrier: Tree) -> Tree:
    """values[at], whose gradient goes to `carrier`: the same weights, as a part of the slice that this
    turn's scan goes through.

    The gradient of values[at] itself would be as large as `values`, added up for every layer of every tick;
    and the slice as a value would be kept for every tick.
    """
    return _index(values, at)


@_choose.defjvp
def _choose_jvp(primals: tuple[Tree, Array, Tree], tangents: tuple[Tree, Any, Tree]) -> tuple[Tree, Tree]:
    return _choose(*primals), tangents[2]


def _add(sums: Tree, outs: Tree, now: Turn) -> Tree:
    def add(sums: Array, outs: Array) -> Array:
        at = now.round * outs.shape[0]
        so_far = jax.lax.dynamic_slice_in_dim(sums, at, outs.shape[0])
        return jax.lax.dynamic_update_slice_in_dim(
            sums, so_far + jnp.where(now.live, outs, jnp.zeros_like(outs)), at, 0
        )

    return jax.tree.map(add, sums, outs)


def _no_sums(run: Callable[[Array, Turn], tuple[Array, Tree]], x: Array, schedule: Schedule) -> Tree:
    def zeros(out: jax.ShapeDtypeStruct) -> Array:
        layout = out.sharding.spec if out.sharding else None
        return jnp.zeros((schedule.rounds * out.shape[0], *out.shape[1:]), out.dtype, out_sharding=layout)

    return jax.tree.map(zeros, jax.eval_shape(lambda x: run(x, turn(schedule, jnp.int32(0)))[1], x))


def _push(x: Array, step: int, schedule: Schedule) -> Array:
    """To the stage `step` places on, round the ring."""
    return jax.lax.ppermute(
        x, schedule.axis, [(stage, (stage + step) % schedule.stages) for stage in range(schedule.stages)]
    )


def _of_all_stages(x: Array, axis: str) -> Array:
    """[…] of one stage -> [stages, …]."""
    return _manually(lambda x: jax.lax.all_gather(x, axis), x, (None,))


def _manually(fn: Callable[[Array], Array], x: Array, front: tuple[None, ...]) -> Array:
    """A collective over stages on each device's own block; where stages alone are manual, the partitioner
    gathers over other axes first.
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
    parts = jax.lax.reshape(
        x, (x.shape[0] // groups, groups, *x.shape[1:]), out_sharding=PartitionSpec(rows, None, *rest)
    )
    return jnp.moveaxis(parts, 1, 0)


def _join(x: Array) -> Array:
    """The inverse of `_split`."""
    _, rows, *rest = jax.typeof(x).sharding.spec.partitions
    groups, B, *sizes = x.shape
    return jax.lax.reshape(
        jnp.moveaxis(x, 0, 1), (groups * B, *sizes), out_sharding=PartitionSpec(rows, *rest)
    )


def _front(x: Array, n: int, sizes: tuple[int, ...]) -> Array:
    """The first n dimensions, which lie whole, as `sizes`."""
    layout = PartitionSpec(*[None] * len(sizes), *jax.typeof(x).sharding.spec.partitions[n:])
    return jax.lax.reshape(x, (*sizes, *x.shape[n:]), out_sharding=layout)
