"""Laws that every architecture keeps; a new one needs an example here."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import TypeAdapter

from data_pipeline.component import components_in, one_of
from model.api import Model, ModelInputs, Precision
from model.sharding import ALPHABET, check_sizes, letters_of
from model.size import n_matmul_params, n_params
from tests.examples import MESHES, ONE_DEVICE, SIZES, params_on, quick_jit, random_tokens, under

EXAMPLES = {"Llama": SIZES}
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
        inputs = ModelInputs(*map(jnp.array, (batch.tokens_BL, batch.positions_BL, batch.segments_BL)))
        return np.array(compiled(name)(params_on(under(ONE_DEVICE), EXAMPLES[name]), inputs).hidden_BLD)


def test_every_architecture_has_an_example():
    assert set(EXAMPLES) == set(components_in("model.architectures"))


@EVERY
def test_an_architecture_is_a_value_that_survives_being_written_down(name):
    adapter = TypeAdapter(one_of("model.architectures"))
    assert adapter.validate_python(adapter.dump_python(EXAMPLES[name], mode="json")) == EXAMPLES[name]
    assert hash(EXAMPLES[name]) == hash(EXAMPLES[name].model_copy())


@EVERY
def test_every_parameter_has_a_letter_of_the_alphabet_for_every_dimension(name):
    for path, leaf in jax.tree.leaves_with_path(shapes_of(name)):
        letters = letters_of(path[-1].key)
        assert len(letters) == leaf.ndim >= 1 and set(letters) <= set(ALPHABET), path


@EVERY
def test_a_letter_has_one_size_in_all_parameters_of_a_model(name):
    sizes = {
        (letter, n)
        for path, leaf in jax.tree.leaves_with_path(shapes_of(name))
        for letter, n in zip(letters_of(path[-1].key), leaf.shape, strict=True)
    }
    assert len(sizes) == len({letter for letter, _ in sizes})


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
    assert unembed_DV.shape[1] == EXAMPLES[name].vocab_size
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), cache_)
    assert cache_.lengths_B.tolist() == [0] * B


@EVERY
def test_the_example_divides_over_the_meshes_of_the_tests_and_one_that_it_does_not_names_parameters(name):
    shapes = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in jax.tree.leaves_with_path(shapes_of(name))
    }
    assert all(check_sizes(shapes, under(sizes)) == [] for sizes in MESHES)
    assert any("K=2" in problem for problem in check_sizes(shapes, under({"tensor": 8})))


@EVERY
def test_a_hidden_state_depends_neither_on_later_tokens_nor_on_other_rows(name):
    batch = random_tokens(B=B, L=L)
    plain = hidden_of(name, batch)
    tokens_BL = batch.tokens_BL.copy()
    tokens_BL[3:], tokens_BL[:3, 6:] = 1, 2
    other = hidden_of(name, batch._replace(tokens_BL=tokens_BL))
    np.testing.assert_array_equal(other[:3, :6], plain[:3, :6])
    assert np.abs(other[:3, 6:] - plain[:3, 6:]).max() > 1e-2 and np.abs(other[3:] - plain[3:]).max() > 1e-2


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
    assert n_params(shapes_of(name)) > n_matmul_params(shapes_of(name)) > n_params(shapes_of(name)) - 3 * np.prod(leaves["embed_VD"])
