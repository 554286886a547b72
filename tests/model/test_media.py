"""Features at positions of a row: a feature that equals an embedding is that embedding, on every mesh, in packed
rows, in prediction modules, and in decoding.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.rows.media import Patches, PatchPiece, pack_patches
from model.api import Media, ModelInputs
from model.sharding import named
from tests.examples import (
    ONE_DEVICE,
    SIZES,
    built,
    host_params,
    params_on,
    quick_jit,
    random_tokens,
    under,
)
from tests.model.moe_examples import EXAMPLES

B, L, J, W = 8, 16, 5, 9
PROJECTED = SIZES.model_copy(update={"media_width": W})
MESHES = (
    ONE_DEVICE,
    {"fsdp": 4, "tensor": 2},
    {"context": 2, "tensor": 2, "data": 2},  # rows in balanced order, and divided over tensor too
    {"context": 8},
)


def slots() -> np.ndarray:
    """Positions without order or repetition, of padding too; some patches of every row are unused."""
    rng = np.random.default_rng(7)
    slot_BJ = np.stack([rng.permutation(L)[:J] for _ in range(B)]).astype(np.int32)
    slot_BJ[0] = [0, L - 1, L // 2, L // 2 - 1, 1]  # ends and seams of the parts that devices hold
    slot_BJ[1:, -1] = -1
    return slot_BJ


def inputs_of(features_of: Any) -> tuple[ModelInputs, ModelInputs]:
    """Rows of tokens, and the same rows with other tokens at the slots, where their media stand instead."""
    batch = random_tokens(B=B, L=L)
    slot_BJ = slots()
    plain = ModelInputs(batch.tokens_BL, batch.positions_BL, batch.segments_BL)
    hidden_tokens_BL = batch.tokens_BL.copy()
    features_BJW = features_of(np.take_along_axis(batch.tokens_BL, np.maximum(slot_BJ, 0), 1))
    for b, j in np.argwhere(slot_BJ >= 0):
        hidden_tokens_BL[b, slot_BJ[b, j]] = 3
    return plain, plain._replace(tokens_BL=hidden_tokens_BL, media=Media(features_BJW, slot_BJ))


def on(mesh: jax.sharding.Mesh, inputs: ModelInputs) -> ModelInputs:
    """Laid out by the names of the fields."""
    rows = [jax.device_put(x, named(mesh, "BL", x.shape)) for x in inputs[:3]]
    media = inputs.media
    if media is not None:
        features_BJW = jax.device_put(
            media.features_BJW, named(mesh, "BJW", media.features_BJW.shape)
        )
        slot_BJ = jax.device_put(media.slot_BJ, named(mesh, "BJ", media.slot_BJ.shape))
        media = Media(features_BJW, slot_BJ)
    return ModelInputs(*rows, media)


@cache
def compiled(sizes: Any, function: str) -> Any:
    return quick_jit(getattr(built(sizes), function))


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_features_that_are_rows_of_the_table_give_the_bits_of_a_lookup(sizes):
    mesh, embed_VD = under(sizes), host_params()["embed_VD"]
    plain, with_media = inputs_of(lambda tokens_BJ: embed_VD[tokens_BJ])
    with jax.set_mesh(mesh):
        expected_BLD, found_BLD = (
            np.array(compiled(SIZES, "apply")(params_on(mesh), on(mesh, inputs)).hidden_BLD)
            for inputs in (plain, with_media)
        )
    np.testing.assert_array_equal(found_BLD, expected_BLD)
    assert np.any(plain.tokens_BL != with_media.tokens_BL)


def test_a_projection_brings_features_of_another_width_to_the_models():
    params = host_params(PROJECTED)
    rng = np.random.default_rng(1)
    features_BJW = rng.normal(size=(B, J, W)).astype(np.float32)
    # a table that holds each projected feature under a token of its own
    projected_BJD = features_BJW @ params["media_WD"]
    plain, with_media = inputs_of(lambda _: features_BJW)
    table_VD = params["embed_VD"].copy()
    tokens_BL = with_media.tokens_BL.copy()
    for i, (b, j) in enumerate(np.argwhere(slots() >= 0)):
        tokens_BL[b, slots()[b, j]] = SIZES.vocab_size + i  # entries that only pad the vocabulary
        table_VD[SIZES.vocab_size + i] = projected_BJD[b, j]
    mesh = under({"context": 2, "tensor": 2, "data": 2})
    with jax.set_mesh(mesh):
        apply = compiled(PROJECTED, "apply")
        at_rest = params_on(mesh, PROJECTED)
        found_BLD = apply(at_rest, on(mesh, with_media)).hidden_BLD
        table = jax.device_put(table_VD, at_rest["embed_VD"].sharding)
        rows = on(mesh, plain._replace(tokens_BL=tokens_BL))
        expected_BLD = apply({**at_rest, "embed_VD": table}, rows).hidden_BLD
    np.testing.assert_allclose(found_BLD, expected_BLD, rtol=1e-5, atol=1e-5)


def test_features_have_a_gradient_and_the_tokens_in_their_places_have_none():
    mesh = under({"context": 2, "tensor": 2, "data": 2})
    _, inputs = inputs_of(lambda tokens_BJ: host_params()["embed_VD"][tokens_BJ])
    inputs = inputs._replace(tokens_BL=np.where(inputs.tokens_BL == 39, 1, inputs.tokens_BL))
    slot_BJ = inputs.media.slot_BJ
    real_BJ = np.take_along_axis(inputs.segments_BL, np.maximum(slot_BJ, 0), 1) * (slot_BJ >= 0) > 0
    for b, j in np.argwhere(slot_BJ >= 0):
        inputs.tokens_BL[b, slot_BJ[b, j]] = 39  # a token that stands nowhere else

    def total(features_BJW, params, inputs):
        media = inputs.media._replace(features_BJW=features_BJW)
        hidden_BLD = built().apply(params, inputs._replace(media=media)).hidden_BLD
        return jnp.sum(jnp.sin(hidden_BLD) * (inputs.segments_BL > 0)[..., None])

    with jax.set_mesh(mesh):
        placed = on(mesh, inputs)
        pull = quick_jit(jax.grad(total, (0, 1)))
        d_features_BJW, d_params = pull(placed.media.features_BJW, params_on(mesh), placed)
    reached_BJ = np.abs(np.array(d_features_BJW)).max(-1) > 0
    np.testing.assert_array_equal(reached_BJ, real_BJ)
    assert not np.any(np.array(d_params["embed_VD"])[39])


def test_prediction_modules_read_the_features_of_later_positions():
    sizes = EXAMPLES["DeepSeekV3"]
    embed_VD = host_params(sizes)["embed_VD"]
    inputs = inputs_of(lambda tokens_BJ: embed_VD[tokens_BJ])
    mesh = under(ONE_DEVICE)
    with jax.set_mesh(mesh):
        outputs = [
            compiled(sizes, "apply")(params_on(mesh, sizes), on(mesh, one)) for one in inputs
        ]
    segments_BL = inputs[0].segments_BL
    # the last position of a document has no later token: it is padding for the module
    is_read_BL = (segments_BL > 0) & (segments_BL == np.roll(segments_BL, -1, 1))
    is_read_BL[:, -1] = False
    np.testing.assert_array_equal(*(np.array(one.mtp_hidden[0])[is_read_BL] for one in outputs))


def test_a_prompt_with_media_and_then_tokens_give_the_hidden_states_of_whole_rows():
    mesh, n_prompt = under({"fsdp": 2, "data": 2, "tensor": 2}), 10
    rng = np.random.default_rng(3)
    tokens_BL = rng.integers(1, 40, (B, L)).astype(np.int32)
    positions_BL = np.tile(np.arange(L, dtype=np.int32), (B, 1))
    slot_BJ = np.stack([rng.permutation(n_prompt)[:J] for _ in range(B)]).astype(np.int32)
    media = Media(rng.normal(size=(B, J, SIZES.width)).astype(np.float32), slot_BJ)
    whole = ModelInputs(tokens_BL, positions_BL, np.ones_like(tokens_BL), media)
    prompt = ModelInputs(*(x[:, :n_prompt] for x in whole[:3]), media)
    with jax.set_mesh(mesh):
        params, kv_cache = params_on(mesh), built().empty_cache(B, L)
        expected_BLD = np.array(compiled(SIZES, "apply")(params, on(mesh, whole)).hidden_BLD)
        decode = compiled(SIZES, "decode")
        hidden_BLD, kv_cache = decode(params, on(mesh, prompt), kv_cache)
        found = [np.array(hidden_BLD)]
        for i in range(n_prompt, L):
            token = ModelInputs(*(x[:, i : i + 1] for x in whole[:3]))
            hidden_BLD, kv_cache = decode(params, on(mesh, token), kv_cache)
            found.append(np.array(hidden_BLD))
    np.testing.assert_allclose(np.concatenate(found, 1), expected_BLD, rtol=1e-5, atol=1e-5)


def test_patches_of_packed_documents_are_those_of_the_documents_alone():
    """Windows of two documents in one row: slots move with their tokens, patches outside a window are left out."""
    rng = np.random.default_rng(4)
    documents = [
        Patches(
            rng.normal(size=(n, SIZES.width)).astype(np.float32),
            rng.permutation(9)[:n].astype(np.int32),
        )
        for n in (3, 4)
    ]
    windows = [(0, 6), (2, 7)]  # start and length in the document
    tokens = [rng.integers(1, 40, n).astype(np.int32) for _, n in windows]
    tokens_BL, positions_BL, segments_BL = np.zeros((3, B, L), np.int32)
    features_BJW = np.zeros((B, 7, SIZES.width), np.float32)
    slot_BJ = np.full((B, 7), -1, np.int32)
    pieces, at = [], 0
    for b, (patches, (start, n)) in enumerate(zip(documents, windows, strict=True)):
        pieces.append(PatchPiece(patches, start, n, at))
        alone = PatchPiece(patches, start, n, 0)
        for row, begin, packed in ((0, at, pieces), (b + 1, 0, [alone])):
            at_row = np.s_[row, begin : begin + n]
            tokens_BL[at_row], positions_BL[at_row], segments_BL[at_row] = (
                tokens[b],
                np.arange(n),
                b + 1,
            )
            features_BJW[row], slot_BJ[row] = pack_patches(packed, J=7, W=SIZES.width)
        at += n
    mesh = under(ONE_DEVICE)
    with jax.set_mesh(mesh):
        inputs = on(
            mesh, ModelInputs(tokens_BL, positions_BL, segments_BL, Media(features_BJW, slot_BJ))
        )
        hidden_BLD = np.array(compiled(SIZES, "apply")(params_on(mesh), inputs).hidden_BLD)
    np.testing.assert_allclose(hidden_BLD[0, :6], hidden_BLD[1, :6], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(hidden_BLD[0, 6:13], hidden_BLD[2, :7], rtol=1e-5, atol=1e-5)
    n_held = [
        sum(start <= s < start + n for s in p.slot_J)
        for p, (start, n) in zip(documents, windows, strict=True)
    ]
    assert np.sum(slot_BJ[0] >= 0) == sum(n_held) < 7
    with pytest.raises(
        ValueError, match="at least .* patches of images, and media rows have patches=1; raise it"
    ):
        pack_patches(pieces, J=1, W=SIZES.width)


def test_features_of_a_wrong_width_are_refused_with_the_remedy():
    _, inputs = inputs_of(lambda tokens_BJ: np.zeros((B, J, W), np.float32))
    with (
        jax.set_mesh(under(ONE_DEVICE)),
        pytest.raises(
            ValueError,
            match="features are W=9 wide, and the model reads 16; set architecture.media_width=9",
        ),
    ):
        jax.eval_shape(built().apply, host_params(), jax.tree.map(jnp.asarray, inputs))
    with pytest.raises(ValueError, match="media_width=9: no text model of transformers"):
        PROJECTED.to_hugging_face()
