"""LoRA is that of PEFT: logits, gradients and merged weights of its adapters (see tests/data/peft)."""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.adapt import LoRA
from model.api import ModelInputs, Params
from model.architectures.llama import Llama
from model.execution import Precision
from model.hugging_face.checkpoint import open_folder
from model.hugging_face.load import load
from model.sharding import einsum
from tests.examples import ONE_DEVICE, at_rest_on, batch_on, quick_jit, token_batch, under
from trainer.objectives.next_token import NextToken

DATA = Path(__file__).parent.parent / "data"
# file → (our targets, rslora)
FILES = {
    "all_matrices": (("w.*",), False),
    "rslora": (("w.*",), True),
    "query_and_value": (("wq", "wv"), False),
}
EVERY = pytest.mark.parametrize("name", FILES)
# ours → theirs
MATRICES = {
    "attention.wq_NDHA": "q_proj",
    "attention.wk_NDKA": "k_proj",
    "attention.wv_NDKA": "v_proj",
    "attention.wo_NHAD": "o_proj",
    "feed_forward.w_gate_NDF": "gate_proj",
    "feed_forward.w_up_NDF": "up_proj",
    "feed_forward.w_down_NFD": "down_proj",
}


class Adapted(NamedTuple):
    """Their model with their factors, in our names."""

    sizes: Llama
    adaptation: LoRA
    trainable: Params
    frozen: Params
    reference: dict[str, np.ndarray]


@cache
def adapted(name: str) -> Adapted:
    with np.load(DATA / "peft" / f"{name}.npz") as file:
        reference = dict(file)
    targets, rslora = FILES[name]
    adaptation = LoRA(
        rank=int(reference["rank"]),
        alpha=float(reference["alpha"]),
        targets=targets,
        rslora=rslora,
    )
    checkpoint = open_folder(DATA / "hugging_face" / "llama_untied_gqa")
    sizes = Llama.from_hugging_face(checkpoint.config)
    with jax.set_mesh(mesh := under(ONE_DEVICE)):
        params = load(sizes, checkpoint, params="float32")
        trainable, frozen = adaptation.split(params, jax.random.key(0))
        theirs = in_our_names(trainable, reference, "factor")
        return Adapted(sizes, adaptation, at_rest_on(mesh, theirs), frozen, reference)


def in_our_names(trainable: Params, reference: dict[str, np.ndarray], what: str) -> Params:
    """Their factors, or the gradients of them, in the shapes of ours: both transposed, and layers stacked."""

    def found(path: Any, x: Any) -> np.ndarray:
        *_, part, matrix, factor = (step.key for step in path)
        theirs = MATRICES[f"{part}.{matrix}"]
        which = factor[0].upper()
        layers = [reference[f"{what}.{layer}.{theirs}.{which}"].T for layer in range(len(x))]
        return np.stack(layers).reshape(x.shape)

    return jax.tree.map_with_path(found, trainable)


@EVERY
def test_logits_gradients_and_trained_numbers_are_those_of_peft(name):
    sizes, adaptation, trainable, frozen, reference = adapted(name)
    model = sizes.build(Precision(compute="float32"))
    objective = NextToken()
    ids_BL = reference["ids"]

    def loss(trainable: Params, batch: Any) -> tuple[jax.Array, jax.Array]:
        params = adaptation.merge(trainable, frozen)
        inputs = ModelInputs(batch.tokens_BL, batch.positions_BL, batch.segments_BL)
        hidden_BLD = model.apply(params, inputs).hidden_BLD
        logits_BLV = einsum("BLD,DV->BLV", hidden_BLD, model.unembed(params))
        models = {"policy": (model, params)}
        denominators = objective.denominators(batch)
        mean = objective.loss(models, batch, denominators, jax.random.key(0)).total
        return mean, logits_BLV

    with jax.set_mesh(mesh := under(ONE_DEVICE)):
        # the last token of a row is only a target
        rows = [[ids.tolist()] for ids in ids_BL]
        batch = batch_on(mesh, token_batch(rows, L=ids_BL.shape[1] - 1))
        gradient_of = quick_jit(jax.value_and_grad(loss, has_aux=True))
        (_, logits_BLV), gradient = gradient_of(trainable, batch)

    logits_BLV = logits_BLV[..., : sizes.vocab_size]
    np.testing.assert_allclose(logits_BLV, reference["logits"][:, :-1], rtol=0, atol=1e-4)
    expected = in_our_names(trainable, reference, "gradient")
    for (path, ours), theirs in zip(
        jax.tree.leaves_with_path(gradient), jax.tree.leaves(expected), strict=True
    ):
        error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        assert error < 1e-4, (path, error)
    n_theirs = sum(x.size for name, x in reference.items() if name.startswith("factor."))
    assert sum(x.size for x in jax.tree.leaves(trainable)) == n_theirs


@EVERY
def test_the_scale_and_the_merged_weight_are_those_of_peft(name):
    _, adaptation, trainable, frozen, reference = adapted(name)
    assert adaptation.scale == pytest.approx(float(reference["scale"]), rel=1e-15)
    with jax.set_mesh(under(ONE_DEVICE)):
        dense = adaptation.dense(adaptation.merge(trainable, frozen))
    wk_DKA = jnp.array(dense["blocks"]["attention"]["wk_NDKA"])[1]
    if "merged.1.k_proj" in reference:
        theirs_DK = reference["merged.1.k_proj"].T
        np.testing.assert_allclose(wk_DKA.reshape(theirs_DK.shape), theirs_DK, rtol=0, atol=1e-6)
    else:
        assert np.array_equal(wk_DKA, frozen["blocks"]["attention"]["wk_NDKA"][1])
