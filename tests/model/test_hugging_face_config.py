"""config.json of transformers 4 and 5: either is read, both are written, and what we would compute
differently is refused.
"""

import pytest

from launch.exchange.hugging_face import architecture_of
from model.architectures.gemma import Gemma2
from model.architectures.llama import Llama
from model.architectures.mixtral import Mixtral
from model.hugging_face.config import (
    head_width,
    local_and_global_fields,
    local_and_global_ropes,
    rope_fields,
    rope_of,
    size,
)
from model.hugging_face.defaults import DEFAULTS, require
from model.layers.rope import Rope
from model.layers.rope_scaling import Linear, Llama3, LongRoPE, YaRN

ROPES = {
    "default": Rope(theta=5e5),
    "linear": Rope(scaling=Linear(factor=4.0)),
    "llama3": Rope(
        scaling=Llama3(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)
    ),
    "yarn": Rope(scaling=YaRN(factor=4.0, original_context=4096)),
    "longrope": Rope(scaling=LongRoPE(factors=(1.0, 2.0), original_context=4096, table_factor=1.5)),
    "yarn with a factor": Rope(
        scaling=YaRN(
            factor=4.0, original_context=4096, beta_fast=8.0, table_factor=1.25, truncate=False
        )
    ),
}


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES)
@pytest.mark.parametrize(
    "kept",
    [
        ("rope_theta", "rope_scaling"),
        ("rope_parameters",),
        ("rope_theta", "rope_scaling", "rope_parameters"),
    ],
)
def test_a_rope_comes_back_from_either_layout_and_from_both(rope, kept):
    written = rope_fields(rope)
    assert rope_of({field: written[field] for field in kept}) == rope


def test_the_old_name_of_the_type_is_read_and_a_missing_original_length_is_the_context():
    old = {
        "rope_theta": 1e4,
        "rope_scaling": {"type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 0.5},
    }
    scaling = rope_of({**old, "max_position_embeddings": 4096}).scaling
    assert scaling.original_context == 4096
    assert scaling.table_factor == pytest.approx((0.1 * 3.6888794 + 1) / (0.05 * 3.6888794 + 1))


def test_what_nothing_says_is_the_default():
    assert rope_of({}) == Rope(theta=10_000.0)
    assert rope_of({}, default_theta=1e6) == Rope(theta=1e6)


SIZES = {
    "vocab_size": 24,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    ("architecture", "config", "expected"),
    [
        (Llama, {"model_type": "llama"}, {"rope_theta": 1e4, "norm_eps": 1e-6, "head_width": 6}),
        (
            Mixtral,
            {"num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2},
            {"rope_theta": 1e6, "norm_eps": 1e-5, "head_width": 6},
        ),
        (
            Gemma2,
            {"num_key_value_heads": 2},
            {"rope_theta": 1e4, "norm_eps": 1e-6, "head_width": 256, "window": 4096},
        ),
    ],
    ids=["llama", "mixtral", "gemma2"],
)
def test_fields_left_out_of_a_config_have_the_defaults_of_its_class_in_transformers(
    architecture, config, expected
):
    read = architecture.from_hugging_face(SIZES | config)
    assert {name: getattr(read, name) for name in expected} == expected


# What the config classes of transformers 5.23 give to a config that holds only its model_type.
THEIRS = {
    "llama": {"width": 4096, "kv_heads": 32, "head_width": 128, "context": 2048, "tied": False},
    "mistral": {"kv_heads": 8, "window": 4096, "context": 131_072, "feed_forward_width": 14_336},
    "qwen2": {"kv_heads": 32, "context": 32_768, "vocab_size": 151_936, "rope_theta": 1e4},
    "qwen3": {"head_width": 128, "kv_heads": 32, "norm_eps": 1e-6},
    "mixtral": {"experts": 8, "top_k": 2, "window": None, "norm_eps": 1e-5, "rope_theta": 1e6},
    "qwen3_moe": {"experts": 128, "top_k": 8, "kv_heads": 4, "feed_forward_width": 768},
    "gemma2": {"logit_soft_cap": 30.0, "attention_soft_cap": 50.0, "head_width": 256},
    "gemma3_text": {"full_every": 6, "window": 4096, "rope_theta": 1e6, "tied": True},
    "gpt2": {"width": 768, "feed_forward_width": 3072, "context": 1024, "tied": True},
    "deepseek_v3": {"top_groups": 4, "routed_scale": 2.5, "dense_layers": 3, "context": 4096},
}


@pytest.mark.parametrize("kind", THEIRS)
def test_a_config_of_its_model_type_alone_is_what_transformers_makes_of_it(kind):
    read = dict(architecture_of({"model_type": kind}))
    assert {name: read[name] for name in THEIRS[kind]} == THEIRS[kind]
    assert kind in DEFAULTS


def test_the_original_context_at_the_top_of_a_config_wins():
    table = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    config = {"rope_parameters": table, "original_max_position_embeddings": 16}
    assert rope_of(config).scaling.original_context == 16


@pytest.mark.parametrize(
    ("kind", "alias", "field"),
    [
        ("gpt2", "num_attention_heads", "heads"),
        ("gpt2", "num_hidden_layers", "layers"),
        ("mixtral", "num_experts", "experts"),
        ("qwen3_moe", "num_local_experts", "experts"),
        ("deepseek_v3", "num_local_experts", "experts"),
        ("deepseek_v3", "num_mtp_layers", "mtp_layers"),
    ],
)
def test_other_names_that_a_class_takes_for_its_fields_are_read(kind, alias, field):
    assert dict(architecture_of({"model_type": kind, alias: 16}))[field] == 16


def test_a_pattern_of_layers_is_read_from_the_names_that_the_class_reads():
    read = architecture_of
    assert read({"model_type": "gemma3_text", "sliding_window_pattern": 2}).full_every == 2
    # an attribute that some versions saved, and none reads
    assert read({"model_type": "gemma3_text", "_sliding_window_pattern": 2}).full_every == 6


def test_tables_of_gemma_3_without_theta_have_that_of_their_kind():
    tables = {"sliding_attention": {}, "full_attention": {"rope_type": "linear", "factor": 8.0}}
    local, full = local_and_global_ropes({"rope_parameters": tables})
    assert (local.theta, full) == (1e4, Rope(theta=1e6, scaling=Linear(factor=8.0)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": "64"}, "hidden_size='64', which must be a whole number"),
        ({"hidden_size": 64.5}, "hidden_size=64.5, which must be a whole number"),
        ({"hidden_size": True}, "hidden_size=True, which must be a whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads=0, which must be from 1"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000, which must be from 1"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan, which must be a finite number"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps=1000.*, which must be a finite number"),
        ({"rope_theta": 1e300}, r"rope_theta=1e\+300, which must be a finite number"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings='yes', which must be true or false"),
        ({"hidden_act": ["silu"]}, r"hidden_act=\['silu'\], which must be a text"),
        ({"rope_scaling": ["yarn", 4.0]}, "rope_scaling=.*, which must be an object"),
        ({"rope_scaling": {"type": "linear", "factor": "4"}}, "rope_scaling.factor='4'"),
        ({"rope_theta": "10000"}, "rope_theta='10000', which must be a finite number"),
        ({"rope_parameters": {"full_attention": {}}}, "a table in rope_parameters.full_attention"),
        ({"head_dim": 7}, "describes no Llama: head_width=7"),
        (
            {"rope_theta": 1.0, "rope_scaling": {"type": "yarn", "factor": 4.0}},
            "theta=1.0 makes all frequencies equal, which yarn cannot scale",
        ),
        ({"rope_theta": -1.0}, "describes no Rope|describes no Llama: theta=-1.0"),
        ({"model_type": ["llama"]}, "model_type="),
        ({"is_causal": False}, "is_causal=False, and only True"),
        ({"per_layer_config": {"0": {"head_dim": 4}}}, "per_layer_config=.*, and only {}"),
        ({"quantization_config": {"quant_method": "fp8"}}, "it is quantized; take the one in"),
        ({"model_type": "gemma3_text", "sliding_window_pattern": "6"}, "pattern='6', which must"),
        ({"model_type": "gpt2", "n_head": 4, "num_attention_heads": 2}, "two names of one size"),
        (
            {"model_type": "deepseek_v3", "rope_scaling": {"factor": 2, "type": "longrope"}},
            "no long_factor",
        ),
        (
            {
                "head_dim": 8,
                "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]},
            },
            "describes no Llama: rope_scaling.factors has 1 numbers, and head_width=8 has 4",
        ),
        ({"model_type": "deepseek_v3", "num_hidden_layers": 2}, "no DeepSeekV3: dense_layers=3"),
    ],
)
def test_fields_that_no_model_can_have_are_refused_in_a_sentence(config, message):
    with pytest.raises(ValueError, match=message) as error:
        architecture_of({"model_type": "llama"} | config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
            "rope_type='dynamic', and only default, linear, llama3, yarn, longrope",
        ),
        (
            {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}},
            "short_factor and long_factor differ",
        ),
        (
            {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": ["2"]}},
            "rope_scaling.long_factor='2', which must be a finite number",
        ),
        (
            {"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}},
            "high_freq_factor=4.0 is not above low_freq_factor=4.0",
        ),
        (
            {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 0.5}},
            "original_max_position_embeddings=0, which must be from 1",
        ),
        (
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor=0.5",
        ),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "twice and differently"),
        (
            {
                "rope_scaling": {"rope_type": "linear", "factor": 2.0},
                "rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 4.0},
            },
            "twice and differently",
        ),
        ({"rope_scaling": {"rope_type": "linear"}}, "no factor"),
        (
            {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}},
            "no low_freq_factor|no default|original",
        ),
    ],
)
def test_rotary_positions_that_cannot_be_had_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        rope_of(config)


@pytest.mark.parametrize(
    "everywhere", [Rope(theta=1e6), Rope(theta=1e6, scaling=Linear(factor=8.0))]
)
def test_two_ropes_come_back_from_either_layout(everywhere):
    written = local_and_global_fields(Rope(theta=1e4), everywhere)
    old = {field: value for field, value in written.items() if field != "rope_parameters"}
    new = {"rope_parameters": written["rope_parameters"]}
    for config in (old, new, written):
        assert local_and_global_ropes(config) == (Rope(theta=1e4), everywhere)


def test_two_ropes_that_no_config_can_say_are_refused():
    with pytest.raises(ValueError, match="local_rope.scaling"):
        local_and_global_fields(Rope(scaling=Linear(factor=8.0)), Rope())
    with pytest.raises(ValueError, match="rope_scaling.type='linear', .*; rename it to rope_type"):
        local_and_global_ropes({"rope_scaling": {"type": "linear", "factor": 8.0}})
    with pytest.raises(ValueError, match="no rope_parameters.full_attention"):
        local_and_global_ropes({"rope_parameters": {"sliding_attention": {"rope_theta": 1e4}}})


def test_fields_are_required_or_restricted_by_name():
    with pytest.raises(ValueError, match="hidden_act='gelu', and only 'silu'"):
        require({"hidden_act": "gelu"}, hidden_act=("silu",))
    require({"hidden_act": None}, hidden_act=("silu",), mlp_bias=(False,))
    with pytest.raises(ValueError, match="no n_head or num_attention_heads"):
        size({}, "n_head", "num_attention_heads")
    assert head_width({"head_dim": None, "hidden_size": 48, "num_attention_heads": 4}) == 12
