"""Laws of layers on stages: a checkpoint of any schedule goes on under any other, and every schedule is the
same model.
"""

from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from model.adapt import Full, LoRA
from model.execution import Execution, Pipeline, Precision
from model.layers.pipeline import stage_order
from model.stages import in_memory_order, in_model_order
from tests.examples import SIZES, batch_on, quick_jit, random_tokens, under
from trainer.checkpoints.checkpointer import Checkpointer, Checkpoints
from trainer.checkpoints.load import placed
from trainer.objectives.next_token import NextToken
from trainer.offload import at_rest
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.schedules import WarmupCosine
from trainer.state import TrainState, new_state
from trainer.step import make_step

TX = Optimizer(
    rule=AdamW(),
    peak_lr=1e-2,
    schedule=WarmupCosine(warmup_steps=0, end_frac=0.1),
    weight_decay=0.1,
).chain(10)
DEEP = SIZES.model_copy(update={"layers": 4})
ROUND = {"stage": 2, "fsdp": 2, "tensor": 2}, 2  # a mesh and how often its stages are passed
SCHEDULES = [ROUND, ({"stage": 2, "data": 4}, 1), ({"stage": 4, "fsdp": 2}, 1), ({"fsdp": 8}, 1)]


def model_of(rounds: int) -> Any:
    return DEEP.build(Precision(compute="float32"), Execution(pipeline=Pipeline(rounds=rounds)))


def born(rounds: int) -> Any:
    return partial(new_state, model_of(rounds), Full(), TX)


@cache
def step_of(rounds: int) -> Any:
    """Compiled once for each mesh that it is called under."""
    return quick_jit(
        make_step({"policy": model_of(rounds)}, NextToken(), Full(), TX, micro_batches=1)
    )


def stepped(state: TrainState, mesh: Any, rounds: int) -> tuple[TrainState, float]:
    state, metrics = step_of(rounds)(state, batch_on(mesh, random_tokens(B=8, L=8)))
    return state, float(metrics["loss/train"][0])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A checkpoint of ROUND after one step, and the loss of its next one."""
    (sizes, rounds), folder = ROUND, tmp_path_factory.mktemp("saved")
    with jax.set_mesh(under(sizes)):
        state, _ = stepped(quick_jit(born(rounds))(jax.random.key(0)), under(sizes), rounds)
        checkpointer = Checkpointer(folder, Checkpoints(every_steps=1), rounds=rounds)
        checkpointer.save(state, {"rows": 8}, {})
        checkpointer.close()
        _, loss = stepped(state, under(sizes), rounds)
    return folder, loss


def test_layers_are_born_the_same_and_lie_in_the_order_of_their_stages():
    weights = {}
    for name, (sizes, rounds) in {"staged": ROUND, "plain": SCHEDULES[-1]}.items():
        with jax.set_mesh(under(sizes)):
            weights[name] = jax.device_get(
                quick_jit(model_of(rounds).init)(jax.random.key(0))["blocks"]["attention"][
                    "wq_NDHA"
                ]
            )
    order_N = stage_order(4, stages=2, rounds=2)
    assert order_N.tolist() == [0, 2, 1, 3]
    np.testing.assert_array_equal(weights["staged"], weights["plain"][order_N])


def test_an_adapter_is_born_the_same_on_every_mesh_and_schedule():
    factors = {}
    for name, (sizes, rounds) in {"staged": ROUND, "plain": SCHEDULES[-1]}.items():
        make = partial(
            new_state, model_of(rounds), LoRA(rank=3, alpha=6.0, targets=("wq",)), TX, rounds=rounds
        )
        with jax.set_mesh(under(sizes)):
            state = quick_jit(make)(jax.random.key(0))
            trainable = in_model_order(state.trainable, rounds=rounds)
            factors[name] = jax.device_get(trainable["blocks"]["attention"]["wq_NDHA"]["a_NDR"])
    np.testing.assert_array_equal(factors["staged"], factors["plain"])


@pytest.mark.parametrize("to", SCHEDULES, ids=str)
def test_a_checkpoint_of_one_schedule_goes_on_under_any_other(to, saved):
    (folder, expected), (other_sizes, other_rounds) = saved, to
    with jax.set_mesh(under(other_sizes)):
        reader = Checkpointer(folder, Checkpoints(every_steps=1), rounds=other_rounds)
        found = reader.restore(1, placed(jax.eval_shape(born(other_rounds), jax.random.key(0))))
        _, loss = stepped(found, under(other_sizes), other_rounds)
        reader.close()
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_layers_that_rest_in_host_memory_are_put_in_order_there():
    sizes, rounds = ROUND
    with jax.set_mesh(under(sizes)):
        state = quick_jit(born(rounds))(jax.random.key(0))
        away = quick_jit(lambda state: at_rest(state, ("params",)))(state)
        found = in_model_order(away, rounds=rounds)
        pairs = (
            (found, in_model_order(state, rounds=rounds)),
            (in_memory_order(found, rounds=rounds), state),
        )
    for given, expected in pairs:
        for x, y in zip(
            jax.tree.leaves(given.trainable), jax.tree.leaves(expected.trainable), strict=True
        ):
            assert x.sharding.memory_kind == "pinned_host" and x.sharding.spec == y.sharding.spec
            np.testing.assert_array_equal(x, y)


def test_layers_that_do_not_divide_are_refused_before_anything_is_made():
    wrong = SIZES.model_copy(update={"layers": 6}).build(
        Precision(), Execution(pipeline=Pipeline(rounds=2))
    )
    with (
        jax.set_mesh(under(ROUND[0])),
        pytest.raises(ValueError, match="architecture.layers=6 .* mesh.stage=2 .*rounds=2"),
    ):
        jax.eval_shape(wrong.init, jax.random.key(0))
