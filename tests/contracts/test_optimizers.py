"""Laws that every optimizer keeps; a new one needs an example here."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pydantic import TypeAdapter, ValidationError

from data_pipeline.component import components_in, one_of
from model.sharding import letters_of, named
from tests.examples import MESHES, at_rest_on, quick_jit, under
from trainer.optimizers.adamw import AdamW, is_matrix
from trainer.schedules import WarmupCosine

SCHEDULE = WarmupCosine(warmup_steps=4, end_frac=0.1)
EXAMPLES = {"AdamW": AdamW(peak_lr=0.1, schedule=SCHEDULE, weight_decay=0.5)}
SCHEDULES = {"WarmupCosine": SCHEDULE}
EVERY = pytest.mark.parametrize("name", EXAMPLES)
STEPS = 40
RNG = np.random.default_rng(0)
PARAMS = {
    "w_DF": RNG.normal(size=(16, 6)).astype(np.float32),
    "norm": {"scale_D": RNG.normal(size=16).astype(np.float32)},
    "blocks": {"scale_ND": RNG.normal(size=(3, 16)).astype(np.float32), "wq_NDHA": RNG.normal(size=(3, 16, 2, 4)).astype(np.float32)},
}
GRADIENT = jax.tree.map(lambda x: RNG.normal(size=x.shape).astype(np.float32), PARAMS)


def run(tx: optax.GradientTransformation, gradients: list, params=PARAMS):
    state = tx.init(params)
    for gradient in gradients:
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_every_optimizer_and_schedule_has_an_example():
    assert set(EXAMPLES) == set(components_in("trainer.optimizers")) and set(SCHEDULES) == set(components_in("trainer.schedules"))


@EVERY
def test_an_optimizer_is_a_value_that_survives_being_written_down(name):
    adapter = TypeAdapter(one_of("trainer.optimizers"))
    assert adapter.validate_python(adapter.dump_python(EXAMPLES[name], mode="json")) == EXAMPLES[name]
    assert hash(EXAMPLES[name]) == hash(EXAMPLES[name].model_copy())


@EVERY
def test_a_warmup_longer_than_the_phase_is_told_with_both_numbers(name):
    assert EXAMPLES[name].problems(4) == []
    assert EXAMPLES[name].problems(3) == ["optimizer.schedule.warmup_steps=4 exceeds steps=3; lower it or raise steps"]


@EVERY
def test_updates_keep_structure_shapes_and_dtypes(name):
    updated, _ = run(EXAMPLES[name].chain(STEPS), [GRADIENT] * 2)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), updated) == jax.tree.map(lambda x: (x.shape, x.dtype), PARAMS)
    assert all(np.abs(x - y).max() > 0 for x, y in zip(jax.tree.leaves(updated), jax.tree.leaves(PARAMS), strict=True))


@EVERY
def test_it_goes_downhill(name):
    tx = EXAMPLES[name].model_copy(update={"weight_decay": 0.0}).chain(STEPS)
    params, state, values = PARAMS, tx.init(PARAMS), []
    for _ in range(STEPS):
        value, gradient = jax.value_and_grad(lambda p: sum(jnp.sum(x**2) for x in jax.tree.leaves(p)))(params)
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        values.append(float(value))
    assert values[-1] < 0.2 * values[0]


@EVERY
def test_weight_decay_spares_vectors_and_stacks_of_vectors(name):
    zero = jax.tree.map(np.zeros_like, PARAMS)
    updated, _ = run(EXAMPLES[name].chain(STEPS), [zero] * 6)
    assert jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), updated, PARAMS) == {
        "w_DF": False,
        "norm": {"scale_D": True},
        "blocks": {"scale_ND": True, "wq_NDHA": False},
    }
    assert np.abs(updated["w_DF"]).sum() < np.abs(PARAMS["w_DF"]).sum()


@EVERY
def test_one_huge_gradient_does_no_more_than_its_direction(name):
    tx = EXAMPLES[name].chain(STEPS)
    huge, larger = ([jax.tree.map(lambda g: g * np.float32(scale), GRADIENT)] * 2 for scale in (1e6, 1e12))  # noqa: B023
    for x, y in zip(jax.tree.leaves(run(tx, huge)[0]), jax.tree.leaves(run(tx, larger)[0]), strict=True):
        assert np.isfinite(x).all()
        np.testing.assert_allclose(x, y, rtol=1e-4)


@EVERY
@pytest.mark.parametrize("sizes", MESHES[1:], ids=str)
def test_moments_lie_at_rest_and_updates_are_those_of_one_device(name, sizes):
    mesh, tx = under(sizes), EXAMPLES[name].chain(STEPS)
    expected, _ = run(tx, [GRADIENT] * 2)
    with jax.set_mesh(mesh):
        updated, state = quick_jit(lambda p, g: run(tx, [g] * 2, p))(at_rest_on(mesh, PARAMS), at_rest_on(mesh, GRADIENT))
    for path, x in jax.tree.leaves_with_path((updated, state)):
        layout = named(mesh, letters_of(getattr(path[-1], "key", "")), at_rest=True)
        assert x.sharding.is_equivalent_to(layout, x.ndim), path
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), updated, expected)


@EVERY
@pytest.mark.parametrize("steps", [4, 5, STEPS])
def test_the_learning_rate_rises_to_its_peak_and_falls_to_its_end(name, steps):
    rate = EXAMPLES[name].learning_rate(steps)
    values = [float(rate(i)) for i in range(steps + 1)]
    assert values[:5] == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])
    assert all(x >= y for x, y in zip(values[4:], values[5:], strict=False)) and min(values[4:]) >= 0.01 - 1e-9
    if steps > 4:
        assert values[steps] == pytest.approx(0.01)


def test_without_warmup_the_first_step_has_the_peak_rate():
    rate = WarmupCosine(warmup_steps=0, end_frac=0.0).of(0.3, 10)
    assert [float(rate(i)) for i in (0, 5, 10, 99)] == pytest.approx([0.3, 0.15, 0.0, 0.0])


def test_adamw_is_its_equations():
    """Loshchilov and Hutter 2019, algorithm 2, after clipping by the global norm."""
    optimizer = AdamW(
        peak_lr=0.1, schedule=WarmupCosine(warmup_steps=0, end_frac=1.0), weight_decay=0.5, b1=0.8, b2=0.9, eps=1e-6, clip_norm=2.0
    )
    gradients = [jax.tree.map(lambda x: RNG.normal(size=x.shape).astype(np.float32) * scale, PARAMS) for scale in (0.01, 1.0, 3.0)]  # noqa: B023
    updated, _ = run(optimizer.chain(STEPS), gradients)
    decayed = jax.tree.leaves(is_matrix(PARAMS))
    m, v = ([np.zeros(x.shape) for x in jax.tree.leaves(PARAMS)] for _ in "mv")
    expected = [x.astype(np.float64) for x in jax.tree.leaves(PARAMS)]
    for t, gradient in enumerate(map(jax.tree.leaves, gradients), 1):
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradient))
        for i, g in enumerate(gradient):
            g = g * min(1, 2.0 / norm)
            m[i], v[i] = 0.8 * m[i] + 0.2 * g, 0.9 * v[i] + 0.1 * g**2
            direction = m[i] / (1 - 0.8**t) / (np.sqrt(v[i] / (1 - 0.9**t)) + 1e-6)
            expected[i] = expected[i] - 0.1 * (direction + 0.5 * decayed[i] * expected[i])
    for x, y in zip(jax.tree.leaves(updated), expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "change", [{"peak_lr": 0.0}, {"weight_decay": -1.0}, {"b1": 1.0}, {"clip_norm": 0.0}, {"schedule": {"type": "Step"}}]
)
def test_values_without_meaning_are_refused(change):
    with pytest.raises(ValidationError, match=next(iter(change))):
        AdamW(**{**EXAMPLES["AdamW"].model_dump(), "schedule": SCHEDULE, **change})
