"""Laws of what optimizers share: clipping, decay masks, averages, and whole matrices on single devices."""

import re
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from model.execution import Precision
from model.mesh import undivided
from model.sharding import AXES, letters_of, spec
from model.size import is_matrix
from tests.examples import at_rest_on, quick_jit, under
from tests.model import moe_examples
from tests.trainer.optimizer_examples import (
    CONSTANT,
    EXAMPLES,
    GRADIENT,
    PARAMS,
    compiled,
    normal,
    run,
)
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.optimizers.common.chain import averaged, clip_each, decay_mask
from trainer.optimizers.common.whole_matrices import Matrix, matrix_of, on_whole_matrices

SGD_LIKE = {"peak_lr": 0.1, "schedule": CONSTANT, "weight_decay": 0.0}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("layers.wq_NDHA", ("N", "D", "HA")),
        ("wk_ND2KA", ("N", "D", "KA")),
        ("layers.wo_NHA3D", ("N", "HA", "D")),
        ("w_up_NEDF", ("NE", "D", "F")),
        ("w_down_EFD", ("E", "F", "D")),
        ("router_NDE", ("N", "D", "E")),
        ("router_DE", ("", "D", "E")),
        ("w_embed_DD2", ("", "D", "D")),
        ("embed_VD", ("", "V", "D")),
    ],
)
def test_a_name_says_what_a_product_takes_in_and_gives(name, expected):
    assert matrix_of(name) == expected and is_matrix(name)


@pytest.mark.parametrize(
    "name", ["scale_D", "layers.scale_ND", "layers.bq_NHA", "b_down_ND", "router_bias_NE", "count"]
)
def test_scales_and_biases_are_no_matrices(name):
    assert not is_matrix(name)


def test_a_pattern_that_spares_nothing_is_told():
    with pytest.raises(
        ValueError, match=re.escape("optimizer.no_decay='embd' matches no parameter")
    ):
        decay_mask(("wq", "embd"))(PARAMS)


def test_clipping_each_shortens_every_layer_alone_and_leaves_short_ones():
    gradient = {
        "w_NDF": np.stack([normal(4, 5), 1e-3 * normal(4, 5)]),
        "scale_D": np.zeros(4, np.float32),
        "w_DF": 9 * normal(4, 5),
    }
    clipped, _ = clip_each(2.0).update(gradient, clip_each(2.0).init(gradient))
    norms = jax.tree.map(lambda x: float(jnp.linalg.norm(x.ravel())), clipped)
    assert norms["w_DF"] == pytest.approx(2.0, rel=1e-5) and norms["scale_D"] == 0
    assert float(jnp.linalg.norm(clipped["w_NDF"][0].ravel())) == pytest.approx(2.0, rel=1e-5)
    np.testing.assert_array_equal(clipped["w_NDF"][1], gradient["w_NDF"][1])
    np.testing.assert_allclose(
        clipped["w_DF"] * np.linalg.norm(gradient["w_DF"]), 2 * gradient["w_DF"], rtol=1e-5
    )


def test_without_clipping_the_length_of_a_gradient_counts():
    eps_rules = Optimizer(rule=AdamW(eps=1e6), **SGD_LIKE, clip_norm=None)
    short = run(eps_rules, [GRADIENT])[0]
    long = run(eps_rules, [jax.tree.map(lambda g: g * np.float32(100), GRADIENT)])[0]
    moved = [
        np.abs(x - y).max() / np.abs(z - y).max()
        for x, y, z in zip(*map(jax.tree.leaves, (long, PARAMS, short)), strict=True)
    ]
    assert min(moved) > 10


def test_the_average_weighs_the_parameters_after_each_step_and_changes_no_step():
    decay, gradients = 0.8, [GRADIENT, PARAMS, GRADIENT]
    optimizer = Optimizer(rule=AdamW(), **SGD_LIKE, ema_decay=decay)
    seen = [run(optimizer, gradients[:n]) for n in range(4)]
    plain, _ = run(Optimizer(rule=AdamW(), **SGD_LIKE), gradients)
    jax.tree.map(np.testing.assert_array_equal, seen[3][0], plain)
    weights = [(1 - decay) * decay ** (3 - t) / (1 - decay**3) for t in (1, 2, 3)]
    expected = jax.tree.map(
        lambda *xs: sum(w * np.float64(x) for w, x in zip(weights, xs, strict=True)),
        *(p for p, _ in seen[1:]),
    )
    found = averaged(seen[3][1], seen[3][0])
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), found, expected
    )
    jax.tree.map(np.testing.assert_array_equal, averaged(seen[0][1], None), PARAMS)


def test_without_an_average_the_parameters_are_their_own():
    params, state = run(EXAMPLES["AdamW"], [GRADIENT])
    assert averaged(state, params) is params


@pytest.mark.parametrize(
    "sizes",
    [
        {"fsdp": 4, "tensor": 2},
        {"stage": 2, "fsdp": 2, "tensor": 2},
        {"data": 2, "expert": 2, "fsdp": 2},
    ],
    ids=str,
)
def test_devices_work_on_whole_matrices_and_give_each_part_back(sizes):
    """Layers and experts do not divide over the devices; one array lies divided on one side only."""
    mesh = under(sizes)
    arrays = {
        "w_NEDF": normal(2, 4, 8, 6),
        "wo_NHAD": normal(2, 2, 3, 8),
        "wk_NDKA": normal(2, 8, 2, 3),
    }
    for name, x in arrays.items():
        stack, rows, columns = matrix_of(name)
        square = {"x": Matrix(stack, rows, columns), "product": Matrix(stack, columns, columns)}
        columns_shape = x.shape[len(stack) + len(rows) :]
        product = np.zeros((*x.shape[: len(stack)], *columns_shape, *columns_shape), np.float32)

        def multiplied(whole, factor):
            return {
                "product": factor * jnp.swapaxes(whole["x"], 1, 2) @ whole["x"] + whole["product"],
                "x": jnp.flip(whole["x"], 1),
            }

        with jax.set_mesh(mesh):
            square_name = f"p_{stack}{columns}{columns}"
            placed = at_rest_on(mesh, {name: x, square_name: product})
            fn = quick_jit(
                lambda x, square=square: on_whole_matrices(
                    multiplied, x, square, 2.0, out=list(square)
                )
            )
            found = fn({"x": placed[name], "product": placed[square_name]})
        flat = x.reshape(*x.shape[: len(stack)], -1, int(np.prod(columns_shape)))
        np.testing.assert_allclose(
            found["product"],
            2 * (np.swapaxes(flat, -1, -2) @ flat).reshape(product.shape),
            rtol=1e-4,
            atol=1e-4,
        )
        np.testing.assert_array_equal(found["x"], np.flip(flat, -2).reshape(x.shape))


def test_muon_exchanges_parts_and_gathers_nothing():
    """What lies divided is never whole on all devices: 256 columns of 16 rows would be an all-gather."""
    mesh = under({"fsdp": 4, "tensor": 2})
    with jax.set_mesh(mesh):
        init, step = compiled(EXAMPLES["Muon"], (("fsdp", 4), ("tensor", 2)))
        params = at_rest_on(mesh, PARAMS)
        text = step.lower(params, init(params), params).compile().as_text()
    assert "all-to-all" in text and "all-gather" not in text


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("divided", [True, False], ids=["divided", "undivided"])
def test_every_kind_of_parameter_has_a_state_at_rest_on_a_mesh_without_devices(name, divided):
    """DeepSeek has experts, latents, heads of three widths and layers outside of stacks; `plan` traces all
    on chips that are not here.
    """
    sizes = {"fsdp": 4, "expert": 2, "tensor": 2}
    mesh = AbstractMesh(
        tuple(sizes.get(axis, 1) for axis in AXES),
        AXES,
        axis_types=(AxisType.Explicit,) * len(AXES),
    )
    tx = EXAMPLES[name].model_copy(update={"no_decay": (), "ema_decay": 0.9}).chain(9)
    with jax.sharding.use_abstract_mesh(mesh), nullcontext() if divided else undivided():
        params = jax.eval_shape(
            moe_examples.EXAMPLES["DeepSeekV3"].build(Precision()).init,
            jax.eval_shape(lambda: jax.random.key(0)),
        )
        before = jax.eval_shape(tx.init, params)
        updates, after = jax.eval_shape(tx.update, params, before, params)
        for path, x in jax.tree.leaves_with_path((updates, after)):
            letters = letters_of(str(getattr(path[-1], "key", "")))
            assert len(letters) == x.ndim, path
            if divided and letters:
                assert x.sharding.spec == spec(letters, x.shape, at_rest=True), path
    assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(
        lambda x: (x.shape, x.dtype), after
    )
