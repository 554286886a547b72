"""Laws that every objective keeps; a new one needs an example here."""

from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
from pydantic import TypeAdapter

from data_pipeline.component import components_in, one_of
from model.sharding import letters_of
from tests.examples import (
    MESHES,
    ONE_DEVICE,
    batch_on,
    built,
    params_on,
    quick_jit,
    random_pairs,
    random_tokens,
    under,
)
from trainer.objective import Loss, Objective
from trainer.objectives.dpo import DPO
from trainer.objectives.next_token import NextToken

EXAMPLES = {
    "NextToken": (NextToken(), random_tokens(B=8, L=12)),
    "DPO": (DPO(beta=0.3), random_pairs(B=8, L=24, P=2)),
}
EVERY = pytest.mark.parametrize("name", EXAMPLES)


@cache
def compiled(name: str) -> Any:
    objective, _ = EXAMPLES[name]
    return quick_jit(
        lambda params, rows, whole: objective.loss(
            {"policy": (built(), params)}, rows, objective.denominators(whole), jax.random.key(0)
        )
    )


@cache
def loss_of(name: str, mesh: tuple = (), part: slice = slice(None)) -> Loss:
    """The loss of some rows of the example's batch, with the denominators of the whole."""
    whole = EXAMPLES[name][1]
    rows = type(whole)(*(x[part] for x in whole))
    with jax.set_mesh(under(dict(mesh))):
        return jax.device_get(
            compiled(name)(
                params_on(under(dict(mesh))), *(batch_on(under(dict(mesh)), b) for b in (rows, whole))
            )
        )


def test_every_objective_has_an_example():
    assert set(EXAMPLES) == set(components_in("trainer.objectives"))


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
            sum(part.metrics[metric][0] for part in parts), total, rtol=1e-4, atol=1e-5, err_msg=metric
        )
        np.testing.assert_allclose(sum(part.metrics[metric][1] for part in parts), weight, err_msg=metric)


@EVERY
def test_a_mesh_gives_the_loss_and_metrics_of_one_device(name):
    expected, found = loss_of(name), loss_of(name, mesh=tuple(MESHES[-1].items()))
    np.testing.assert_allclose(found.total, expected.total, rtol=1e-6)
    assert found.metrics.keys() == expected.metrics.keys()
    for metric, pair in expected.metrics.items():
        np.testing.assert_allclose(found.metrics[metric], pair, rtol=1e-5, atol=1e-5, err_msg=metric)


@EVERY
def test_denominators_are_at_least_1_so_that_an_empty_batch_divides_by_no_zero(name):
    objective, batch = EXAMPLES[name]
    empty = jax.tree.map(np.zeros_like, batch)
    assert all(value == 1 for value in objective.denominators(empty).values())
    assert all(value > 1 for value in objective.denominators(batch).values())


@EVERY
def test_reference_columns_are_fields_of_the_batch(name):
    objective, batch = EXAMPLES[name]
    assert type(batch) is objective.batch_type
    for column in objective.reference_columns:
        letters = letters_of(column)
        assert column.removesuffix(letters) + "B" + letters in batch._fields
    if objective.reference_columns:
        with jax.set_mesh(under(ONE_DEVICE)):
            on_device = batch_on(under(ONE_DEVICE), batch)
            found = jax.eval_shape(
                lambda params: objective.reference({"policy": (built(), params)}, on_device),
                params_on(under(ONE_DEVICE)),
            )
        expected = [
            getattr(batch, column.removesuffix("P") + "BP").shape for column in objective.reference_columns
        ]
        assert [column.shape for column in found] == expected
