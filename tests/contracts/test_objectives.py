"""Laws that every objective keeps; a new one needs an example here."""

from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
from pydantic import TypeAdapter

from data_pipeline.batch import PreferenceBatch
from data_pipeline.component import components_in, one_of
from model.api import Model, Params
from tests.examples import (
    MESHES,
    ONE_DEVICE,
    SIZES,
    at_rest_on,
    batch_on,
    built,
    params_on,
    quick_jit,
    random_pairs,
    random_tokens,
    referenced_pairs,
    under,
)
from trainer.heads import with_heads
from trainer.objective import Loss, Objective
from trainer.objectives.distill import Distill
from trainer.objectives.dpo import DPO
from trainer.objectives.next_token import NextToken
from trainer.objectives.reward import Reward

TEACHER = SIZES.model_copy(update={"width": 24, "layers": 2, "heads": 2, "kv_heads": 2})
EXAMPLES = {
    "NextToken": (NextToken(), random_tokens(B=8, L=12)),
    "DPO": (DPO(beta=0.3), referenced_pairs(B=8, L=24, P=2)),
    "DPO-likelihood": (DPO(beta=0.3, sft_weight=0.7), referenced_pairs(B=8, L=24, P=2)),
    "Reward": (Reward(center_rewards_coefficient=0.1), random_pairs(B=8, L=24, P=2)),
    "Distill": (Distill(temperature=2.0, nll_weight=0.3), random_tokens(B=8, L=12)),
}
EVERY = pytest.mark.parametrize("name", EXAMPLES)


def models_of(name: str) -> dict[str, Model]:
    objective, _ = EXAMPLES[name]
    policy = with_heads(built(), objective.heads, width=SIZES.width, dtype="float32")
    return {
        "policy": policy,
        **{role: built(TEACHER) for role in objective.roles if role != "policy"},
    }


def params_of(name: str, mesh: jax.sharding.Mesh) -> dict[str, Params]:
    """Parameters of every role, and those of heads with the policy's."""
    objective, _ = EXAMPLES[name]
    rng = np.random.default_rng(3)
    heads = {head: rng.normal(size=SIZES.width).astype(np.float32) for head in objective.heads}
    found = {"policy": {**params_on(mesh), **at_rest_on(mesh, heads)}}
    return found | {role: params_on(mesh, TEACHER) for role in objective.roles if role != "policy"}


@cache
def compiled(name: str) -> Any:
    objective, _ = EXAMPLES[name]
    models = models_of(name)
    return quick_jit(
        lambda params, rows, whole: objective.loss(
            {role: (model, params[role]) for role, model in models.items()},
            rows,
            objective.denominators(whole),
            jax.random.key(0),
        )
    )


@cache
def loss_of(name: str, mesh: tuple = (), part: slice = slice(None)) -> Loss:
    """The loss of some rows of the example's batch, with the denominators of the whole."""
    whole = EXAMPLES[name][1]
    rows = type(whole)(*(x[part] for x in whole))
    on = under(dict(mesh))
    with jax.set_mesh(on):
        return jax.device_get(
            compiled(name)(params_of(name, on), batch_on(on, rows), batch_on(on, whole))
        )


def test_every_objective_has_an_example():
    examples = {type(objective).__name__ for objective, _ in EXAMPLES.values()}
    assert examples == set(components_in("trainer.objectives"))


@EVERY
def test_an_objective_is_a_value_that_survives_being_written_down(name):
    objective, _ = EXAMPLES[name]
    adapter = TypeAdapter(one_of("trainer.objectives"))
    assert adapter.validate_python(adapter.dump_python(objective, mode="json")) == objective
    assert isinstance(objective, Objective) and hash(objective) == hash(objective.model_copy())


@EVERY
def test_the_loss_is_a_finite_float32_and_metrics_are_sums_with_weights(name):
    loss = loss_of(name)
    assert loss.total.shape == () and loss.total.dtype == np.float32 and np.isfinite(loss.total)
    for total, weight in loss.metrics.values():
        assert np.shape(total) == np.shape(weight) == () and np.isfinite(total) and weight > 0


@EVERY
def test_losses_and_metrics_of_parts_of_a_batch_add_up_to_those_of_the_whole(name):
    whole, parts = loss_of(name), [loss_of(name, part=slice(i, None, 2)) for i in (0, 1)]
    assert parts[0].total != parts[1].total
    np.testing.assert_allclose(parts[0].total + parts[1].total, whole.total, rtol=1e-5)
    for metric, (total, weight) in whole.metrics.items():
        np.testing.assert_allclose(
            sum(part.metrics[metric][0] for part in parts),
            total,
            rtol=1e-4,
            atol=1e-5,
            err_msg=metric,
        )
        np.testing.assert_allclose(
            sum(part.metrics[metric][1] for part in parts), weight, err_msg=metric
        )


@EVERY
def test_a_mesh_gives_the_loss_and_metrics_of_one_device(name):
    expected, found = loss_of(name), loss_of(name, mesh=tuple(MESHES[-1].items()))
    np.testing.assert_allclose(found.total, expected.total, rtol=1e-6)
    assert found.metrics.keys() == expected.metrics.keys()
    for metric, pair in expected.metrics.items():
        np.testing.assert_allclose(
            found.metrics[metric], pair, rtol=1e-5, atol=1e-5, err_msg=metric
        )


@EVERY
def test_denominators_are_at_least_1_so_that_an_empty_batch_divides_by_no_zero(name):
    objective, batch = EXAMPLES[name]
    empty = jax.tree.map(np.zeros_like, batch)
    assert all(value == 1 for value in objective.denominators(empty).values())
    assert all(value > 1 for value in objective.denominators(batch).values())


@EVERY
def test_columns_are_the_last_fields_of_the_batch_and_come_from_the_others(name):
    objective, batch = EXAMPLES[name]
    assert type(batch) is objective.batch_type and "policy" in objective.roles
    if objective.columns is None:
        return
    with jax.set_mesh(under(ONE_DEVICE)):
        n_given = len(PreferenceBatch._fields)
        given = batch_on(under(ONE_DEVICE), PreferenceBatch(*batch[:n_given]))
        found = jax.eval_shape(
            lambda params: objective.columns({"policy": (built(), params)}, given),
            params_on(under(ONE_DEVICE)),
        )
    assert list(found) == list(batch._fields[n_given:])
    assert [x.shape for x in found.values()] == [x.shape for x in batch[n_given:]]


@EVERY
def test_a_model_has_the_heads_that_its_objective_names(name):
    objective, _ = EXAMPLES[name]
    with jax.set_mesh(under(MESHES[1])):
        params = jax.eval_shape(models_of(name)["policy"].init, jax.random.key(0))
    assert set(params) - set(params_on(under(ONE_DEVICE))) == set(objective.heads)
    for head in objective.heads:
        assert params[head].sharding.spec.partitions == ("fsdp",) and params[head].shape == (
            SIZES.width,
        )
