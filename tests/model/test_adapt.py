"""Laws of adaptations: the same model at birth, the same numbers and gradients as with plain arrays, on every
mesh.
"""

import re
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import TypeAdapter

from data_pipeline.component import one_of
from model.adapt import Adaptation, Full, LoRA, Only
from model.api import ModelInputs
from model.architectures.gpt2 import GPT2
from model.architectures.qwen2 import Qwen2
from model.sharding import ALPHABET, einsum, letters_of
from model.size import flops_per_token_of, n_params
from tests.examples import (
    MESHES,
    ONE_DEVICE,
    SIZES,
    at_rest_on,
    batch_on,
    built,
    host_params,
    params_on,
    quick_jit,
    random_tokens,
    under,
)
from tests.model.moe_examples import EXAMPLES as MIXTURES
from trainer.objectives.next_token import NextToken

ARCHITECTURES = {
    "Llama": SIZES.model_copy(update={"layers": 4}),
    "Qwen2": Qwen2(**SIZES.model_dump(include=set(Qwen2.model_fields) - {"tied"}), tied=True),
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
    ("Qwen2", TIED, {"fsdp": 4, "tensor": 2}),
    ("GPT2", POSITIONS, {"fsdp": 8}),
    ("DeepSeekV3", SMALL, {"expert": 2, "tensor": 2, "data": 2}),
    ("Qwen3MoE", INT8, {"expert": 2, "fsdp": 2, "tensor": 2}),
]
EVERY = pytest.mark.parametrize(
    ("name", "adaptation", "mesh"), CASES, ids=[f"{n}-{a.base}-{m}" for n, a, m in CASES]
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
def loss_and_gradient(name: str, adaptation: LoRA, sizes: tuple[tuple[str, int], ...], dense: bool) -> Any:
    """Of what is trained, by name; with nodes, or with `dense` arrays."""
    objective, model, mesh = NextToken(), built(ARCHITECTURES[name]), under(dict(sizes))

    def loss(trainable: Any, frozen: Any, batch: Any) -> jax.Array:
        params = adaptation.merge(trainable, frozen)
        params = adaptation.dense(params) if dense else params
        models = {"policy": (model, params)}
        return objective.loss(models, batch, objective.denominators(batch), jax.random.key(0)).total

    with jax.set_mesh(mesh):
        trainable, frozen = trained(adaptation, name, mesh)
        batch = batch_on(mesh, random_tokens(B=B, L=L))
        value, gradient = quick_jit(jax.value_and_grad(loss))(trainable, frozen, batch)
        leaves = jax.tree.leaves_with_path(gradient)
        return float(value), {jax.tree_util.keystr(path): np.array(g) for path, g in leaves}


@EVERY
def test_on_every_mesh_loss_and_gradients_are_those_of_plain_arrays_on_one_device(name, adaptation, mesh):
    loss, gradient = loss_and_gradient(name, adaptation, tuple(mesh.items()), False)
    expected_loss, expected = loss_and_gradient(name, adaptation, (), True)
    assert loss == pytest.approx(expected_loss, rel=3e-6)
    assert gradient.keys() == expected.keys() != set()
    for leaf, values in expected.items():
        assert np.linalg.norm(gradient[leaf] - values) < 3e-5 * np.linalg.norm(values), leaf
