"""Laws of attention: against plain numpy, of its mask, and of rotary positions."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.cache import write
from model.kernels.attend import Maths, sees
from model.kernels.plain import attend_masked
from model.layers.rope import Rope, rotate
from model.sharding import shard
from tests.examples import quick_jit, under

SEGMENTS_BL = np.array([[1, 1, 1, 2, 2, 0, 0], [1, 2, 2, 2, 2, 2, 3]], np.int32)
POSITIONS_BL = np.array([[0, 1, 2, 0, 1, 0, 0], [0, 0, 1, 2, 3, 4, 0]], np.int32)


attend = partial(
    attend_masked, maths=Maths(scale=0.5, window=None, soft_cap=None)
)  # of heads of width 4


def packed_mask(segments_BL, positions_BL):
    return sees(positions_BL, segments_BL, positions_BL, segments_BL, None)


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(under({})):
        yield


def plain_attention(q_LHA, k_TKA, v_TKA, mask_LT):
    """Query head h reads key/value head h // (H / K)."""
    H, K = q_LHA.shape[1], k_TKA.shape[1]
    out = np.zeros_like(q_LHA)
    for h in range(H):
        scores_LT = q_LHA[:, h] @ k_TKA[:, h // (H // K)].T / q_LHA.shape[-1] ** 0.5
        e_LT = np.exp(scores_LT - scores_LT.max(-1, keepdims=True)) * mask_LT
        out[:, h] = e_LT / e_LT.sum(-1, keepdims=True) @ v_TKA[:, h // (H // K)]
    return out


@pytest.mark.parametrize(("H", "K"), [(6, 6), (6, 3), (6, 1)])
def test_attention_is_a_softmax_over_allowed_positions_with_consecutive_queries_sharing_a_head(
    H, K
):
    rng = np.random.default_rng(K)
    q_BLHA, k_BTKA, v_BTKA = (
        rng.normal(size=(2, n, heads, 4)).astype(np.float32)
        for n, heads in ((5, H), (7, K), (7, K))
    )
    mask_BLT = rng.random((2, 5, 7)) < 0.6
    mask_BLT[..., 3] = True
    o_BLHA = quick_jit(attend)(*map(jnp.array, (q_BLHA, k_BTKA, v_BTKA, mask_BLT)))
    expected = [
        plain_attention(*(x[b].astype(np.float64) for x in (q_BLHA, k_BTKA, v_BTKA)), mask_BLT[b])
        for b in range(2)
    ]
    np.testing.assert_allclose(o_BLHA, expected, rtol=1e-5, atol=1e-6)


def test_scores_and_softmax_of_bfloat16_inputs_are_float32():
    q_BLHA = jnp.ones((1, 1, 1, 2), jnp.bfloat16)
    k_BTKA, mask_BLT = jnp.ones((1, 7, 1, 2), jnp.bfloat16), jnp.ones((1, 1, 7), bool)
    jaxpr = str(jax.make_jaxpr(attend)(q_BLHA, k_BTKA, k_BTKA, mask_BLT))
    assert re.findall(r":(\w+)\[[^]]*\] = exp ", jaxpr) == ["f32"]
    assert re.findall(r":(\w+)\[[^]]*\] = dot_general\[", jaxpr) == ["f32", "bf16"]


def test_a_position_sees_the_earlier_positions_of_its_own_document_and_itself_and_nothing_else():
    mask_BLT = np.array(packed_mask(jnp.array(SEGMENTS_BL), jnp.array(POSITIONS_BL)))
    for b, i, j in np.ndindex(2, 7, 7):
        if SEGMENTS_BL[b, i]:
            assert mask_BLT[b, i, j] == (SEGMENTS_BL[b, i] == SEGMENTS_BL[b, j] and j <= i)


def test_padding_sees_only_padding_and_always_something():
    mask_BLT = np.array(packed_mask(jnp.array(SEGMENTS_BL), jnp.array(POSITIONS_BL)))
    padding_BL = SEGMENTS_BL == 0
    assert mask_BLT.any(-1).all()
    assert (
        not mask_BLT[0][padding_BL[0]][:, ~padding_BL[0]].any()
        and not mask_BLT[0][~padding_BL[0]][:, padding_BL[0]].any()
    )


def test_a_row_that_is_all_padding_gives_finite_numbers_and_gradients():
    x_BLHA = jnp.array(np.random.default_rng(0).normal(size=(1, 4, 2, 2)), jnp.float32)
    zeros_BL = jnp.zeros((1, 4), jnp.int32)
    value, gradient = quick_jit(
        jax.value_and_grad(lambda x: jnp.sum(attend(x, x, x, packed_mask(zeros_BL, zeros_BL)) ** 2))
    )(x_BLHA)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_rotary_positions_turn_half_split_pairs_by_position_times_falling_frequencies():
    A, theta = 6, 100.0
    x_BLHA = np.random.default_rng(0).normal(size=(2, 7, 3, A)).astype(np.float32)
    turned = np.array(
        rotate(jnp.array(x_BLHA), Rope(theta=theta).rotations(jnp.array(POSITIONS_BL), A))
    )
    for b, position, h, i in np.ndindex(2, 7, 3, A // 2):
        pair = complex(x_BLHA[b, position, h, i], x_BLHA[b, position, h, i + A // 2])
        expected = pair * np.exp(1j * POSITIONS_BL[b, position] * theta ** (-2 * i / A))
        np.testing.assert_allclose(
            turned[b, position, h, [i, i + A // 2]],
            [expected.real, expected.imag],
            rtol=1e-5,
            atol=1e-6,
        )


def test_rotated_products_depend_on_the_distance_of_positions_alone():
    rng = np.random.default_rng(0)
    q_BLHA, k_BLHA = (jnp.array(rng.normal(size=(1, 5, 1, 8)), jnp.float32) for _ in "qk")
    positions_BL = jnp.array([[3, 0, 7, 1, 2]])

    @quick_jit
    def products(shift: int) -> jax.Array:
        turn = Rope().rotations(positions_BL + shift, 8)
        return jnp.einsum("BLHA,BTHA->BLT", rotate(q_BLHA, turn), rotate(k_BLHA, turn))

    np.testing.assert_allclose(products(0), products(19), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sizes", [{}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=str)
def test_new_keys_stand_behind_those_that_each_row_holds(sizes):
    slots_BTKA = np.full((4, 7, 2, 3), -1, np.float32)
    new_BLKA = np.random.default_rng(0).normal(size=(4, 2, 2, 3)).astype(np.float32)
    lengths_B = [0, 5, 2, 1]
    with jax.set_mesh(under(sizes)):
        given = ((slots_BTKA, "BTKA"), (new_BLKA, "BLKA"), (lengths_B, "B"))
        written = quick_jit(partial(write, "keys_BTKA"))(
            *(shard(jnp.array(x), letters) for x, letters in given)
        )
    for b, length in enumerate(lengths_B):
        slots_BTKA[b, length : length + 2] = new_BLKA[b]
    np.testing.assert_array_equal(written, slots_BTKA)
