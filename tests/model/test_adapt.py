"""Laws of adaptations: the same model at birth, the same numbers and gradients as with plain arrays, on every
mesh.
"""

import re
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
from pydantic import TypeAdapter

from data_pipeline.component import one_of
from model.adapt import Adaptation, Full, LoRA, Only
from model.api import ModelInputs, leaf_name
from model.architectures.gpt2 import GPT2
from model.sharding import ALPHABET, letters_of
from model.size import n_params
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
from tests.model.moe_examples import EXAMPLES as MIXTURES
from tests.model.moe_examples import clear_batch
from trainer.objectives.next_token import NextToken

ARCHITECTURES = {
    "Llama": SIZES.model_copy(update={"layers": 4}),
    "tied": SIZES.model_copy(update={"tied": True}),
    "GPT2": GPT2(vocab_size=40, width=16, layers=3, heads=4, feed_forward_width=24, context=32),
    **MIXTURES,
}
SMALL = LoRA(rank=3, alpha=6.0)
TABLES = LoRA(rank=3, alpha=6.0, targets=("w.*", "embed", "unembed"))
TIED = LoRA(rank=3, alpha=6.0, targets=("embed", "wq"))
POSITIONS = LoRA(rank=3, alpha=6.0, targets=("w.*", "positions"))
INT8 = LoRA(rank=3, alpha=6.0, base="int8")
CASES = [  # (architecture, adaptation, mesh)
    *(("Llama", SMALL, mesh) for mesh in MESHES),
    ("Llama", TABLES, {"context": 2, "tensor": 4}),
    ("Llama", INT8, {"stage": 2, "fsdp": 2, "tensor": 2}),
    ("tied", TIED, {"fsdp": 4, "tensor": 2}),
    ("GPT2", POSITIONS, {"fsdp": 8}),
    ("Mixtral", INT8, {"expert": 2, "fsdp": 2, "tensor": 2}),
    ("DeepSeekV3", SMALL, {"expert": 2, "tensor": 2, "data": 2}),
]
EVERY = pytest.mark.parametrize(
    ("name", "adaptation", "mesh"),
    [
        # the largest to compile; tests/trainer/test_adapters.py takes a step of such a model every time
        pytest.param(*case, marks=pytest.mark.slow if case[0] == "DeepSeekV3" else ())
        for case in CASES
    ],
    ids=[f"{n}-{a.base}-{m}" for n, a, m in CASES],
)
B, L = 8, 12


def trained(adaptation: LoRA, name: str, mesh: jax.sharding.Mesh) -> tuple[Any, Any]:
    """(trainable, frozen) on a mesh, with a `b` that is no longer zero."""
    params = params_on(mesh, ARCHITECTURES[name])
    trainable, frozen = jax.jit(adaptation.split)(params, jax.random.key(1))
    rng = np.random.default_rng(2)

    def drawn(path: Any, x: jax.Array) -> jax.Array:
        if not path[-1].key.startswith("b_"):
            return x
        return jax.device_put(rng.normal(0, 0.1, x.shape).astype(np.float32), x.sharding)

    return jax.tree.map_with_path(drawn, trainable), frozen


@cache
def loss_and_gradient(
    name: str, adaptation: LoRA, sizes: tuple[tuple[str, int], ...], dense: bool
) -> Any:
    """Of what is trained, by name; with nodes, or with `dense` arrays."""
    # without its weight no gradient reaches the prediction module that DeepSeek-V3 has
    objective = NextToken(mtp_weight=0.3 if name == "DeepSeekV3" else 0.0)
    model, mesh = built(ARCHITECTURES[name]), under(dict(sizes))

    def loss(trainable: Any, frozen: Any, batch: Any) -> jax.Array:
        params = adaptation.merge(trainable, frozen)
        params = adaptation.dense(params) if dense else params
        models = {"policy": (model, params)}
        return objective.loss(models, batch, objective.denominators(batch), jax.random.key(0)).total

    with jax.set_mesh(mesh):
        trainable, frozen = trained(adaptation, name, mesh)
        # near ties of a router would let rounding choose another expert
        tokens = clear_batch(name) if name in MIXTURES else random_tokens(B=B, L=L)
        batch = batch_on(mesh, tokens)
        value, gradient = quick_jit(jax.value_and_grad(loss))(trainable, frozen, batch)
        leaves = jax.tree.leaves_with_path(gradient)
        return float(value), {leaf_name(path): np.array(g) for path, g in leaves}


@EVERY
def test_on_every_mesh_loss_and_gradients_are_those_of_plain_arrays_on_one_device(
    name, adaptation, mesh
):
    loss, gradient = loss_and_gradient(name, adaptation, tuple(mesh.items()), False)
    expected_loss, expected = loss_and_gradient(name, adaptation, (), True)
    assert loss == pytest.approx(expected_loss, rel=3e-6)
    assert gradient.keys() == expected.keys() != set()
    for leaf, values in expected.items():
        assert np.linalg.norm(gradient[leaf] - values) < 3e-5 * np.linalg.norm(values), leaf


@cache
def shapes_of(name: str) -> Any:
    with jax.set_mesh(under(ONE_DEVICE)):
        return jax.eval_shape(built(ARCHITECTURES[name]).init, jax.random.key(0))


def split_shapes(adaptation: Adaptation, name: str = "Llama") -> tuple[Any, Any]:
    with jax.set_mesh(under(ONE_DEVICE)):
        return jax.eval_shape(adaptation.split, shapes_of(name), jax.random.key(0))


def names_of(tree: Any) -> list[str]:
    return [leaf_name(path) for path, _ in jax.tree.leaves_with_path(tree)]


def kinds(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def test_at_birth_the_model_is_the_base_to_the_last_bit_whole_and_token_by_token():
    model, adaptation = built(ARCHITECTURES["Llama"]), TABLES
    with jax.set_mesh(mesh := under(ONE_DEVICE)):
        params = params_on(mesh, ARCHITECTURES["Llama"])
        trainable, frozen = adaptation.split(params, jax.random.key(0))
        merged = adaptation.merge(trainable, frozen)
        batch = batch_on(mesh, random_tokens(B=2, L=10))
        inputs = ModelInputs(batch.tokens_BL, batch.positions_BL, batch.segments_BL)
        apply, decode = quick_jit(model.apply), quick_jit(model.decode)
        expected = apply(params, inputs).hidden_BLD
        assert np.array_equal(apply(merged, inputs).hidden_BLD, expected)
        assert np.array_equal(model.unembed(merged), model.unembed(params))
        dense = adaptation.dense(merged)
        assert jax.tree.all(jax.tree.map(np.array_equal, dense, params))
        assert jax.tree.all(jax.tree.map(np.array_equal, adaptation.reference(frozen), params))

        # then away from it: tokens that are decoded meet the same weights
        merged = adaptation.merge(jax.tree.map(lambda x: x + 0.05, trainable), frozen)
        ones_BL = np.ones((2, 10), np.int32)
        inputs = ModelInputs(batch.tokens_BL, np.cumsum(ones_BL, 1, dtype=np.int32) - 1, ones_BL)
        hidden_BLD, _ = decode(merged, inputs, model.empty_cache(2, 10))
        np.testing.assert_allclose(hidden_BLD, apply(merged, inputs).hidden_BLD, rtol=0, atol=2e-5)
        assert not np.allclose(
            apply(merged, inputs).hidden_BLD, apply(params, inputs).hidden_BLD, atol=1e-2
        )


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("adaptation", [TABLES, INT8], ids=["tables", "int8"])
def test_leaves_have_a_dimension_for_every_letter_and_as_one_array_they_are_the_parameters(
    name, adaptation
):
    known = [
        t for t in adaptation.targets if t == "w.*" or any(n.startswith(t) for n in shapes_of(name))
    ]
    adaptation = adaptation.model_copy(update={"targets": tuple(known)})
    trainable, frozen = split_shapes(adaptation, name)
    for path, leaf in jax.tree.leaves_with_path((trainable, frozen)):
        letters = letters_of(leaf_name(path))
        assert len(letters) == leaf.ndim and set(letters) <= set(ALPHABET), path
    assert all(re.search(r"\.[ab]_[A-Z0-9]+$", trained) for trained in names_of(trainable))
    with jax.set_mesh(under(ONE_DEVICE)):
        merged = jax.eval_shape(adaptation.merge, trainable, frozen)
        dense = jax.eval_shape(adaptation.dense, merged)
    assert kinds(dense) == kinds(shapes_of(name)) and n_params(dense) == n_params(shapes_of(name))
    assert names_of(adaptation.reference(frozen)) != [] and n_params(trainable) < n_params(dense)


def test_factors_are_drawn_within_their_bound_and_by_the_name_of_their_matrix():
    with jax.set_mesh(mesh := under(ONE_DEVICE)):
        params = params_on(mesh, ARCHITECTURES["Llama"])
        trainable, _ = LoRA(rank=3, alpha=6.0).split(params, jax.random.key(0))
        alone, _ = LoRA(rank=3, alpha=1.0, targets=("w_up",)).split(params, jax.random.key(0))
    w_up, wo = (
        trainable["blocks"]["feed_forward"]["w_up_NDF"],
        trainable["blocks"]["attention"]["wo_NHAD"],
    )
    assert 0.9 * 16**-0.5 < np.abs(w_up["a_NDR"]).max() <= 16**-0.5
    assert np.abs(wo["a_NHAR"]).max() <= 24**-0.5 and not np.any(w_up["b_NRF"])
    assert np.array_equal(alone["blocks"]["feed_forward"]["w_up_NDF"]["a_NDR"], w_up["a_NDR"])


def test_the_scale_is_alpha_by_rank_or_by_its_root():
    assert LoRA(rank=16, alpha=8.0).scale == 0.5
    assert LoRA(rank=16, alpha=8.0, rslora=True).scale == 2.0
    _, frozen = split_shapes(LoRA(rank=3, alpha=6.0, targets=("wq",)))
    assert frozen["blocks"]["attention"]["wq_NDHA"]["scale_N"].shape == (4,)


@pytest.mark.parametrize(
    ("adaptation", "message"),
    [
        (
            LoRA(rank=2, alpha=1.0, targets=("wq", "q_proj")),
            "adaptation.targets: 'q_proj' matches no matrix of the architecture; its matrices are wk, wo, wq",
        ),
        (
            LoRA(rank=2, alpha=1.0, targets=("attention_norm",)),
            "'attention_norm' matches no matrix",
        ),
        (
            LoRA(rank=2, alpha=1.0, targets=("w(",)),
            r"adaptation.targets: 'w\(' is no regular expression",
        ),
        (
            Only(pattern="lora"),
            "adaptation.pattern='lora' matches no parameter; this architecture has",
        ),
        (Only(pattern="("), r"adaptation.pattern='\(' is no regular expression"),
    ],
    ids=["unknown", "a norm", "no expression", "only unknown", "only no expression"],
)
def test_what_matches_nothing_is_refused_with_what_there_is(adaptation, message):
    with pytest.raises(ValueError, match=message):
        split_shapes(adaptation)


def test_only_what_matches_is_trained_and_the_rest_is_as_it_was():
    trainable, frozen = split_shapes(Only(pattern="norm|wq"))
    assert all("norm" in name or "wq" in name for name in names_of(trainable))
    assert not any("norm" in name or "wq" in name for name in names_of(frozen))
    merged = Only(pattern="norm|wq").merge(trainable, frozen)
    assert kinds(merged) == kinds(shapes_of("Llama")) == kinds(Only(pattern="x").dense(merged))
    assert Only(pattern="norm").reference(frozen) is None is Full().reference({})


@pytest.mark.parametrize("adaptation", [Full(), TABLES, INT8, Only(pattern="norm")], ids=repr)
def test_an_adaptation_is_a_value_that_survives_being_written_down(adaptation):
    adapter = TypeAdapter(one_of("model.adapt"))
    written = adapter.dump_python(adaptation, mode="json")
    assert adapter.validate_python(written) == adaptation and isinstance(adaptation, Adaptation)
    assert hash(adaptation) == hash(adaptation.model_copy())
