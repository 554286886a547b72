"""Published sizes of the Llama family, by name; a test compares their numbers of parameters with the
authors'.
"""

from typing import Any

from model.architectures.llama import Llama
from model.layers.rope_scaling import Llama3


def _llama2(**sizes: int) -> Llama:
    return Llama(vocab_size=32_000, head_width=128, context=4096, **sizes)


def _llama3(*, factor: float = 8.0, **sizes: Any) -> Llama:
    """Llama 3.1 and 3.2, whose context was extended from 8,192 to 131,072 tokens."""
    scaling = Llama3(
        factor=factor, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192
    )
    shared = {"vocab_size": 128_256, "kv_heads": 8, "context": 131_072, "rope_theta": 500_000.0}
    return Llama(**shared, rope_scaling=scaling, **sizes)


def _mistral_7b(**sizes: Any) -> Llama:
    attention = {"heads": 32, "kv_heads": 8, "head_width": 128}
    return Llama(
        width=4096, layers=32, **attention, feed_forward_width=14_336, context=32_768, **sizes
    )


def _qwen(**sizes: Any) -> Llama:
    return Llama(**{"head_width": 128, "rope_theta": 1_000_000.0, "norm_eps": 1e-6, **sizes})


def _qwen2_5(**sizes: Any) -> Llama:
    """As trained, without the YaRN scaling that the authors suggest for long texts."""
    return _qwen(**{"vocab_size": 152_064, "context": 131_072, "attention_bias": True, **sizes})


def _qwen3(**sizes: Any) -> Llama:
    return _qwen(vocab_size=151_936, kv_heads=8, context=40_960, head_norm=True, **sizes)


# the smaller sizes of Qwen2.5 pad their vocabulary less
_QWEN_SMALL = {"vocab_size": 151_936, "kv_heads": 2, "tied": True}
_QWEN_LARGE = {"kv_heads": 8, "norm_eps": 1e-5}

PRESETS = {
    "llama2_7b": _llama2(width=4096, layers=32, heads=32, kv_heads=32, feed_forward_width=11_008),
    "llama2_13b": _llama2(width=5120, layers=40, heads=40, kv_heads=40, feed_forward_width=13_824),
    "llama2_70b": _llama2(width=8192, layers=80, heads=64, kv_heads=8, feed_forward_width=28_672),
    "llama3_1_8b": _llama3(
        width=4096, layers=32, heads=32, head_width=128, feed_forward_width=14_336
    ),
    "llama3_1_70b": _llama3(
        width=8192, layers=80, heads=64, head_width=128, feed_forward_width=28_672
    ),
    "llama3_1_405b": _llama3(
        width=16_384, layers=126, heads=128, head_width=128, feed_forward_width=53_248
    ),
    # rope_scaling.factor is 32 in 3.2 and 8 in 3.1, both from 8,192 tokens
    "llama3_2_1b": _llama3(
        width=2048,
        layers=16,
        heads=32,
        head_width=64,
        feed_forward_width=8192,
        factor=32.0,
        tied=True,
    ),
    "llama3_2_3b": _llama3(
        width=3072,
        layers=28,
        heads=24,
        head_width=128,
        feed_forward_width=8192,
        factor=32.0,
        tied=True,
    ),
    "smollm2_135m": Llama(
        vocab_size=49_152,
        width=576,
        layers=30,
        heads=9,
        kv_heads=3,
        head_width=64,
        feed_forward_width=1536,
        context=8192,
        rope_theta=100_000.0,
        tied=True,
    ),
    "mistral_7b_v0_1": _mistral_7b(vocab_size=32_000, window=4096),
    # v0.2 dropped the window and raised theta; v0.3 added 768 tokens, for control and tool use
    "mistral_7b_v0_3": _mistral_7b(vocab_size=32_768, model_type="mistral", rope_theta=1_000_000.0),
    "qwen2_5_0_5b": _qwen2_5(
        **_QWEN_SMALL,
        width=896,
        layers=24,
        heads=14,
        head_width=64,
        feed_forward_width=4864,
        context=32_768,
    ),
    "qwen2_5_1_5b": _qwen2_5(
        **_QWEN_SMALL, width=1536, layers=28, heads=12, feed_forward_width=8960
    ),
    "qwen2_5_3b": _qwen2_5(
        **_QWEN_SMALL, width=2048, layers=36, heads=16, feed_forward_width=11_008, context=32_768
    ),
    "qwen2_5_7b": _qwen2_5(width=3584, layers=28, heads=28, kv_heads=4, feed_forward_width=18_944),
    "qwen2_5_14b": _qwen2_5(
        **_QWEN_LARGE, width=5120, layers=48, heads=40, feed_forward_width=13_824
    ),
    "qwen2_5_32b": _qwen2_5(
        **_QWEN_LARGE, width=5120, layers=64, heads=40, feed_forward_width=27_648
    ),
    "qwen2_5_72b": _qwen2_5(
        **_QWEN_LARGE, width=8192, layers=80, heads=64, feed_forward_width=29_568
    ),
    "qwen3_0_6b": _qwen3(width=1024, layers=28, heads=16, feed_forward_width=3072, tied=True),
    "qwen3_1_7b": _qwen3(width=2048, layers=28, heads=16, feed_forward_width=6144, tied=True),
    "qwen3_4b": _qwen3(width=2560, layers=36, heads=32, feed_forward_width=9728, tied=True),
    "qwen3_8b": _qwen3(width=4096, layers=36, heads=32, feed_forward_width=12_288),
    "qwen3_14b": _qwen3(width=5120, layers=40, heads=40, feed_forward_width=17_408),
    "qwen3_32b": _qwen3(width=5120, layers=64, heads=64, feed_forward_width=25_600),
}
