"""Laws of the chunked log-probabilities: the plain log-softmax and its gradients, without the [B, L, V]
array.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.sharding import named, shard
from tests.examples import ONE_DEVICE, quick_jit, under
from trainer.token_logp import CHUNK, token_logp

D, V = 6, 14


def drawn(B: int, L: int, seed: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    hidden_BLD, unembed_DV = rng.normal(size=(B, L, D)), rng.normal(size=(D, V))
    return (
        hidden_BLD.astype(np.float32),
        unembed_DV.astype(np.float32),
        rng.integers(0, V, (B, L), np.int32),
        rng.normal(size=(B, L)).astype(np.float32),
    )


def plain_logp(hidden_BLD: Any, unembed_DV: Any, targets_BL: Any) -> Any:
    logits_BLV = jnp.einsum("BLD,DV->BLV", hidden_BLD, unembed_DV)
    return jnp.take_along_axis(jax.nn.log_softmax(logits_BLV), targets_BL[..., None], -1)[..., 0]


def weighted(logp: Any) -> Any:
    return lambda hidden_BLD, unembed_DV, targets_BL, weight_BL: jnp.sum(
        logp(hidden_BLD, unembed_DV, targets_BL) * weight_BL
    )


def logp_of(hidden_BLD: Any, unembed_DV: Any, targets_BL: Any) -> Any:
    return token_logp(hidden_BLD, unembed_DV, targets_BL, unembed_DV.shape[1], None)[0]


both = quick_jit(
    lambda h, w, t, g: (
        token_logp(h, w, t, w.shape[1], None)[:2],
        jax.grad(weighted(logp_of), (0, 1))(h, w, t, g),
    )
)
plain = quick_jit(
    lambda h, w, t, g: (plain_logp(h, w, t), jax.grad(weighted(plain_logp), (0, 1))(h, w, t, g))
)


@pytest.mark.parametrize(("B", "L"), [(2, 5), (1, CHUNK), (3, CHUNK + 32), (2, 2 * CHUNK + 1)])
def test_chunked_log_probabilities_and_their_gradients_are_those_of_the_plain_form(B, L):
    arrays = drawn(B, L, seed=L)
    with jax.set_mesh(under(ONE_DEVICE)):
        (logp_BL, correct_BL), gradients = both(*arrays)
        expected_BL, expected = plain(*arrays)
    assert logp_BL.dtype == jnp.float32 and correct_BL.dtype == jnp.bool
    np.testing.assert_allclose(logp_BL, expected_BL, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(
        correct_BL, np.argmax(np.einsum("BLD,DV->BLV", *arrays[:2]), -1) == arrays[2]
    )
    for gradient, plain_gradient in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, plain_gradient, rtol=1e-4, atol=1e-5)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-3, 1.0, 50.0, 1e4]))
def test_large_and_small_logits_stay_finite_and_right(seed, scale):
    hidden_BLD, *rest = drawn(2, 5, seed)
    with jax.set_mesh(under(ONE_DEVICE)):
        (logp_BL, _), gradients = both(hidden_BLD * np.float32(scale), *rest)
        expected_BL, expected = plain(hidden_BLD * np.float32(scale), *rest)
    assert np.isfinite(logp_BL).all() and np.max(logp_BL) <= 1e-6 * scale
    np.testing.assert_allclose(logp_BL, expected_BL, rtol=1e-4, atol=1e-5 * max(scale, 1))
    for gradient, plain_gradient in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, plain_gradient, rtol=1e-3, atol=1e-4 * max(scale, 1))


@pytest.mark.parametrize("sizes", [ONE_DEVICE, {"data": 2, "fsdp": 2, "tensor": 2}], ids=str)
@pytest.mark.parametrize("soft_cap", [None, 1.5], ids=["plain", "soft cap"])
def test_padded_entries_soft_caps_and_the_log_of_the_sum_have_the_gradients_of_the_plain_form(
    sizes, soft_cap
):
    vocab_size, (hidden_BLD, unembed_DV, targets_BL, g_BL) = V - 3, drawn(4, 5, seed=3)
    targets_BL = targets_BL % vocab_size

    def capped(h_BLD, w_DV):
        logits_BLV = jnp.einsum("BLD,DV->BLV", h_BLD, w_DV[:, :vocab_size])
        return logits_BLV if soft_cap is None else soft_cap * jnp.tanh(logits_BLV / soft_cap)

    def plain_total(h_BLD, w_DV):
        logits_BLV = capped(h_BLD, w_DV)
        lse_BL = jax.nn.logsumexp(logits_BLV, -1)
        logp_BL = jnp.take_along_axis(logits_BLV, targets_BL[..., None], -1)[..., 0] - lse_BL
        return jnp.sum(logp_BL * g_BL + lse_BL**2), (logp_BL, lse_BL)

    def total(h_BLD, w_DV):
        logp_BL, _, lse_BL = token_logp(
            h_BLD, w_DV, shard(jnp.array(targets_BL), "BL"), vocab_size, soft_cap
        )
        return jnp.sum(logp_BL * shard(jnp.array(g_BL), "BL") + lse_BL**2), (logp_BL, lse_BL)

    with jax.set_mesh(under(sizes)):
        laid_out = [
            jax.device_put(x, named(under(sizes), letters))
            for x, letters in ((hidden_BLD, "BLD"), (unembed_DV, "DV"))
        ]
        (_, found), gradients = quick_jit(jax.value_and_grad(total, (0, 1), has_aux=True))(
            *laid_out
        )
    with jax.set_mesh(under(ONE_DEVICE)):
        (_, wanted), expected = jax.value_and_grad(plain_total, (0, 1), has_aux=True)(
            hidden_BLD, unembed_DV
        )
    for x, y in zip((*found, *gradients), (*wanted, *expected), strict=True):
        np.testing.assert_allclose(np.array(x), y, rtol=1e-4, atol=1e-5)
    assert not np.any(np.array(gradients[1])[:, vocab_size:])


def test_a_vocabulary_divided_over_devices_gives_the_same():
    arrays = drawn(4, CHUNK + 32, seed=1)
    mesh = under({"data": 2, "fsdp": 2, "tensor": 2})
    laid_out = [
        jax.device_put(x, named(mesh, letters))
        for x, letters in zip(arrays, ("BLD", "DV", "BL", "BL"), strict=True)
    ]
    with jax.set_mesh(mesh):
        (logp_BL, correct_BL), (d_hidden_BLD, d_unembed_DV) = both(*laid_out)
    with jax.set_mesh(under(ONE_DEVICE)):
        (expected_BL, expected_correct_BL), expected = both(*arrays)
    np.testing.assert_allclose(logp_BL, expected_BL, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(correct_BL, expected_correct_BL)
    np.testing.assert_allclose(d_hidden_BLD, expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(d_unembed_DV, expected[1], rtol=1e-5, atol=1e-5)
    assert d_hidden_BLD.sharding.is_equivalent_to(
        laid_out[0].sharding, 3
    ) and d_unembed_DV.sharding.is_equivalent_to(laid_out[1].sharding, 2)


def test_log_probabilities_of_bfloat16_states_are_computed_in_float32():
    hidden_BLD, unembed_DV, targets_BL, _ = drawn(2, 5, seed=2)
    hidden_BLD, unembed_DV = (
        jnp.array(hidden_BLD, jnp.bfloat16),
        jnp.array(unembed_DV, jnp.bfloat16),
    )
    with jax.set_mesh(under(ONE_DEVICE)):
        logp_BL = logp_of(hidden_BLD, unembed_DV, jnp.array(targets_BL))
    expected_BL = plain_logp(
        hidden_BLD.astype(jnp.float32), unembed_DV.astype(jnp.float32), targets_BL
    )
    assert logp_BL.dtype == jnp.float32
    np.testing.assert_allclose(logp_BL, expected_BL, rtol=1e-5, atol=1e-5)


def sizes_in(jaxpr: Any) -> set[int]:
    found = {
        v.aval.size for equation in jaxpr.eqns for v in equation.outvars if hasattr(v.aval, "size")
    }
    inner = [
        getattr(x, "jaxpr", x)
        for equation in jaxpr.eqns
        for x in jax.tree.leaves(list(equation.params.values()))
    ]
    return found.union(*(sizes_in(x) for x in inner if hasattr(x, "eqns")))


@pytest.mark.parametrize("L", [2 * CHUNK, 4 * CHUNK, CHUNK + 32, 7 * CHUNK + 3])
def test_no_array_over_all_positions_and_all_of_the_vocabulary_exists(L):
    B, V = 2, 101
    shapes = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (((B, L, D), "f4"), ((D, V), "f4"), ((B, L), "i4"), ((B, L), "f4"))
    ]
    with jax.set_mesh(under(ONE_DEVICE)):
        jaxpr = jax.make_jaxpr(jax.value_and_grad(weighted(logp_of), (0, 1)))(*shapes).jaxpr
        of_plain = jax.make_jaxpr(jax.value_and_grad(weighted(plain_logp), (0, 1)))(*shapes).jaxpr
    assert max(sizes_in(jaxpr)) <= B * CHUNK * V < B * L * V
    assert max(sizes_in(of_plain)) == B * L * V


@pytest.mark.parametrize(
    ("L", "chunks"), [(5, 1), (100, 1), (CHUNK, 1), (160, 2), (2 * CHUNK, 2), (1000, 8), (4096, 32)]
)
def test_positions_are_cut_into_the_fewest_equal_chunks(L, chunks):
    with jax.set_mesh(under(ONE_DEVICE)):
        jaxpr = jax.make_jaxpr(logp_of)(*(jnp.array(x) for x in drawn(2, L, 0)[:3])).jaxpr
    assert f"[2,{L // chunks},{V}]" in str(jaxpr) and f"length={chunks}" in str(jaxpr)
