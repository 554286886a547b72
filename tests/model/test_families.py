"""Laws of the families: every mesh gives the loss and gradients of one device, presets have their published
sizes.
"""

import jax
import pytest
from pydantic import ValidationError

from data_pipeline.component import components_in
from model.api import padded
from model.architectures.gemma import Gemma3
from model.architectures.gpt2 import GPT2
from model.architectures.llama import Llama
from model.execution import Precision
from model.sharding import axes_of
from model.size import flops_per_token_of, n_matmul_params, n_params
from tests.examples import ONE_DEVICE, under
from tests.model.matrix import CASES, FAMILIES, errors, loss_and_gradient
from tests.model.presets import presets

# one or two meshes a family, of rows of one length (so that one reference serves them), and every mesh at
# least once; the rest is slow
QUICK = ((0, 5), (1, 7), (2, 4), (9,), (2, 6), (8,), (1, 3))
SAMPLE = {family: [CASES[i] for i in quick] for family, quick in zip(FAMILIES, QUICK, strict=True)}
MATRIX = [
    pytest.param(
        family,
        case,
        id=f"{family}: {case}",
        marks=() if case in SAMPLE[family] else pytest.mark.slow,
    )
    for family in FAMILIES
    for case in CASES
]
PUBLISHED = {  # numbers of parameters, of the safetensors that the authors published
    "llama2_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
    "llama3_1_8b": 8_030_261_248,
    "llama3_1_70b": 70_553_706_496,
    "llama3_1_405b": 405_853_388_800,
    "llama3_2_1b": 1_235_814_400,
    "llama3_2_3b": 3_212_749_824,
    "smollm2_135m": 134_515_008,
    "mistral_7b_v0_1": 7_241_732_096,
    "mistral_7b_v0_3": 7_248_023_552,
    "qwen2_5_0_5b": 494_032_768,
    "qwen2_5_1_5b": 1_543_714_304,
    "qwen2_5_3b": 3_085_938_688,
    "qwen2_5_7b": 7_615_616_512,
    "qwen2_5_14b": 14_770_033_664,
    "qwen2_5_32b": 32_763_876_352,
    "qwen2_5_72b": 72_706_203_648,
    "qwen3_0_6b": 596_049_920,
    "qwen3_1_7b": 1_720_574_976,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
    "qwen3_14b": 14_768_307_200,
    "qwen3_32b": 32_762_123_264,
    "gemma2_2b": 2_614_341_888,
    "gemma2_9b": 9_241_705_984,
    "gemma2_27b": 27_227_128_320,
    "gemma3_270m": 268_098_176,
    "gemma3_1b": 999_885_952,
    "gemma3_4b": 3_880_263_168,
    "gemma3_12b": 11_766_034_176,
    "gemma3_27b": 27_009_346_304,
    "gpt2_124m": 124_439_808,
    "gpt2_350m": 354_823_168,
    "gpt2_774m": 774_030_080,
    "gpt2_1_5b": 1_557_611_200,
}
DENSE = {type(sizes) for sizes in FAMILIES.values()}
PRESETS = {name: sizes for name, sizes in presets().items() if type(sizes) in DENSE}


@pytest.mark.parametrize(("family", "case"), MATRIX)
def test_a_mesh_gives_the_loss_and_gradients_of_one_device(family, case):
    found = errors(family, case)
    assert found.loss <= 1e-6 and found.gradient <= 1e-5, found


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_has_a_gradient(family):
    _, gradient = loss_and_gradient(family, SAMPLE[family][0].on_one_device())
    unused = (
        {"blocks.attention.bk_NKA"} if family == "GPT2" else set()
    )  # without rope, no softmax sees what all keys share
    assert {name for name, g in gradient.items() if abs(g).max() < 1e-6} == unused


def test_the_meshes_hold_rows_that_divide_over_tensor_between_products_and_rows_that_do_not():
    with jax.set_mesh(under({"context": 2, "tensor": 2, "data": 2})):
        assert axes_of("l", 16) == ("context", "tensor") and axes_of("l", 10) == ("context",)
    with jax.set_mesh(under({"tensor": 8})):
        assert axes_of("l", 16) == ("tensor",) and axes_of("l", 10) == ()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_published_number_of_parameters(name):
    sizes = PRESETS[name]
    with jax.set_mesh(under(ONE_DEVICE)):
        shapes = jax.eval_shape(sizes.build(Precision()).init, jax.random.key(0))
    padding = (padded(sizes.vocab_size) - sizes.vocab_size) * sizes.width * (1 if sizes.tied else 2)
    assert n_params(shapes) - padding == PUBLISHED[name]


@pytest.mark.parametrize(
    ("family", "windows"),
    [("Gemma2", (5, None, 5)), ("Gemma3", (5, None, 5)), ("Llama", (None,) * 3)],
)
def test_flops_count_the_keys_that_each_position_of_each_layer_sees(family, windows):
    """A position counts from its middle, as in a row cut infinitely fine: position i sees i + 1/2 keys, or
    its window.
    """
    sizes, length = FAMILIES[family], 14
    seen = sum(min(i + 0.5, window or length) for window in windows for i in range(length)) / length
    with jax.set_mesh(under(ONE_DEVICE)):
        params = jax.eval_shape(sizes.build(Precision()).init, jax.random.key(0))
    assert flops_per_token_of(sizes, params, length=length) == pytest.approx(
        6 * n_matmul_params(params) + 6 * 8 * 2 * 6 * seen, rel=1e-12
    )


def test_every_published_size_is_a_preset_of_a_family():
    assert PRESETS.keys() == PUBLISHED.keys()
    assert {type(sizes) for sizes in PRESETS.values()} <= set(
        components_in("model.architectures").values()
    )


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "GPT2"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv_heads": 3}, "heads=8 is not a multiple of kv_heads=3"),
        ({"head_width": 5}, "head_width=5 is odd"),
        ({"norm_eps": 0.0}, "norm_eps"),
        ({"depth": 3}, "depth"),
    ],
)
def test_wrong_sizes_are_refused_by_name(family, change, message):
    with pytest.raises(ValidationError, match=message):
        type(FAMILIES[family])(**{**FAMILIES[family].model_dump(), **change})


def test_a_window_is_positive_and_the_heads_of_gpt2_share_its_width():
    with pytest.raises(ValidationError, match="window"):
        Llama(**{**FAMILIES["Mistral"].model_dump(), "window": 0})
    with pytest.raises(ValidationError, match="full_every"):
        Gemma3(**{**FAMILIES["Gemma3"].model_dump(), "full_every": 0})
    with pytest.raises(ValidationError, match="width=16 is not a multiple of heads=3"):
        GPT2(**{**FAMILIES["GPT2"].model_dump(), "heads": 3})
