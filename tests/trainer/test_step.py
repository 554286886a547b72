"""Laws of the one training step: micro-batches change nothing, moments lie at rest, and every draw has its
own key.
"""

from functools import cache
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec
from pydantic import BaseModel

from data_pipeline.batch import TokenBatch
from model.adapt import Full
from model.api import Model, key_of
from model.mesh import make_mesh
from model.sharding import letters_of, named, spec
from tests.examples import (
    MESHES,
    ONE_DEVICE,
    at_rest_on,
    batch_on,
    built,
    host_params,
    quick_jit,
    random_tokens,
    under,
)
from trainer.micro_batches import split_rows, zeros_of
from trainer.objective import Loss
from trainer.objectives.next_token import NextToken
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


def born(mesh: jax.sharding.Mesh) -> TrainState:
    return new_state(built(), Full(), TX, jax.random.key(0), at_rest_on(mesh, host_params()))


@cache
def stepped(micro_batches: int) -> tuple[TrainState, dict[str, Any]]:
    """One step on two devices."""
    mesh = make_mesh(jax.devices()[:2], fsdp=2)
    with jax.set_mesh(mesh):
        step = quick_jit(
            make_step({"policy": built()}, NextToken(), Full(), TX, micro_batches=micro_batches)
        )
        return jax.device_get(step(born(mesh), batch_on(mesh, random_tokens(B=8, L=10))))


@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_change_neither_loss_nor_gradient_norm_nor_update(micro_batches):
    (state, metrics), (expected, expected_metrics) = stepped(micro_batches), stepped(1)
    assert metrics.keys() == expected_metrics.keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(value, expected_metrics[name], rtol=2e-6, err_msg=name)
    before = host_params()
    for (path, x), y, x0 in zip(
        jax.tree.leaves_with_path(state.trainable),
        *map(jax.tree.leaves, (expected.trainable, before)),
        strict=True,
    ):
        assert np.abs(y - x0).max() > 1e-3, path
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5, err_msg=str(path))


def test_the_rows_of_the_micro_batches_have_different_numbers_of_targets():
    n_B = random_tokens(B=8, L=10).weight_BL.sum(-1)
    assert len({n_B[i::4].sum() for i in range(4)}) > 1  # else a mean of means would pass


def test_a_step_counts_and_keeps_the_key_and_applies_the_optimizer_to_the_gradient():
    state, metrics = stepped(1)
    assert state.step == 1 and state.frozen == {} and state.key == jax.random.key(0)
    counts = [
        x for path, x in jax.tree.leaves_with_path(state.opt_state) if "count" in str(path[-1])
    ]
    assert counts and all(count == 1 for count in counts)
    guards = {"guard/skipped", "guard/spikes", "guard/streak"}
    assert set(metrics) == {"nll", "accuracy", "loss/train", "optimizer/grad_norm"} | guards
    assert [metrics[name][0] for name in sorted(guards)] == [0, 0, 0]
    np.testing.assert_allclose(
        metrics["loss/train"][0], metrics["nll"][0] / metrics["nll"][1], rtol=1e-6
    )
    assert metrics["loss/train"][1] == metrics["optimizer/grad_norm"][1] == 1


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_parameters_and_moments_enter_and_leave_a_step_at_rest(sizes):
    mesh = under(sizes)
    batch = batch_on(mesh, random_tokens(B=16, L=10))
    with jax.set_mesh(mesh):
        before = jax.eval_shape(lambda key: new_state(built(), Full(), TX, key), jax.random.key(0))
        after, metrics = jax.eval_shape(
            make_step({"policy": built()}, NextToken(), Full(), TX, micro_batches=2), before, batch
        )
    for state in (before, after):
        for path, leaf in jax.tree.leaves_with_path((state.trainable, state.opt_state)):
            letters = letters_of(getattr(path[-1], "key", ""))
            layout = (
                leaf.sharding.spec if leaf.sharding else PartitionSpec()
            )  # scalars that depend on nothing have none while tracing
            n, wanted = len(letters), named(mesh, letters, at_rest=True).spec.partitions
            assert layout.partitions[:n] == wanted and not any(layout.partitions[n:]), (path, leaf)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(
        lambda x: (x.shape, x.dtype), after
    )
    assert all(
        value.shape == () for pair in metrics.values() for value in pair if hasattr(value, "shape")
    )


def test_a_part_of_a_batch_is_every_nth_row_and_stays_on_its_devices():
    mesh = under({"data": 2, "fsdp": 2, "tensor": 2})
    batch = random_tokens(B=8, L=10)
    with jax.set_mesh(mesh):
        parts = quick_jit(split_rows, static_argnums=1)(batch_on(mesh, batch), 2)
        wanted = spec("B").partitions
    for name, x in zip(batch._fields, parts, strict=True):
        assert x.sharding.spec.partitions[:2] == (None, *wanted), name
        for i in range(2):
            np.testing.assert_array_equal(x[i], getattr(batch, name)[i::2])
    homes = {
        shard.device: shard.data for shard in batch_on(mesh, batch).tokens_BL.addressable_shards
    }
    for shard in parts.tokens_BL.addressable_shards:
        assert {tuple(row) for part in np.array(shard.data) for row in part} == {
            tuple(row) for row in np.array(homes[shard.device])
        }


def test_zeros_of_shapes_have_their_layouts():
    with jax.set_mesh(under({"fsdp": 4, "tensor": 2})):
        shapes = jax.eval_shape(
            lambda: {"w_DF": jnp.ones((8, 6), jnp.bfloat16, out_sharding=spec("DF", at_rest=True))}
        )
        zeros = quick_jit(lambda: zeros_of(shapes))()
    assert (
        zeros["w_DF"].sharding.spec.partitions == ("fsdp", "tensor")
        and zeros["w_DF"].dtype == jnp.bfloat16
        and not zeros["w_DF"].any()
    )


class Draw(BaseModel, frozen=True, extra="forbid", strict=True):
    """An objective that is one random number a micro-batch, and reports it; aux says how many rows there
    were.
    """

    batch_type: ClassVar[type] = TokenBatch
    roles: ClassVar[tuple[str, ...]] = ("policy",)
    heads: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[None] = None

    def denominators(self, batch: Any) -> dict[str, Any]:
        return {"rows": float(batch.tokens_BL.shape[0])}

    def loss(self, models: Any, batch: Any, denominators: Any, key: Any) -> Loss:
        _, params = models["policy"]
        rows = batch.tokens_BL.shape[0]
        draw, first = jax.random.uniform(key), batch.tokens_BL[0, 0]
        metrics = {
            "draw": (draw, 1.0),
            "square": (draw**2, 1.0),
            "first": (first, 1.0),
            "whole": (denominators["rows"], 1.0),
        }
        return Loss(
            params["x_D"].sum() * rows / denominators["rows"], metrics, {"rows": jnp.array(rows)}
        )


def drawing_steps(n: int, *, micro_batches: int, seed: int = 0) -> list[dict[str, float]]:
    def after_step(params, aux):
        return {"x_D": params["x_D"], "rows_D": params["rows_D"] + aux["rows"]}

    model = Model(
        init=None,
        apply=None,
        unembed=None,
        decode=None,
        empty_cache=None,
        vocab_size=1,
        after_step=after_step,
    )
    with jax.set_mesh(under(ONE_DEVICE)):
        state = new_state(
            model,
            Full(),
            optax.sgd(0.5),
            jax.random.key(seed),
            {"x_D": jnp.zeros(3), "rows_D": jnp.zeros(3)},
        )
        step, found = (
            make_step(
                {"policy": model}, Draw(), Full(), optax.sgd(0.5), micro_batches=micro_batches
            ),
            [],
        )
        for i in range(n):
            state, metrics = step(state, batch_on(under(ONE_DEVICE), random_tokens(B=4, seed=i)))
            found.append(
                {name: float(total) for name, (total, _) in metrics.items()}
                | {"x": state.trainable["x_D"].tolist()}
            )
            found[-1]["rows"] = state.trainable["rows_D"].tolist()
    return found


def test_every_step_and_every_micro_batch_has_its_own_key_and_the_seed_gives_them_again():
    found = drawing_steps(3, micro_batches=2)
    assert len({step["draw"] for step in found}) == 3
    assert all(
        abs(2 * step["square"] - step["draw"] ** 2) > 1e-6 for step in found
    )  # equal would mean equal draws
    assert drawing_steps(3, micro_batches=2) == found
    assert drawing_steps(1, micro_batches=2, seed=1)[0]["draw"] != found[0]["draw"]


def test_contributions_of_micro_batches_add_and_auxiliary_sums_reach_what_changes_after_the_step():
    for micro_batches in (1, 4):
        found = drawing_steps(2, micro_batches=micro_batches)
        assert [step["x"] for step in found] == [[-0.5] * 3, [-1.0] * 3]
        assert [step["rows"] for step in found] == [[4.0] * 3, [8.0] * 3]
        assert [step["whole"] for step in found] == [
            4.0 * micro_batches
        ] * 2  # the whole batch's, in every micro-batch


def test_a_state_from_other_parameters_keeps_them_and_one_from_scratch_draws_its_own():
    params = {"x_D": jnp.arange(3.0)}
    unused = dict.fromkeys(("apply", "unembed", "decode", "empty_cache"))
    model = Model(init=lambda key: {"x_D": jax.random.normal(key, (3,))}, vocab_size=1, **unused)
    given, scratch, again = (
        new_state(model, Full(), optax.adam(1.0), jax.random.key(1), p)
        for p in (params, None, None)
    )
    assert given.trainable["x_D"].tolist() == [0, 1, 2] and given.step == 0
    assert (
        scratch.trainable["x_D"].tolist()
        == again.trainable["x_D"].tolist()
        == model.init(key_of(jax.random.key(1), "init"))["x_D"].tolist()
    )
