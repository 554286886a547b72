"""Every so many steps: do devices that must hold or compute the same bits do so?"""

import math
from collections.abc import Callable
from typing import Any

import jax

from model.adapt import Adaptation
from model.api import Model
from trainer.cluster.replicas import check, make_replay
from trainer.guard import Diverged
from trainer.objective import Objective
from trainer.state import TrainState
from trainer.step import split_rows


def make_inspection(
    model: Model,
    objective: Objective,
    adaptation: Adaptation,
    mesh: jax.sharding.Mesh,
    *,
    every: int,
    micro_batches: int,
    event: Callable[..., None],
) -> Callable[[int, TrainState, Any], None]:
    """`inspect(number, state, batch)` before step `number`: copies of the state are compared; where leaves
    have none, the gradient of a micro-batch is computed twice.

    The inspection raises Diverged when it has found something, and names the devices.
    """
    replay = make_replay(_sampled_gradient(model, objective, adaptation, micro_batches), mesh)

    def inspect(number: int, state: TrainState, batch: Any) -> None:
        if not every or number % every:
            return
        found = check(state, mesh)
        if any(_n_copies(x) == 1 for x in jax.tree.leaves(state.trainable)):
            found += replay(state, batch)
        if found:
            event("corruption", number, found=found)
            raise Diverged(f"silent data corruption before step {number}: {'; '.join(found)}")

    return inspect


def _n_copies(x: jax.Array) -> int:
    return x.sharding.num_devices * math.prod(x.sharding.shard_shape(x.shape)) // max(x.size, 1)


def _sampled_gradient(
    model: Model, objective: Objective, adaptation: Adaptation, micro_batches: int
) -> Callable[[TrainState, Any], Any]:
    """The gradient of a batch's first micro-batch."""

    def gradient(state: TrainState, batch: Any) -> Any:
        rows = jax.tree.map(lambda x: x[0], split_rows(batch, micro_batches))

        def loss_of(trainable: Any) -> Any:
            policies = {"policy": (model, adaptation.merge(trainable, state.frozen))}
            return objective.loss(policies, rows, objective.denominators(rows), state.key).total

        return jax.grad(loss_of)(state.trainable)

    return gradient
