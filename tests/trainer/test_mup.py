"""Maximal update parametrization: what is scaled, by how much, and what must not be."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.architectures.gpt2 import GPT2
from model.execution import Precision
from model.sharding import letters_of
from tests.examples import ONE_DEVICE, SIZES, built, host_params, params_on, quick_jit, under
from trainer.optimizers.common.mup import scale_by_width, scaled_at_birth

BASE = 4  # a quarter of the width of SIZES
HIDDEN = {"wq_NDHA", "wk_NDKA", "wv_NDKA", "wo_NHAD", "w_gate_NDF", "w_up_NDF", "w_down_NFD"}


def factors(params, base_width):
    """Name -> what updates of ones become."""
    tx = scale_by_width(base_width)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    return {path[-1].key: float(x.reshape(-1)[0]) for path, x in jax.tree.leaves_with_path(updates)}


def test_updates_of_hidden_and_output_matrices_shrink_with_the_width_and_no_others():
    found = factors(host_params(), BASE)
    assert {name for name, factor in found.items() if factor == 0.25} == {*HIDDEN, "unembed_DV"}
    assert {name for name, factor in found.items() if factor == 1.0} == {
        "embed_VD",
        "scale_D",
        "scale_ND",
    }


def test_biases_and_learned_positions_keep_their_updates():
    sizes = GPT2(
        vocab_size=40, width=16, layers=2, heads=4, feed_forward_width=24, context=8, tied=False
    )
    with jax.set_mesh(under(ONE_DEVICE)):
        shapes = jax.eval_shape(sizes.build(Precision()).init, jax.random.key(0))
    found = factors(jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes), BASE)
    kept = {name for name, factor in found.items() if factor == 1.0}
    assert {name for name in found if name.startswith(("b", "positions", "embed", "scale"))} == kept


def test_experts_and_latents_are_hidden_matrices():
    params = {
        "norm": {"scale_D": 0},
        "latent": {"scale_D2": 0},
        "w_down_NEFD": 0,
        "wk_ND2HA": 0,
        "router_NDE": 0,
        "router_bias_NE": 0,
    }
    sizes = {"N": 2, "E": 3, "F": 6, "D": 16, "H": 2, "A": 4}
    params = jax.tree.map_with_path(
        lambda path, _: np.ones([sizes[x] for x in letters_of(path[-1].key)], np.float32), params
    )
    params["latent"]["scale_D2"] = np.ones(5, np.float32)
    assert {name for name, factor in factors(params, 8).items() if factor == 0.5} == {
        "w_down_NEFD",
        "wk_ND2HA",
        "router_NDE",
    }


def test_at_the_base_width_nothing_changes():
    params = host_params()
    assert set(factors(params, SIZES.width).values()) == {1.0}
    jax.tree.map(np.testing.assert_array_equal, scaled_at_birth(params, SIZES.width), params)


@pytest.mark.parametrize("width", [16, 64, 256])
def test_standard_deviations_at_birth_go_with_the_width_as_they_must(width):
    sizes = SIZES.model_copy(
        update={
            "width": width,
            "heads": width // 4,
            "kv_heads": width // 8,
            "feed_forward_width": 2 * width,
        }
    )
    with jax.set_mesh(under(ONE_DEVICE)):
        params = quick_jit(lambda key: scaled_at_birth(built(sizes).init(key), 16))(
            jax.random.key(0)
        )
    found = {path[-1].key: float(np.std(x)) for path, x in jax.tree.leaves_with_path(params)}
    near = partial(pytest.approx, rel=0.1)
    assert found["unembed_DV"] == near(16**0.5 / width) and found["embed_VD"] == near(16**-0.5)
    fan_in = {
        "wq_NDHA": width,
        "wo_NHAD": width // 4 * 6,
        "w_up_NDF": width,
        "w_down_NFD": 2 * width,
    }
    assert {name: found[name] for name in fan_in} == near(
        {name: n**-0.5 for name, n in fan_in.items()}
    )


def test_layouts_stay():
    with jax.set_mesh(under({"fsdp": 4, "tensor": 2})):
        params = params_on(jax.sharding.get_mesh())
        scaled = quick_jit(lambda params: scaled_at_birth(params, BASE))(params)
    assert jax.tree.all(jax.tree.map(lambda x, y: x.sharding == y.sharding, scaled, params))


def test_a_tied_output_matrix_is_refused_by_the_field_to_set():
    params = host_params(SIZES.model_copy(update={"tied": True}))
    with pytest.raises(
        ValueError, match=r"optimizer.mup_base_width=8 .* set architecture.tied=false"
    ):
        scaled_at_birth(params, 8)
