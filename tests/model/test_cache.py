"""Laws of the cache: rows in another order, rows that went back, and chunks that fill it to the end, against the
full forward pass.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.api import ModelInputs
from model.architectures.gpt2 import GPT2
from model.architectures.llama import Llama
from model.cache import write
from tests.examples import ONE_DEVICE, SIZES, built, params_on, quick_jit, under
from tests.model import moe_examples

B, L, T = 3, 4, 12
WINDOWED = Llama(
    **SIZES.model_dump(exclude={"rope_scaling", "tied", "norm_eps", "window"}), window=3
)
LEARNED = GPT2(vocab_size=40, width=16, layers=2, heads=4, feed_forward_width=24, context=T)
EVERY = pytest.mark.parametrize(
    "sizes",
    [SIZES, WINDOWED, LEARNED, moe_examples.EXAMPLES["DeepSeekV3"]],
    ids=lambda sizes: type(sizes).__name__,
)


def chunk(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Rows padded to L tokens, and how many there are of each."""
    tokens_BL = np.zeros((B, L), np.int32)
    for row, tokens in zip(tokens_BL, rows, strict=True):
        row[: len(tokens)] = tokens
    return tokens_BL, np.array([len(tokens) for tokens in rows], np.int32)


@EVERY
def test_reordered_and_rolled_back_rows_go_on_as_if_they_had_never_been_otherwise(sizes):
    model = built(sizes)

    def add(params, tokens_BL, counts_B, cache):
        offset_BL = jnp.broadcast_to(jnp.arange(L), (B, L))
        positions_BL = jnp.minimum(cache.lengths_B[:, None] + offset_BL, T - 1)
        inputs = ModelInputs(
            tokens_BL, positions_BL, (offset_BL < counts_B[:, None]).astype(jnp.int32)
        )
        return model.decode(params, inputs, cache)

    with jax.set_mesh(under(ONE_DEVICE)):
        params = params_on(under(ONE_DEVICE), sizes)
        add = quick_jit(add)
        cache = model.empty_cache(B, T)
        for rows in (
            [[5, 6, 7, 8], [9, 10], [11, 12, 13]],
            [[1, 2, 3, 4], [20, 21, 22, 23], [30, 31]],
        ):
            _, cache = add(params, *chunk(rows), cache)
        cache = cache.reorder(jnp.array([2, 0, 2])).rollback(jnp.array([99, 6, 3]))
        assert cache.lengths_B.tolist() == [5, 6, 3]
        texts = [[11, 12, 13, 30, 31], [5, 6, 7, 8, 1, 2], [11, 12, 13]]
        for more in (
            [[14], [15, 16, 17], [18, 19, 24, 25]],
            [[26, 27, 28], [29, 32], [33, 34, 35, 36]],
        ):
            hidden_BLD, cache = add(params, *chunk(more), cache)
            texts = [text + tokens for text, tokens in zip(texts, more, strict=True)]
        padded_BT = jnp.array([text + [0] * (T - len(text)) for text in texts])
        positions_BT = jnp.broadcast_to(jnp.arange(T), (B, T))
        inputs = ModelInputs(padded_BT, positions_BT, jnp.ones((B, T), jnp.int32))
        full_BTD = quick_jit(model.apply)(params, inputs).hidden_BLD
    assert cache.lengths_B.tolist() == [9, 11, 11]  # row 1 was padded beyond the last slot
    for b, tokens in enumerate(more):
        n = len(tokens)
        expected_LD = full_BTD[b, len(texts[b]) - n : len(texts[b])]
        np.testing.assert_allclose(hidden_BLD[b, :n], expected_LD, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("name", "rest"), [("keys_BTKA", (2, 3)), ("latents_BTR", (5,))])
def test_entries_for_which_no_slot_is_left_are_dropped_and_none_in_use_is_touched(name, rest):
    rng = np.random.default_rng(0)
    slots = rng.normal(size=(B, 6, *rest)).astype(np.float32)
    new = rng.normal(size=(B, 4, *rest)).astype(np.float32)
    with jax.set_mesh(under(ONE_DEVICE)):
        written = np.array(write(name, jnp.array(slots), jnp.array(new), jnp.array([1, 4, 6])))
    expected = slots.copy()
    expected[0, 1:5], expected[1, 4:] = new[0], new[1, :2]
    np.testing.assert_array_equal(written, expected)
