"""Laws of the Llama: plain numpy says the same, every mesh says the same, and a document is not disturbed
by its neighbours.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from model.api import ModelInputs
from model.architectures.llama import Llama
from model.execution import Precision
from model.sharding import einsum, letters_of, named, shard
from tests.examples import (
    MESHES,
    ONE_DEVICE,
    SIZES,
    batch_on,
    built,
    host_params,
    params_on,
    quick_jit,
    random_documents,
    random_tokens,
    token_batch,
    under,
)
from trainer.objectives.next_token import NextToken

B, L = 8, 10  # one program serves all tests of the forward pass
MANY_HEADS = SIZES.model_copy(update={"kv_heads": SIZES.heads})
TIED = SIZES.model_copy(update={"tied": True})
EVERY_MESH = pytest.mark.parametrize("sizes", MESHES, ids=str)


def plain_llama(
    params: dict, tokens_L: np.ndarray, *, theta: float = 10_000.0, eps: float = 1e-5
) -> np.ndarray:
    """Hidden states of one document, in float64, written from the paper and the layout of Hugging Face
    weights.
    """
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    n, blocks = len(tokens_L), p["blocks"]

    def norm(x_LD, scale_D):
        return x_LD / np.sqrt((x_LD**2).mean(-1, keepdims=True) + eps) * scale_D

    def turn(x_LA):
        half = x_LA.shape[-1] // 2
        angles = np.outer(np.arange(n), theta ** (-np.arange(half) / half))
        low, high = x_LA[:, :half], x_LA[:, half:]
        return np.hstack(
            [
                low * np.cos(angles) - high * np.sin(angles),
                high * np.cos(angles) + low * np.sin(angles),
            ]
        )

    x_LD = p["embed_VD"][tokens_L]
    for i in range(SIZES.layers):
        attention, feed_forward = (
            {name: w[i] for name, w in blocks[part].items()}
            for part in ("attention", "feed_forward")
        )
        y_LD = norm(x_LD, blocks["attention_norm"]["scale_ND"][i])
        queries_a_head = attention["wq_NDHA"].shape[1] // attention["wk_NDKA"].shape[1]
        for h in range(SIZES.heads):
            q_LA, k_LA = (
                turn(y_LD @ attention["wq_NDHA"][:, h]),
                turn(y_LD @ attention["wk_NDKA"][:, h // queries_a_head]),
            )
            scores_LL = np.where(np.tri(n), q_LA @ k_LA.T / np.sqrt(q_LA.shape[-1]), -np.inf)
            weights_LL = np.exp(scores_LL - scores_LL.max(-1, keepdims=True))
            weights_LL /= weights_LL.sum(-1, keepdims=True)
            x_LD = (
                x_LD
                + weights_LL
                @ (y_LD @ attention["wv_NDKA"][:, h // queries_a_head])
                @ attention["wo_NHAD"][h]
            )
        y_LD = norm(x_LD, blocks["feed_forward_norm"]["scale_ND"][i])
        gate_LF = y_LD @ feed_forward["w_gate_NDF"]
        x_LD = (
            x_LD
            + (gate_LF / (1 + np.exp(-gate_LF)) * (y_LD @ feed_forward["w_up_NDF"]))
            @ feed_forward["w_down_NFD"]
        )
    return norm(x_LD, p["norm"]["scale_D"])


@cache
def compiled(sizes: Llama, function: str) -> Any:
    return quick_jit(getattr(built(sizes), function))


def hidden_of(
    rows: Any,
    *,
    sizes: Llama = SIZES,
    mesh: dict = ONE_DEVICE,
    segments: Any = None,
    positions: Any = None,
    padding: int = 0,
) -> np.ndarray:
    """Hidden states of B rows of documents (the last token of each only ends it), other segments and
    positions at will.
    """
    batch = token_batch([*rows, *[[]] * (B - len(rows))], L=L)
    tokens_BL = np.where(batch.segments_BL == 0, padding, batch.tokens_BL)
    rest = [
        given if given is not None else own
        for given, own in ((positions, batch.positions_BL), (segments, batch.segments_BL))
    ]
    with jax.set_mesh(under(mesh)):
        inputs = batch_on(under(mesh), ModelInputs(tokens_BL, *rest))
        return np.array(compiled(sizes, "apply")(params_on(under(mesh), sizes), inputs).hidden_BLD)


@cache
def loss_and_gradient(mesh: tuple) -> Any:
    def loss(params, batch):
        objective = NextToken()
        return objective.loss(
            {"policy": (built(), params)}, batch, objective.denominators(batch), jax.random.key(0)
        ).total

    with jax.set_mesh(under(dict(mesh))):
        return quick_jit(jax.value_and_grad(loss))(
            params_on(under(dict(mesh))), batch_on(under(dict(mesh)), random_tokens(B=B, L=L))
        )


@EVERY_MESH
def test_a_mesh_gives_the_loss_and_gradients_of_one_device(sizes):
    (loss, gradient), (expected_loss, expected) = (
        loss_and_gradient(tuple(mesh.items())) for mesh in (sizes, ONE_DEVICE)
    )
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    for (path, g), (_, h) in zip(
        jax.tree.leaves_with_path(gradient), jax.tree.leaves_with_path(expected), strict=True
    ):
        assert np.linalg.norm(np.array(h)) > 0, path
        assert np.linalg.norm(np.array(g) - np.array(h)) <= 1e-5 * np.linalg.norm(np.array(h)), path


@EVERY_MESH
def test_gradients_lie_at_rest_as_their_parameters(sizes):
    _, gradient = loss_and_gradient(tuple(sizes.items()))
    for path, g in jax.tree.leaves_with_path(gradient):
        layout = named(under(sizes), letters_of(path[-1].key), at_rest=True)
        assert g.sharding.is_equivalent_to(layout, g.ndim), (path, g.sharding)


@cache
def born(mesh: tuple) -> Any:
    with jax.set_mesh(under(dict(mesh))):
        return compiled(SIZES, "init")(jax.random.key(3))


@EVERY_MESH
def test_initial_parameters_are_the_same_bits_on_every_mesh_and_lie_at_rest(sizes):
    params, expected = born(tuple(sizes.items())), born(())
    for (path, x), (_, y) in zip(
        jax.tree.leaves_with_path(params), jax.tree.leaves_with_path(expected), strict=True
    ):
        np.testing.assert_array_equal(x, y, err_msg=str(path))
        assert x.sharding.is_equivalent_to(
            named(under(sizes), letters_of(path[-1].key), at_rest=True), x.ndim
        ), path


def test_layers_and_weights_are_born_different_and_with_the_variance_of_their_fan_in():
    fan_in = {
        "wq_NDHA": 16,
        "wk_NDKA": 16,
        "wv_NDKA": 16,
        "wo_NHAD": 24,
        "w_gate_NDF": 16,
        "w_up_NDF": 16,
        "w_down_NFD": 24,
    }
    seen = set()
    for path, x in jax.tree.leaves_with_path(born(())):
        if path[-1].key in fan_in:
            for layer in x:
                assert abs(layer.var() * fan_in[path[-1].key] - 1) < 0.4, path
                seen.add(layer.ravel()[0].item())
    assert len(seen) == len(fan_in) * SIZES.layers


@pytest.mark.parametrize("sizes", [SIZES, MANY_HEADS], ids=["grouped", "many"])
def test_hidden_states_are_those_of_a_plain_numpy_llama(sizes):
    documents = random_documents(np.random.default_rng(1), (L + 1, 4))
    hidden_BLD = hidden_of([[document] for document in documents], sizes=sizes)
    for b, document in enumerate(documents):
        expected_LD = plain_llama(host_params(sizes), np.array(document[:-1]))
        np.testing.assert_allclose(
            hidden_BLD[b, : len(expected_LD)], expected_LD, rtol=1e-5, atol=1e-5
        )


def test_a_hidden_state_has_no_gradient_from_later_tokens_or_from_another_document():
    tokens = 1 + np.arange(L + 2)
    batch = token_batch(
        [[tokens[:7].tolist(), tokens[7:].tolist()]], L=L
    )  # positions 0-5, 6-9; every token occurs once
    direction_D = jnp.array(np.random.default_rng(0).normal(size=SIZES.width), jnp.float32)
    inputs, params = (
        ModelInputs(batch.tokens_BL, batch.positions_BL, batch.segments_BL),
        params_on(under(ONE_DEVICE)),
    )

    def at(embed_VD, i):
        return (
            built()
            .apply({**params, "embed_VD": embed_VD}, jax.tree.map(jnp.array, inputs))
            .hidden_BLD[0, i]
            @ direction_D
        )

    with jax.set_mesh(under(ONE_DEVICE)):
        gradient = quick_jit(jax.grad(at))
        for i in (0, 3, 5, 6, 9):
            reached = np.flatnonzero(np.abs(gradient(params["embed_VD"], i)).sum(-1))
            assert reached.tolist() == batch.tokens_BL[0, 0 if i < 6 else 6 : i + 1].tolist()


def test_a_packed_row_equals_its_documents_alone():
    a, b = random_documents(np.random.default_rng(2), (5, 7))
    packed, alone_a, alone_b, reversed_ = hidden_of([[a, b], [a], [b], [b, a]])[:4]
    np.testing.assert_allclose(packed[:4], alone_a[:4], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(packed[4:], alone_b[:6], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.roll(reversed_, 4, axis=0), packed, rtol=1e-5, atol=1e-5)


def test_it_is_the_mask_and_not_the_positions_that_keeps_documents_apart():
    a, b = random_documents(np.random.default_rng(2), (5, 7))
    packed = hidden_of([[a, b]])[0]
    running_BL, ones_BL = np.tile(np.arange(L, dtype=np.int32), (B, 1)), np.ones((B, L), np.int32)
    not_restarted = hidden_of([[a, b]], positions=running_BL)[0]
    contaminated = hidden_of([[a, b]], positions=running_BL, segments=ones_BL)[0]
    np.testing.assert_allclose(not_restarted, packed, rtol=1e-4, atol=1e-5)
    assert np.abs(contaminated[4:] - packed[4:]).max() > 0.1
    np.testing.assert_allclose(contaminated[:4], packed[:4], rtol=1e-5, atol=1e-5)


def test_padding_changes_nothing():
    (a,) = random_documents(np.random.default_rng(4), (6,))
    plain, other = (hidden_of([[a]], padding=token)[0, :5] for token in (0, 7))
    np.testing.assert_array_equal(plain, other)
    np.testing.assert_allclose(hidden_of([[a], [a, a]])[1, 5:], plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "mesh"),
    [(SIZES, ONE_DEVICE), (MANY_HEADS, ONE_DEVICE), (SIZES, MESHES[-1])],
    ids=["grouped", "many", "grouped on a mesh"],
)
def test_reading_ragged_prompts_and_then_token_by_token_gives_the_hidden_states_of_whole_rows(
    sizes, mesh
):
    lengths, prompts = np.array([10, 4, 7, 10, 1, 5, 3, 8]), np.array([3, 1, 6, 2, 1, 5, 2, 4])
    documents = random_documents(np.random.default_rng(5), (lengths + 1).tolist())
    expected_BLD = hidden_of([[document] for document in documents], sizes=sizes)
    tokens_BL = token_batch([[document] for document in documents], L=L).tokens_BL
    found_BLD, done_B = np.zeros_like(expected_BLD), np.zeros(B, int)
    with jax.set_mesh(under(mesh)):
        params, kv_cache = params_on(under(mesh), sizes), built(sizes).empty_cache(B, L)
        for width in (6, *[1] * 8):
            n_B = np.minimum(prompts if width > 1 else 1, lengths - done_B)
            at_BL = np.minimum(done_B[:, None] + np.arange(width), L - 1)
            real_BL = np.arange(width) < n_B[:, None]
            inputs = ModelInputs(
                np.where(real_BL, np.take_along_axis(tokens_BL, at_BL, 1), 9), at_BL, real_BL
            )
            inputs = batch_on(under(mesh), jax.tree.map(lambda x: x.astype(np.int32), inputs))
            hidden_BLD, kv_cache = compiled(sizes, "decode")(params, inputs, kv_cache)
            for b, n in enumerate(n_B):
                found_BLD[b, done_B[b] : done_B[b] + n] = np.array(hidden_BLD)[b, :n]
            done_B += n_B
            assert np.array(kv_cache.lengths_B).tolist() == done_B.tolist()
    assert done_B.tolist() == lengths.tolist()
    for b, n in enumerate(lengths):
        np.testing.assert_allclose(found_BLD[b, :n], expected_BLD[b, :n], rtol=1e-5, atol=1e-5)


def test_a_tied_model_has_no_output_matrix_of_its_own_and_reads_out_with_its_embedding():
    with jax.set_mesh(under({"fsdp": 4, "tensor": 2})):
        params = params_on(under({"fsdp": 4, "tensor": 2}), TIED)
        assert "unembed_DV" not in params and "unembed_DV" in host_params()
        unembed_DV = built(TIED).unembed(params)
        assert jax.typeof(unembed_DV).sharding.spec.partitions == ("fsdp", "tensor")
        np.testing.assert_array_equal(unembed_DV, host_params(TIED)["embed_VD"].T)
        hot_V = shard(jnp.arange(unembed_DV.shape[1]) == 3, "V").astype(jnp.float32)
        read_out = jax.grad(
            lambda p: jnp.sum(einsum("DV,V->D", shard(built(TIED).unembed(p), "DV"), hot_V) ** 2)
        )
        gradient_VD = np.array(read_out(params)["embed_VD"])
    assert np.flatnonzero(gradient_VD.any(-1)).tolist() == [3]
    np.testing.assert_allclose(gradient_VD[3], 2 * host_params(TIED)["embed_VD"][3], rtol=1e-6)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_parameters_keep_their_dtype_and_what_is_computed_has_its_own(compute):
    model = SIZES.build(Precision(params="float32", compute=compute))
    zeros_BL = jax.ShapeDtypeStruct((B, L), jnp.int32)
    with jax.set_mesh(under(ONE_DEVICE)):
        params = jax.eval_shape(model.init, jax.random.key(0))
        outputs = jax.eval_shape(model.apply, params, ModelInputs(zeros_BL, zeros_BL, zeros_BL))
        unembed_DV = jax.eval_shape(model.unembed, params)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert outputs.hidden_BLD.dtype == unembed_DV.dtype == jnp.dtype(compute)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv_heads": 3}, "heads=4 is not a multiple of kv_heads=3"),
        ({"kv_heads": 8}, "heads=4 is not a multiple of kv_heads=8"),
        ({"head_width": 5}, "head_width=5 is odd"),
        ({"width": 0}, "width"),
        ({"layers": 2.0}, "layers"),
        ({"heads": "4"}, "heads"),
        ({"depth": 3}, "depth"),
    ],
)
def test_wrong_sizes_are_refused_by_name(change, message):
    with pytest.raises(ValidationError, match=message):
        Llama(**{**SIZES.model_dump(), **change})
