"""Laws of distillation: values of the closed form, gradients of the plain computation, and a student that
comes near its teacher.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from model.adapt import Full
from tests.examples import (
    MESHES,
    ONE_DEVICE,
    SIZES,
    batch_on,
    built,
    params_on,
    quick_jit,
    random_tokens,
    under,
)
from trainer.objectives.distill import Distill
from trainer.state import new_state
from trainer.step import make_step
from trainer.token_logp import CHUNK, Readout, distilled

TEACHER = SIZES.model_copy(update={"width": 24, "layers": 2, "heads": 2, "kv_heads": 2})
VOCAB, PADDED = 11, 128


def drawn(B: int, L: int, seed: int = 0):
    """Hidden states and output matrices of a student and of a wider teacher, and targets."""
    rng = np.random.default_rng(seed)
    student = rng.normal(size=(B, L, 6)), rng.normal(size=(6, PADDED))
    teacher = rng.normal(size=(B, L, 10)), rng.normal(size=(10, PADDED))
    arrays = [jnp.asarray(x, jnp.float32) for x in (*student, *teacher)]
    return *arrays, jnp.asarray(rng.integers(0, VOCAB, (B, L)), jnp.int32)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize(("B", "L"), [(2, 5), (1, CHUNK + 32)])
def test_the_divergence_is_that_of_the_softened_distributions(B, L):
    args, temperature, cap = drawn(B, L), 2.5, 3.0
    with jax.set_mesh(under(ONE_DEVICE)):
        found = distilled(*args, Readout(VOCAB, None), Readout(VOCAB, cap), temperature)
    h, u, th, tu, targets = (np.asarray(x, np.float64) for x in args)
    logits, teacher = (h @ u)[..., :VOCAB], cap * np.tanh((th @ tu)[..., :VOCAB] / cap)
    p, q = log_softmax(teacher / temperature), log_softmax(logits / temperature)
    np.testing.assert_allclose(found.kl_BL, (np.exp(p) * (p - q)).sum(-1), rtol=2e-4, atol=1e-5)
    logp = np.take_along_axis(log_softmax(logits), targets.astype(int)[..., None], -1)[..., 0]
    np.testing.assert_allclose(found.logp_BL, logp, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_the_plain_computation_and_none_goes_to_the_teacher():
    args, temperature = drawn(2, CHUNK + 32, seed=1), 1.7
    cap = 5.0
    weight_BL = jnp.asarray(np.random.default_rng(2).random((2, CHUNK + 32)), jnp.float32)

    def total(kl_BL, logp_BL):
        return jnp.sum(weight_BL * (kl_BL - 0.4 * logp_BL))

    def chunked(h, u, th, tu):
        found = distilled(
            h, u, th, tu, args[4], Readout(VOCAB, cap), Readout(VOCAB, None), temperature
        )
        return total(found.kl_BL, found.logp_BL)

    def plain(h, u, th, tu):
        logits = cap * jnp.tanh((h @ u)[..., :VOCAB] / cap)
        p = jax.nn.log_softmax((th @ tu)[..., :VOCAB] / temperature)
        q = jax.nn.log_softmax(logits / temperature)
        logp = jnp.take_along_axis(jax.nn.log_softmax(logits), args[4][..., None], -1)[..., 0]
        return total(jnp.sum(jnp.exp(p) * (p - q), -1), logp)

    with jax.set_mesh(under(ONE_DEVICE)):
        found = jax.grad(chunked, argnums=(0, 1, 2, 3))(*args[:4])
        expected = jax.grad(plain, argnums=(0, 1))(*args[:4])
    for x, y in zip(found[:2], expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)
    assert not np.any(found[2]) and not np.any(found[3])


def test_logits_of_no_more_than_a_chunk_exist_at_one_time():
    B, L = 2, 4 * CHUNK
    args = drawn(B, L)

    def total(h, u):
        found = distilled(h, u, *args[2:], Readout(VOCAB, None), Readout(VOCAB, None), 2.0)
        return jnp.sum(found.kl_BL)

    with jax.set_mesh(under(ONE_DEVICE)):
        text = str(jax.make_jaxpr(jax.grad(total, argnums=(0, 1)))(*args[:2]))
    assert f"f32[{B},{CHUNK},{PADDED}]" in text
    assert f"f32[{B},{L},{PADDED}]" not in text and f"f32[4,{B},{CHUNK},{PADDED}]" not in text


def test_a_teacher_that_is_the_student_has_no_divergence_and_no_gradient():
    objective = Distill(temperature=3.0, nll_weight=0.0)
    model = built()
    with jax.set_mesh(under(ONE_DEVICE)):
        params = params_on(under(ONE_DEVICE))
        batch = batch_on(under(ONE_DEVICE), random_tokens(B=4))

        @quick_jit
        def value_and_grad(params):
            def total(policy):
                models = {"policy": (model, policy), "teacher": (model, params)}
                return objective.loss(
                    models, batch, objective.denominators(batch), jax.random.key(0)
                ).total

            return jax.value_and_grad(total)(params)

        total, gradient = value_and_grad(params)
    assert abs(float(total)) < 1e-6
    assert max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(gradient)) < 1e-5


@pytest.mark.parametrize("mesh", [ONE_DEVICE, MESHES[1]], ids=str)
def test_a_student_comes_near_a_teacher_of_another_size_and_the_teacher_stays(mesh):
    objective = Distill(temperature=2.0, nll_weight=0.0)
    tx = optax.adam(1e-2)
    models = {"policy": built(), "teacher": built(TEACHER)}
    with jax.set_mesh(under(mesh)):
        state = quick_jit(lambda key: new_state(models["policy"], Full(), tx, key))(
            jax.random.key(0)
        )
        others = {"teacher": params_on(under(mesh), TEACHER, seed=5)}
        step = quick_jit(make_step(models, objective, Full(), tx, micro_batches=2))
        batch = batch_on(under(mesh), random_tokens(B=16))
        kl = []
        for _ in range(25):
            state, metrics = step(state, batch, others)
            kl.append(float(metrics["kl"][0] / metrics["kl"][1]))
        assert not any(
            leaf.is_deleted() for leaf in jax.tree.leaves(others)
        )  # nothing of it is donated
    assert kl[-1] < 0.5 * kl[0] and "teacher" not in state.trainable
