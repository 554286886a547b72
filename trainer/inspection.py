"""The check for silent data corruption: do devices that must hold or compute the same bits do so?"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax

from model.api import Params
from trainer.cluster.replicas import check, make_replay
from trainer.ending import Diverged
from trainer.micro_batches import split_rows
from trainer.phase import Phase
from trainer.state import TrainState
from trainer.step import make_gradient


def make_inspection(phase: Phase) -> Callable[[int, TrainState, Any], None]:
    """Make `inspect(number, state, batch)`, to be called before step `number`; it acts every
    `health.sdc_every` steps.

    It compares the copies of every replicated leaf of the state; if some leaf has no copies, it computes the
    gradient of a micro-batch twice. A difference raises Diverged, which names the devices.
    """
    every = phase.run.health.sdc_every
    others = phase.load_others()
    replay = make_replay(_sampled_gradient(phase), phase.mesh)

    def inspect(number: int, state: TrainState, batch: Any) -> None:
        if not every or number % every:
            return
        faults = check(state, phase.mesh)
        # A leaf that is sharded over all devices has no copy to be compared with; there a bad
        # device shows when the same gradient is computed twice.
        if any(_n_copies(x) == 1 for x in jax.tree.leaves(state.trainable)):
            # `others` as an argument: arrays that a jitted function closes over become constants of its
            # program.
            faults += replay(state, (batch, others))
        if faults:
            phase.event("corruption", number, found=faults)
            raise Diverged(f"silent data corruption before step {number}: {'; '.join(faults)}")

    return inspect


def _n_copies(x: jax.Array) -> int:
    # Elements on all devices divided by elements of the array; max: an empty array must not divide by 0.
    return x.sharding.num_devices * math.prod(x.sharding.shard_shape(x.shape)) // max(x.size, 1)


def _sampled_gradient(phase: Phase) -> Callable[[TrainState, Any], Params]:
    """The gradient of a batch's first micro-batch, as training computes it."""
    objective = phase.run.objective
    gradient_of = make_gradient(phase.models, objective, phase.adaptation)

    def gradient(state: TrainState, batch_and_others: tuple[Any, Mapping[str, Params]]) -> Params:
        batch, others = batch_and_others
        # A single micro-batch: memory is sized for the activations of one.
        rows = jax.tree.map(lambda x: x[0], split_rows(batch, phase.run.micro_batches))
        return gradient_of(state, rows, objective.denominators(rows), state.key, others)[1]

    return gradient
