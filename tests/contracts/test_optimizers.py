"""Laws that an optimizer keeps with every rule; a new one needs an example in tests/trainer/optimizer_examples.py."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from data_pipeline.component import components_in
from launch.job.yaml import parse_yaml, to_yaml
from model.sharding import letters_of, named
from tests.examples import under
from tests.trainer.optimizer_examples import (
    CONSTANT,
    EXAMPLES,
    GRADIENT,
    PARAMS,
    SCHEDULE,
    STEPS,
    run,
)
from trainer.optimizer import Optimizer

EVERY = pytest.mark.parametrize("name", EXAMPLES)
TOLERANCE = {
    "SOAP": 1e-4
}  # of what a mesh adds up in another order; SOAP rotates it there and back
# bytes of state, beside a few counts: of 4 for each of the parameters, and of what else is named
N = {
    name: x.size
    for name, x in [
        ("tables", PARAMS["embed_VD"]),
        ("w", PARAMS["w_DF"]),
        ("scale", PARAMS["norm"]["scale_D"]),
    ]
}
N |= {name: x.size for name, x in PARAMS["blocks"].items()}
ALL = sum(N.values())
HIDDEN = N["w"] + N["wq_NDHA"] + N["wo_NHAD"]
FACTORS = (24 + 16) + (16 + 256) + 16 + 3 * (16 + 8 + 16 + 8 + 8 + 16)
STATE_BYTES = {
    "AdamW": 8 * ALL,
    "AdamW8bit": 8 * (ALL - N["w"]) + 2 * N["w"] + 8 * N["w"] // 32,
    "Lion": 4 * ALL,
    "Adafactor": 4 * ALL + 4 * FACTORS,
    "Muon": 8 * (ALL - HIDDEN) + 4 * HIDDEN,
    "SOAP": 8 * ALL + 8 * (16**2 + 2 * 3 * (16**2 + 8**2)),
}


def test_every_rule_has_an_example():
    assert set(EXAMPLES) == set(components_in("trainer.optimizers"))


@EVERY
def test_an_optimizer_is_a_value_that_survives_being_written_down(name):
    adapter = TypeAdapter(Optimizer)
    optimizer = EXAMPLES[name].model_copy(
        update={"no_decay": ("embed",), "ema_decay": 0.5, "clip_norm": None}
    )
    again = adapter.validate_json(
        json.dumps(parse_yaml(to_yaml(adapter.dump_python(optimizer, mode="json")), "test"))
    )
    assert again == optimizer and hash(again) == hash(optimizer)


@EVERY
def test_a_warmup_longer_than_the_phase_is_told_with_both_numbers(name):
    assert EXAMPLES[name].problems(4) == []
    assert EXAMPLES[name].problems(3) == [
        "optimizer.schedule.warmup_steps=4 exceeds steps=3; lower it or raise steps"
    ]


@EVERY
def test_updates_scale_with_the_width_only_under_rules_that_it_is_defined_for(name):
    problems = EXAMPLES[name].model_copy(update={"mup_base_width": 8}).problems(4)
    if EXAMPLES[name].rule.supports_mup:
        assert problems == []
    else:
        assert problems == [
            f"optimizer.mup_base_width=8 is not defined for rule {name}, whose updates do not scale with the "
            "width as Adam's do; remove it or choose AdamW, AdamW8bit or Lion"
        ]


@EVERY
def test_updates_keep_structure_shapes_and_dtypes(name):
    updated, _ = run(EXAMPLES[name], [GRADIENT] * 2)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), updated) == jax.tree.map(
        lambda x: (x.shape, x.dtype), PARAMS
    )
    assert all(
        np.abs(x - y).max() > 0
        for x, y in zip(jax.tree.leaves(updated), jax.tree.leaves(PARAMS), strict=True)
    )


@EVERY
def test_it_goes_downhill(name):
    """Decay alone would leave 0.8 of it."""
    params, state = PARAMS, None
    for _ in range(STEPS):
        params, state = run(EXAMPLES[name], [params], params=params, state=state)
    assert size_of(params) < 0.2 * size_of(PARAMS)


def size_of(params) -> float:
    return float(sum(jnp.sum(x**2) for x in jax.tree.leaves(params)))


@EVERY
def test_without_gradient_nothing_moves_but_matrices_that_decay(name):
    optimizer, zero = EXAMPLES[name], jax.tree.map(np.zeros_like, PARAMS)
    updated, state = run(optimizer, [zero] * 3)
    rates = [float(optimizer.learning_rate(STEPS)(i)) for i in range(3)]
    left = np.prod([1 - rate * optimizer.weight_decay for rate in rates])
    decays = {"embed_VD": True, "w_DF": True, "norm": {"scale_D": False}}
    decays["blocks"] = {
        "scale_ND": False,
        "bq_NHA": False,
        "wq_NDHA": True,
        "wo_NHAD": False,
    }  # the last by its name
    expected = jax.tree.map(lambda x, decayed: x * left if decayed else x, PARAMS, decays)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), updated, expected)
    assert updated["blocks"]["wo_NHAD"].tolist() == PARAMS["blocks"]["wo_NHAD"].tolist()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@EVERY
def test_one_huge_gradient_does_no_more_than_its_direction(name):
    huge = [jax.tree.map(lambda g: g * np.float32(1e6), GRADIENT)] * 2
    larger = [jax.tree.map(lambda g: g * np.float32(1e12), GRADIENT)] * 2
    for x, y in zip(
        jax.tree.leaves(run(EXAMPLES[name], huge)[0]),
        jax.tree.leaves(run(EXAMPLES[name], larger)[0]),
        strict=True,
    ):
        assert np.isfinite(x).all()
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


@EVERY
@pytest.mark.parametrize("sizes", [{"fsdp": 8}, {"fsdp": 4, "tensor": 2}], ids=str)
def test_states_lie_at_rest_and_updates_are_those_of_one_device(name, sizes):
    mesh, expected = under(sizes), run(EXAMPLES[name], [GRADIENT] * 2)[0]
    updated, state = run(EXAMPLES[name], [GRADIENT] * 2, sizes=sizes)
    for path, x in jax.tree.leaves_with_path((updated, state)):
        letters = letters_of(str(getattr(path[-1], "key", "")))
        assert len(letters) == x.ndim, path
        assert x.sharding.is_equivalent_to(named(mesh, letters, x.shape, at_rest=True), x.ndim), (
            path
        )
    tolerance = TOLERANCE.get(name, 1e-5)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance / 10),
        updated,
        expected,
    )


@EVERY
def test_the_same_steps_give_the_same_bits(name):
    once, again = (run(EXAMPLES[name], [GRADIENT, PARAMS, GRADIENT]) for _ in range(2))
    assert all(
        np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(once), jax.tree.leaves(again), strict=True)
    )


@EVERY
def test_a_state_weighs_what_its_docstring_says(name):
    _, state = run(EXAMPLES[name], [])
    assert sum(x.nbytes for x in jax.tree.leaves(state) if x.ndim) == STATE_BYTES[name]


@EVERY
def test_the_learning_rate_is_the_schedules(name):
    wanted, rate = SCHEDULE.of(0.1, STEPS), EXAMPLES[name].learning_rate(STEPS)
    assert [float(rate(i)) for i in (0, 4, 20, STEPS)] == [
        float(wanted(i)) for i in (0, 4, 20, STEPS)
    ]


@EVERY
@pytest.mark.parametrize(
    "change",
    [
        {"peak_lr": 0.0},
        {"weight_decay": -1.0},
        {"clip_norm": 0.0},
        {"clip_each": 0.0},
        {"ema_decay": 1.0},
        {"no_decay": ("(",)},
        {"schedule": {"type": "Step"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_values_without_meaning_are_refused(name, change):
    with pytest.raises(ValidationError, match=next(iter(change))):
        Optimizer(
            **{
                "rule": EXAMPLES[name].rule,
                "peak_lr": 0.1,
                "schedule": CONSTANT,
                "weight_decay": 0.1,
                **change,
            }
        )
