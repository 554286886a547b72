"""The coordinate check tells maximal updates from the standard parametrization."""

import argparse

import jax
import jax.numpy as jnp
import pytest

from launch.configs.shakespeare_llama import pretrain
from launch.configs.tiny import dpo
from launch.planning.activations import activations
from launch.planning.coordinate_check import exponent, family, measured, report
from launch.verbs.plan import add_arguments
from model.api import ModelInputs
from model.architectures.gpt2 import GPT2
from model.architectures.llama import Llama
from model.architectures.llama_presets import PRESETS
from tests.examples import (
    ONE_DEVICE,
    SIZES,
    batch_on,
    built,
    params_on,
    quick_jit,
    random_tokens,
    under,
)
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.schedules import Constant


def small_run():
    """A model whose narrowest relative is 8 wide."""
    sizes = {
        "width": 32,
        "layers": 2,
        "heads": 4,
        "kv_heads": 4,
        "head_width": 8,
        "feed_forward_width": 64,
    }
    optimizer = Optimizer(
        rule=AdamW(), peak_lr=4e-3, schedule=Constant(warmup_steps=0), weight_decay=0.1
    )
    return pretrain().model_copy(
        update={"architecture": Llama(vocab_size=30, context=16, **sizes), "optimizer": optimizer}
    )


def test_what_is_learned_grows_with_the_width_unless_updates_are_scaled():
    run = small_run()
    models = family(run.architecture)[1::2]
    widths = [architecture.width for architecture in models]
    growth = {}
    for base_width in (widths[0], None):
        sizes = measured(run, models, base_width)
        growth[base_width] = {
            name: exponent(learned[:, -1], widths) for name, learned in sizes.learned.items()
        }
    assert widths == [16, 64]
    assert abs(growth[16]["logits"]) < 0.25 and growth[None]["logits"] > 0.5
    assert all(
        abs(growth[16][name]) < 0.25
        for name in ("embedding", "attention", "feed_forward", "residual")
    )
    assert all(growth[None][name] > 0.25 for name in ("attention", "feed_forward", "residual"))


def test_activations_are_those_of_the_model():
    model = built()
    with jax.set_mesh(under(ONE_DEVICE)):
        params, batch = (
            params_on(jax.sharding.get_mesh()),
            batch_on(jax.sharding.get_mesh(), random_tokens(B=2, L=10)),
        )
        inputs = ModelInputs(batch.tokens_BL, batch.positions_BL, batch.segments_BL)
        found, hidden_BLD = quick_jit(lambda params: activations(model, params, batch))(params)
        wanted_BLD = quick_jit(model.apply)(params, inputs).hidden_BLD
        embedding_BLD = params["embed_VD"][batch.tokens_BL]
    assert jnp.allclose(hidden_BLD, wanted_BLD, atol=1e-5) and jnp.allclose(
        found["embedding"], embedding_BLD
    )
    assert (
        found["attention"].shape
        == found["feed_forward"].shape
        == (SIZES.layers, 2, 10, SIZES.width)
    )
    before_last = found["embedding"] + jnp.sum(
        found["attention"][:-1] + found["feed_forward"][:-1], 0
    )
    assert jnp.allclose(found["residual"], before_last, atol=1e-5), (
        "every layer adds what its parts give"
    )


@pytest.mark.parametrize(
    "architecture",
    [
        PRESETS["llama2_7b"],
        PRESETS["smollm2_135m"],
        GPT2(vocab_size=9, width=48, layers=9, heads=6, feed_forward_width=192, context=8),
    ],
)
def test_a_family_keeps_head_width_and_proportions(architecture):
    found = family(architecture)
    assert [each.width // found[0].width for each in found] == [1, 2, 4, 8]
    for each in found:
        assert each.head_width == architecture.head_width and not each.tied and each.layers == 2
        assert (
            each.width * architecture.feed_forward_width
            == each.feed_forward_width * architecture.width
        )
        if "kv_heads" in type(architecture).model_fields:
            assert each.heads * architecture.kv_heads == each.kv_heads * architecture.heads


def test_exponent_is_the_slope_in_logarithms():
    assert exponent([3.0, 6.0, 12.0], [8, 16, 32]) == pytest.approx(1.0)
    assert exponent([3.0, 3.0, 3.0], [8, 16, 32]) == pytest.approx(0.0)


def test_a_phase_without_rows_of_tokens_is_refused():
    with pytest.raises(
        ValueError,
        match="objective.type=DPO does not read rows of tokens; name another phase with --phase",
    ):
        report(dpo())


def test_plan_wants_a_topology_or_the_check_and_not_both(capsys):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.parse_args(["tiny", "--coordinate-check"]).topology is None
    for wrong in (["tiny"], ["tiny", "--coordinate-check", "--topology", "h100:8"]):
        with pytest.raises(SystemExit):
            parser.parse_args(wrong)
    assert "not allowed with argument" in capsys.readouterr().err
