"""Laws of experts whose matrices are a base and a low-rank update, on meshes that divide them."""

from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from model.adapt import LoRA
from model.layers.rows import Rows
from model.layers.weight import in_use
from model.sharding import letters_of, named, shard
from tests.examples import ONE_DEVICE, quick_jit, under
from tests.model.moe_layer import ROOM, host_params, host_rows, loss_of, make, relative

CASES = [  # (capacity factor, mesh, base)
    (None, {"expert": 2, "tensor": 2, "data": 2}, "as_is"),
    (ROOM, {"expert": 2, "fsdp": 2, "tensor": 2}, "int8"),
]


@cache
def results(
    factor: float | None, sizes: tuple[tuple[str, int], ...], base: str, dense: bool
) -> Any:
    """(loss, gradients by the factors) of one layer."""
    adaptation, mesh = LoRA(rank=3, alpha=6.0, base=base), under(dict(sizes))
    x_BLD, segments_BL = host_rows()
    rng = np.random.default_rng(4)

    def put(path: Any, x: Any) -> jax.Array:
        x = rng.normal(0, 0.2, x.shape).astype(np.float32) if path[-1].key.startswith("b_") else x
        return jax.device_put(x, named(mesh, letters_of(path[-1].key), x.shape, at_rest=True))

    with jax.set_mesh(mesh):
        definition = nnx.split(nnx.eval_shape(lambda: make(factor=factor)))[0]
        params = jax.tree.map_with_path(put, host_params())
        trainable, frozen = jax.jit(adaptation.split)(params, jax.random.key(0))
        trainable = jax.tree.map_with_path(put, trainable)

        def loss(trainable: Any, x_BLD: jax.Array, segments_BL: jax.Array) -> jax.Array:
            merged = adaptation.merge(trainable, frozen)
            merged = adaptation.dense(merged) if dense else merged
            layer = nnx.merge(definition, in_use(merged, "float32"))
            y_BLD, aux = layer(shard(x_BLD, "BLD"), Rows(segments_BL, segments_BL, {}))
            return loss_of(y_BLD, aux)

        x_BLD = jax.device_put(x_BLD, named(mesh, "BLD"))
        segments_BL = jax.device_put(segments_BL, named(mesh, "BL"))
        value, gradients = quick_jit(jax.value_and_grad(loss))(trainable, x_BLD, segments_BL)
    return jax.tree.map(np.asarray, (value, gradients))


@pytest.mark.parametrize(("factor", "mesh", "base"), CASES, ids=["dropless", "at capacity, int8"])
def test_experts_with_factors_are_those_of_plain_arrays_on_one_device(factor, mesh, base):
    loss, gradients = results(factor, tuple(mesh.items()), base, dense=False)
    expected_loss, expected = results(factor, tuple(ONE_DEVICE.items()), base, dense=True)
    assert abs(loss - expected_loss) <= 5e-6 * abs(expected_loss)
    assert set(gradients) == {"w_gate_EDF", "w_up_EDF", "w_down_EFD", "shared"}
    assert max(jax.tree.leaves(jax.tree.map(relative, gradients, expected))) <= 2e-5
