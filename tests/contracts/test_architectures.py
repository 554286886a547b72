"""Laws that every architecture keeps; a new one needs an example here."""

import re
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import TypeAdapter

from data_pipeline.component import components_in, one_of
from model.api import Model, ModelInputs, leaf_name, padded
from model.architectures.gemma import Gemma2, Gemma3
from model.architectures.gpt2 import GPT2
from model.architectures.llama import Llama
from model.execution import Precision
from model.mesh import check_sizes
from model.sharding import ALPHABET, letters_of
from model.size import n_matmul_params, n_params
from tests.examples import (
    MESHES,
    ONE_DEVICE,
    SIZES,
    params_on,
    quick_jit,
    random_documents,
    random_tokens,
    token_batch,
    under,
)
from tests.model import moe_examples

DENSE = SIZES.model_dump(exclude={"rope_scaling", "tied", "norm_eps"})
SHARED = {name: DENSE[name] for name in DENSE.keys() & Gemma2.model_fields.keys() - {"window"}}
EXAMPLES = {  # windows are shorter than the rows, and the last pattern of layers is cut short
    "Llama": SIZES,
    "Mistral": Llama(**{**DENSE, "window": 3}),
    "Qwen2": Llama(**{**DENSE, "attention_bias": True}, tied=True),
    "Qwen3": Llama(**{**DENSE, "head_norm": True}),
    "Gemma2": Gemma2(
        **SHARED, window=3, query_pre_attn_scalar=10, attention_soft_cap=2.0, logit_soft_cap=3.0
    ),
    "Gemma3": Gemma3(**SHARED, window=3, query_pre_attn_scalar=10, full_every=2),
    "GPT2": GPT2(vocab_size=40, width=16, layers=3, heads=4, feed_forward_width=24, context=32),
    **moe_examples.EXAMPLES,
}
EVERY = pytest.mark.parametrize("name", EXAMPLES)
B, L = 8, 10


@cache
def model_of(name: str) -> Model:
    return EXAMPLES[name].build(Precision(compute="float32"))


@cache
def shapes_of(name: str) -> Any:
    with jax.set_mesh(under(ONE_DEVICE)):
        return jax.eval_shape(model_of(name).init, jax.random.key(0))


@cache
def compiled(name: str) -> Any:
    return quick_jit(model_of(name).apply)


def hidden_of(name: str, batch: Any) -> np.ndarray:
    with jax.set_mesh(under(ONE_DEVICE)):
        inputs = ModelInputs(
            *map(jnp.array, (batch.tokens_BL, batch.positions_BL, batch.segments_BL))
        )
        return np.array(
            compiled(name)(params_on(under(ONE_DEVICE), EXAMPLES[name]), inputs).hidden_BLD
        )


def test_every_architecture_has_an_example():
    examples = {type(example).__name__ for example in EXAMPLES.values()}
    assert examples == set(components_in("model.architectures"))


@EVERY
def test_an_architecture_is_a_value_that_survives_being_written_down(name):
    adapter = TypeAdapter(one_of("model.architectures"))
    assert (
        adapter.validate_python(adapter.dump_python(EXAMPLES[name], mode="json")) == EXAMPLES[name]
    )
    assert hash(EXAMPLES[name]) == hash(EXAMPLES[name].model_copy())


@EVERY
def test_every_parameter_has_a_letter_of_the_alphabet_for_every_dimension(name):
    for path, leaf in jax.tree.leaves_with_path(shapes_of(name)):
        letters = letters_of(path[-1].key)
        assert len(letters) == leaf.ndim >= 1 and set(letters) <= set(ALPHABET), path


@EVERY
def test_a_letter_has_one_size_in_a_stack_and_with_a_digit_in_a_module(name):
    sizes = set()
    for path, leaf in jax.tree.leaves_with_path(shapes_of(name)):
        *module, last = (key.key for key in path)
        for letter, n in zip(
            re.findall("[A-Z][0-9]*", last.rsplit("_", 1)[1]), leaf.shape, strict=True
        ):
            sizes.add((letter, tuple(module[: len(module) if letter[1:] else 1]), n))
    assert len(sizes) == len({(letter, where) for letter, where, _ in sizes})


@EVERY
def test_hidden_states_meet_the_output_matrix_and_a_cache_holds_every_layer(name):
    model = model_of(name)
    zeros_BL = jnp.zeros((B, L), jnp.int32)
    with jax.set_mesh(under(ONE_DEVICE)):
        inputs = ModelInputs(zeros_BL, zeros_BL, zeros_BL)
        hidden_BLD = jax.eval_shape(model.apply, shapes_of(name), inputs).hidden_BLD
        unembed_DV = jax.eval_shape(model.unembed, shapes_of(name))
        cache_ = model.empty_cache(B, L)
        decoded_BLD, after = jax.eval_shape(model.decode, shapes_of(name), inputs, cache_)
    assert hidden_BLD.shape == decoded_BLD.shape == (B, L, unembed_DV.shape[0])
    assert (
        unembed_DV.shape[1] == padded(EXAMPLES[name].vocab_size)
        and model.vocab_size == EXAMPLES[name].vocab_size
    )
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), cache_
    )
    assert cache_.lengths_B.tolist() == [0] * B


@EVERY
def test_the_example_divides_over_the_meshes_of_the_tests_and_one_that_it_does_not_names_parameters(
    name,
):
    shapes = {
        leaf_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(shapes_of(name))
    }
    assert all(check_sizes(shapes, under(sizes)) == [] for sizes in MESHES)
    assert any("H=4" in problem for problem in check_sizes(shapes, under({"tensor": 8})))


@EVERY
def test_a_hidden_state_depends_neither_on_later_tokens_nor_on_other_rows(name):
    batch = random_tokens(B=B, L=L)
    plain = hidden_of(name, batch)
    tokens_BL = batch.tokens_BL.copy()
    tokens_BL[3:], tokens_BL[:3, 6:] = 1, 2
    other = hidden_of(name, batch._replace(tokens_BL=tokens_BL))
    np.testing.assert_array_equal(other[:3, :6], plain[:3, :6])
    assert (
        np.abs(other[:3, 6:] - plain[:3, 6:]).max() > 1e-2
        and np.abs(other[3:] - plain[3:]).max() > 1e-2
    )


@EVERY
def test_a_packed_row_equals_its_documents_alone(name):
    a, b = random_documents(np.random.default_rng(2), (7, 5))
    packed, alone_a, alone_b = hidden_of(
        name, token_batch([[a, b], [a], [b], *[[]] * (B - 3)], L=L)
    )[:3]
    np.testing.assert_allclose(packed[:6], alone_a[:6], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(packed[6:], alone_b[:4], rtol=1e-5, atol=1e-5)


@EVERY
def test_reading_ragged_prompts_and_then_token_by_token_gives_the_hidden_states_of_whole_rows(name):
    batch = token_batch(
        [[document] for document in random_documents(np.random.default_rng(5), (L + 1,) * B)], L=L
    )
    expected_BLD, model = hidden_of(name, batch), model_of(name)
    done_B, n_B = np.zeros(B, np.int32), np.array([6, 5, 4, 1, 6, 2, 3, 5], np.int32)
    with jax.set_mesh(under(ONE_DEVICE)):
        decode, params, kv_cache = (
            quick_jit(model.decode),
            params_on(under(ONE_DEVICE), EXAMPLES[name]),
            model.empty_cache(B, L),
        )
        for width in (6, *[1] * 4):
            at_BL = (done_B[:, None] + np.arange(width)).astype(np.int32)
            real_BL = (at_BL < done_B[:, None] + n_B[:, None]).astype(np.int32)
            inputs = ModelInputs(np.take_along_axis(batch.tokens_BL, at_BL, 1), at_BL, real_BL)
            hidden_BLD, kv_cache = decode(params, jax.tree.map(jnp.array, inputs), kv_cache)
            for b, (done, n) in enumerate(zip(done_B, n_B, strict=True)):
                np.testing.assert_allclose(
                    hidden_BLD[b, :n], expected_BLD[b, done : done + n], rtol=5e-5, atol=5e-5
                )
            done_B, n_B = done_B + n_B, np.ones_like(n_B)
    assert kv_cache.lengths_B.tolist() == done_B.tolist()


@EVERY
def test_hidden_states_see_the_order_of_earlier_tokens(name):
    batch = random_tokens(B=B, L=L)
    tokens_BL = batch.tokens_BL.copy()
    tokens_BL[1, :2] = tokens_BL[1, 1::-1]
    plain, other = hidden_of(name, batch), hidden_of(name, batch._replace(tokens_BL=tokens_BL))
    assert np.abs(plain[1, 5] - other[1, 5]).max() > 1e-4


@EVERY
def test_parameters_of_products_are_all_but_vectors_and_looked_up_tables(name):
    leaves = {path[-1].key: leaf.shape for path, leaf in jax.tree.leaves_with_path(shapes_of(name))}
    assert (
        n_params(shapes_of(name))
        > n_matmul_params(shapes_of(name))
        > n_params(shapes_of(name)) - 3 * np.prod(leaves["embed_VD"])
    )
