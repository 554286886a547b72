"""Laws of the mixtures of experts: references, meshes, decoding, what evens out loads, and the sizes of the
presets.
"""

from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from model.adapt import Full
from model.api import ModelInputs
from model.architectures import deepseek_v3, mixtral
from model.execution import Precision
from model.hugging_face.checkpoint import open_folder
from model.hugging_face.deepseek import without_missing_modules
from model.hugging_face.load import load
from model.hugging_face.save import save
from model.sharding import einsum
from model.size import flops_per_token_of, mean_keys, n_matmul_params, n_params
from tests.examples import (
    ONE_DEVICE,
    batch_on,
    built,
    host_params,
    params_on,
    quick_jit,
    random_tokens,
    under,
)
from tests.model.moe_examples import EXAMPLES, MARGIN, B, L, clear_batch, least_margin
from trainer.objectives.next_token import NextToken
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.schedules import WarmupCosine
from trainer.state import new_state
from trainer.step import make_step

EVERY = pytest.mark.parametrize("name", EXAMPLES)
MESHES = (
    {"expert": 8},
    {"expert": 2, "fsdp": 4},
    {"expert": 2, "tensor": 2, "data": 2},
    {"expert": 2, "context": 2, "tensor": 2},
    {"fsdp": 8},
)
SAMPLE = {
    ("Mixtral", 1),
    ("Qwen3MoE", 3),
    ("DeepSeekV3", 2),
}  # (family, mesh): every axis in quick runs; the others are slow
MATRIX = [
    pytest.param(
        name, mesh, id=f"{name}-{mesh}", marks=[] if (name, i) in SAMPLE else [pytest.mark.slow]
    )
    for name in EXAMPLES
    for i, mesh in enumerate(MESHES)
]
FOLDERS = {
    "mixtral": mixtral.Mixtral,
    "qwen3_moe": mixtral.Qwen3MoE,
    "qwen3_moe_unnormed": mixtral.Qwen3MoE,
    "deepseek_v3": deepseek_v3.DeepSeekV3,
    "deepseek_v3_no_q_lora": deepseek_v3.DeepSeekV3,
}
REFERENCES = Path(__file__).parent.parent / "data" / "hugging_face"


@pytest.mark.parametrize("folder", FOLDERS)
def test_reading_from_a_cache_gives_the_logits_of_transformers(folder):
    checkpoint, reference = (
        open_folder(REFERENCES / folder),
        np.load(REFERENCES / folder / "ref.npz"),
    )
    sizes = FOLDERS[folder].from_hugging_face(checkpoint.config)
    positions_BL, ones_BL = (
        np.tile(np.arange(24, dtype=np.int32), (2, 1)),
        np.ones((2, 24), np.int32),
    )
    hidden = []
    with jax.set_mesh(under(ONE_DEVICE)):
        params, model = load(sizes, checkpoint, params="float32"), built(sizes)
        inputs = ModelInputs(
            *map(jnp.array, (reference["ids"].astype(np.int32), positions_BL, ones_BL))
        )
        decode, kv_cache = quick_jit(model.decode), model.empty_cache(2, 24)
        for start in (0, 8, 16):
            chunk = ModelInputs(*(x[:, start : start + 8] for x in inputs[:3]))
            hidden_BLD, kv_cache = decode(params, chunk, kv_cache)
            hidden.append(hidden_BLD)
        logits_BLV = einsum("BLD,DV->BLV", jnp.concatenate(hidden, 1), model.unembed(params))
    np.testing.assert_allclose(
        logits_BLV[..., : sizes.vocab_size], reference["logits"], rtol=0, atol=1e-4
    )


def test_prediction_modules_go_out_as_layers_behind_the_last_and_come_back(tmp_path):
    """With the embedding and the output matrix repeated in them, as the authors' checkpoints have it."""
    sizes = EXAMPLES["DeepSeekV3"]
    with jax.set_mesh(under(ONE_DEVICE)):
        params = params_on(under(ONE_DEVICE), sizes)
        save(sizes, params, tmp_path / "out", dtype="float32", max_shard_bytes=100_000, files={})
        checkpoint = open_folder(tmp_path / "out")
        names = checkpoint.shapes()
        back = load(sizes, checkpoint, params="float32")
    behind = {
        name.removeprefix("model.layers.3.") for name in names if name.startswith("model.layers.3.")
    }
    assert {
        "enorm.weight",
        "hnorm.weight",
        "eh_proj.weight",
        "shared_head.norm.weight",
        "mlp.gate.e_score_correction_bias",
    } < behind
    assert {"embed_tokens.weight", "shared_head.head.weight"} < behind and names[
        "model.layers.3.eh_proj.weight"
    ] == (16, 32)
    for (path, x), (_, y) in zip(
        jax.tree.leaves_with_path(back), jax.tree.leaves_with_path(params), strict=True
    ):
        in_vocabulary = (
            np.s_[: sizes.vocab_size]
            if path[-1].key == "embed_VD"
            else np.s_[..., : sizes.vocab_size]
        )
        kept = in_vocabulary if "V" in path[-1].key[-2:] else np.s_[:]
        np.testing.assert_array_equal(np.array(x)[kept], np.array(y)[kept], err_msg=str(path))
    again = type(sizes).from_hugging_face(checkpoint.config)
    assert again == sizes.model_copy(update={"bias_rate": 0.0})
    own_names = [name for name in names if not name.startswith("model.layers.3.")]
    assert without_missing_modules(checkpoint.config, names) == checkpoint.config
    assert type(sizes).from_hugging_face(
        without_missing_modules(checkpoint.config, own_names)
    ) == again.model_copy(update={"mtp_layers": 0})


def test_a_config_survives_the_way_out_and_back():
    for folder, family in FOLDERS.items():
        sizes = family.from_hugging_face(open_folder(REFERENCES / folder).config)
        assert family.from_hugging_face(sizes.to_hugging_face()) == sizes


@EVERY
def test_the_routers_of_the_batches_choose_clearly(name):
    assert least_margin(name, clear_batch(name)) >= MARGIN


@cache
def loss_and_gradient(name: str, mesh: tuple, balance_loss: float | None = None) -> Any:
    sizes = (
        EXAMPLES[name]
        if balance_loss is None
        else EXAMPLES[name].model_copy(update={"balance_loss": balance_loss})
    )

    def loss(params, batch):
        objective = NextToken(mtp_weight=0.3)
        loss = objective.loss(
            {"policy": (built(sizes), params)},
            batch,
            objective.denominators(batch),
            jax.random.key(0),
        )
        return loss.total, loss.aux

    with jax.set_mesh(under(dict(mesh))):
        params, batch = (
            params_on(under(dict(mesh)), sizes),
            batch_on(under(dict(mesh)), clear_batch(name)),
        )
        (total, aux), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(params, batch)
        return total, jax.tree.map(np.array, aux), jax.tree.map(np.array, gradient)


@pytest.mark.parametrize(("name", "mesh"), MATRIX)
def test_a_mesh_gives_the_loss_loads_and_gradients_of_one_device(name, mesh):
    same(*(loss_and_gradient(name, tuple(sizes.items())) for sizes in (mesh, ONE_DEVICE)))


@pytest.mark.slow
@EVERY
def test_stages_give_those_too_but_for_the_balance_loss_which_is_one_of_each_micro_batch(name):
    same(
        *(
            loss_and_gradient(name, tuple(sizes.items()), 0.0)
            for sizes in ({"stage": 2, "expert": 2, "fsdp": 2}, ONE_DEVICE)
        )
    )


def same(found: Any, wanted: Any) -> None:
    """Loss, auxiliary sums and gradients."""
    (loss, aux, gradient), (expected_loss, expected_aux, expected) = found, wanted
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), aux, expected_aux)
    for (path, g), (_, h) in zip(
        jax.tree.leaves_with_path(gradient), jax.tree.leaves_with_path(expected), strict=True
    ):
        if path[-1].key.startswith("router_bias"):
            assert not g.any() and not h.any(), path
        else:
            assert np.linalg.norm(h) > 0, path
            assert np.linalg.norm(g - h) <= 1e-5 * np.linalg.norm(h), path


def test_router_biases_move_towards_an_even_load_and_the_optimizer_leaves_them_alone():
    """Wang et al. 2024: by the rate, up where an expert has less than the mean, down where it has more, not
    where it has the mean.
    """
    sizes = EXAMPLES["DeepSeekV3"]
    model, load_NE = (
        built(sizes),
        np.array([[3, 3, 9, 0, 3, 3, 3, 0], [4, 4, 4, 4, 4, 4, 5, 3]], np.float32),
    )
    aux = {
        "blocks": {"load_NE": load_NE},
        "mtp": {"depth1": {"load_E": load_NE[0]}},
        "penalty": np.float32(7),
    }
    with jax.set_mesh(under({"expert": 2, "fsdp": 4})):
        before = params_on(under({"expert": 2, "fsdp": 4}), sizes)
        after = quick_jit(model.after_step)(before, aux)
    moved = jax.tree.map(lambda a, b: np.array(a) - np.array(b), after, before)
    expected_NE = sizes.bias_rate * np.array([[0, 0, -1, 1, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, -1, 1]])
    np.testing.assert_allclose(
        moved["blocks"]["feed_forward"].pop("router_bias_NE"), expected_NE, atol=1e-7
    )
    np.testing.assert_allclose(
        moved["mtp"]["depth1"]["block"]["feed_forward"].pop("router_bias_E"),
        expected_NE[0],
        atol=1e-7,
    )
    assert not any(x.any() for x in jax.tree.leaves(moved))


def test_parameters_that_are_trained_alone_need_no_router_bias():
    params = {"embed_VD": jnp.ones((3, 2))}
    assert built(EXAMPLES["DeepSeekV3"]).after_step(params, {})["embed_VD"] is params["embed_VD"]


def unevenness(load_NE: np.ndarray) -> float:
    """The largest load over the mean one, of the worst layer."""
    return float((load_NE.max(-1) / load_NE.mean(-1)).max())


def test_training_evens_out_loads_through_the_bias_which_the_optimizer_never_moves():
    rate, schedule = 0.04, WarmupCosine(warmup_steps=0, end_frac=1.0)
    small = {
        "balance_loss": 0.0,
        "bias_rate": rate,
        "mtp_layers": 0,
        "layers": 2,
        "dense_layers": 0,
    }
    sizes = EXAMPLES["DeepSeekV3"].model_copy(update=small)
    model, tx = (
        built(sizes),
        Optimizer(rule=AdamW(), peak_lr=1e-3, weight_decay=0.5, schedule=schedule).chain(60),
    )
    with jax.set_mesh(under(ONE_DEVICE)):
        params = jax.tree.map(jnp.array, host_params(sizes))
        bias_NE = params["blocks"]["feed_forward"]["router_bias_NE"]
        params["blocks"]["feed_forward"]["router_bias_NE"] = bias_NE.at[:, 0].add(
            1.0
        )  # all tokens want the first expert
        first_NE, loads = np.array(params["blocks"]["feed_forward"]["router_bias_NE"]), []
        state = new_state(model, Full(), tx, jax.random.key(0), params)
        step = make_step({"policy": model}, NextToken(), Full(), tx, micro_batches=2)
        seen = quick_jit(
            lambda params, inputs: model.apply(params, inputs).aux["blocks"]["load_NE"]
        )
        for i in range(61):
            batch = batch_on(under(ONE_DEVICE), random_tokens(B=B, L=L, seed=i))
            if i % 60 == 0:
                loads.append(
                    np.array(
                        seen(
                            state.trainable,
                            ModelInputs(batch.tokens_BL, batch.positions_BL, batch.segments_BL),
                        )
                    )
                )
            state, _ = step(state, batch)
        last_NE = np.array(state.trainable["blocks"]["feed_forward"]["router_bias_NE"])
    assert unevenness(loads[0]) > 2.5 and unevenness(loads[1]) < 0.7 * unevenness(loads[0])
    n_moves_NE = (last_NE - first_NE) / rate
    np.testing.assert_allclose(n_moves_NE, np.round(n_moves_NE), atol=1e-3)
    assert np.abs(n_moves_NE).max() > 10


SHAPES = (  # preset, all parameters and those that a token meets, in 1e9, as the authors say
    ("mixtral_8x7b", 46.7, 12.9),
    ("mixtral_8x22b", 140.6, 39.1),
    ("qwen3_30b_a3b", 30.5, 3.3),
    ("qwen3_235b_a22b", 235.1, 22.2),
    ("deepseek_v3", 671.0, 37.0),
)


@pytest.mark.parametrize(("preset", "n_all", "n_active"), SHAPES)
def test_presets_have_the_sizes_of_their_authors(preset, n_all, n_active):
    """DeepSeek-V3 counts its 671 B without the prediction module; the embedding counts as active."""
    sizes = {**mixtral.PRESETS, **deepseek_v3.PRESETS}[preset]
    params = shapes_of(sizes)
    params.pop("mtp", None)
    assert round(n_params(params) / 1e9, 1) == n_all
    active = n_matmul_params(params, top_k=sizes.top_k) + sizes.width * sizes.vocab_size
    assert abs(active / 1e9 / n_active - 1) < 0.02


def shapes_of(sizes: Any) -> Any:
    with jax.set_mesh(under(ONE_DEVICE)):
        return jax.eval_shape(sizes.build(Precision()).init, jax.random.key(0))


def test_the_prediction_module_of_deepseek_v3_has_its_size():
    assert (
        round(n_params(shapes_of(deepseek_v3.PRESETS["deepseek_v3"])["mtp"]) / 1e9, 1) == 11.6
    )  # README_WEIGHTS: 11.5


def test_flops_count_active_experts_both_widths_of_latent_attention_and_further_tokens():
    sizes = EXAMPLES["DeepSeekV3"]
    attention = 16 * 24 + 24 * 4 * (6 + 4) + 16 * (8 + 4) + 8 * 4 * (6 + 10) + 4 * 10 * 16
    experts = 16 * 8 + (3 + 1) * 3 * 16 * 14
    products = (
        128 * 16
        + 3 * attention
        + 3 * 16 * 20
        + 2 * experts
        + (2 * 16 * 16 + attention + experts + 128 * 16)
    )
    assert (
        flops_per_token_of(sizes, shapes_of(sizes), length=10)
        == 6 * products + 6 * 4 * 4 * (6 + 4 + 10) * 5
    )


def test_a_window_bounds_the_keys_that_are_counted():
    assert mean_keys(20, None) == mean_keys(20, 20) == mean_keys(20, 30) == 10
    assert (
        mean_keys(20, 5) == 4.375
    )  # of a row without end to its fineness: a triangle of 5 · 5 / 2, then 15 · 5
    wide, narrow = (
        EXAMPLES["Mixtral"].model_copy(update={"window": window}) for window in (None, 5)
    )
    difference = flops_per_token_of(wide, shapes_of(wide), length=20) - flops_per_token_of(
        narrow, shapes_of(narrow), length=20
    )
    assert difference == 6 * 4 * 12 * 2 * (10 - 4.375)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("Mixtral", {"top_k": 9}, "top_k=9"),
        ("Mixtral", {"kv_heads": 3}, "heads=4 is not a multiple of kv_heads=3"),
        ("Mixtral", {"capacity_factor": 0.0}, "capacity_factor"),
        ("Qwen3MoE", {"expert_weights": "equal"}, "expert_weights"),
        ("DeepSeekV3", {"n_groups": 3}, "n_groups=3"),
        ("DeepSeekV3", {"top_groups": 5}, "top_groups=5"),
        ("DeepSeekV3", {"dense_layers": 3}, "dense_layers=3 leaves none of layers=3"),
        ("DeepSeekV3", {"rope_width": 5}, "rope_width=5 is odd"),
        ("DeepSeekV3", {"bias_rate": -0.1}, "bias_rate"),
    ],
)
def test_wrong_sizes_are_refused_by_name(name, change, message):
    with pytest.raises(ValidationError, match=message):
        type(EXAMPLES[name])(**{**EXAMPLES[name].model_dump(), **change})


@pytest.mark.parametrize(
    ("folder", "change"),
    [
        ("mixtral", {"hidden_act": "gelu"}),
        ("qwen3_moe", {"mlp_only_layers": [0]}),
        ("qwen3_moe", {"decoder_sparse_step": 2}),
        ("deepseek_v3", {"scoring_func": "softmax"}),
        ("deepseek_v3", {"attention_bias": True}),
    ],
)
def test_a_config_that_asks_for_another_computation_is_refused(folder, change):
    config = open_folder(REFERENCES / folder).config
    with pytest.raises(ValueError, match=next(iter(change))):
        FOLDERS[folder].from_hugging_face({**config, **change})
