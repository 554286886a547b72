"""Makes tests/data/hugging_face: tiny models of every family with random weights, and the logits that
transformers computes with them.

Not run by any test and no dependency of ours: it needs `torch==2.13.0 transformers==5.23.0 safetensors
numpy` in an environment of its own
(Python 3.11 will do), takes a minute on a CPU, and writes the folders that tests/model/test_hugging_face.py
reads:

    python tests/oracles/make_hugging_face.py tests/data/hugging_face

Norm scales and biases are not trivial, so that one left out shows. Router margins are at least MARGIN on
the reference tokens, so that rounding cannot choose another expert.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

MARGIN = 2e-3
SIZES = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    "initializer_range": 0.3,
}
GEMMA = {
    "head_dim": 12,
    "query_pre_attn_scalar": 20,
    "sliding_window": 7,
    "tie_word_embeddings": True,
}
QWEN3_MOE = {
    "head_dim": 12,
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 20,
}
DEEPSEEK = {
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 8,
    "v_head_dim": 14,
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "moe_intermediate_size": 20,
    "num_experts_per_tok": 3,
    "num_nextn_predict_layers": 0,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 8.0,
    "beta_slow": 1.0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

# folder -> what differs from SIZES
VARIANTS = {
    "llama_untied_gqa": {"model_type": "llama"},
    "llama_tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama_mha": {"model_type": "llama", "num_key_value_heads": 4, "dtype": "bfloat16"},
    "llama_mqa": {"model_type": "llama", "num_key_value_heads": 1, "dtype": "bfloat16"},
    "llama_head_dim16": {"model_type": "llama", "head_dim": 16, "dtype": "bfloat16"},
    "llama_llama3": {"model_type": "llama", "rope_parameters": {"rope_theta": 500000.0, **LLAMA3}},
    "llama_linear": {
        "model_type": "llama",
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "linear", "factor": 4.0},
    },
    "llama_yarn": {"model_type": "llama", "rope_parameters": {"rope_theta": 10000.0, **YARN}},
    "mistral": {"model_type": "mistral", "sliding_window": 7, "head_dim": 12},
    "qwen2": {
        "model_type": "qwen2",
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},
    },
    "qwen3": {
        "model_type": "qwen3",
        "head_dim": 12,
        "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},
    },
    "gemma2": {
        "model_type": "gemma2",
        **GEMMA,
        "num_hidden_layers": 3,
        "attn_logit_softcapping": 4.0,
        "final_logit_softcapping": 6.0,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        **GEMMA,
        "num_hidden_layers": 8,
        "intermediate_size": 24,
        "rope_parameters": {
            "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
            "full_attention": {"rope_theta": 1000000.0, "rope_type": "linear", "factor": 8.0},
        },
    },
    "mixtral": {
        "model_type": "mixtral",
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
        "intermediate_size": 24,
        "dtype": "bfloat16",
    },
    "qwen3_moe": {"model_type": "qwen3_moe", **QWEN3_MOE, "norm_topk_prob": True},
    "qwen3_moe_unnormed": {
        "model_type": "qwen3_moe",
        **QWEN3_MOE,
        "norm_topk_prob": False,
        "dtype": "bfloat16",
    },
    "deepseek_v3": {
        "model_type": "deepseek_v3",
        **DEEPSEEK,
        "q_lora_rank": 12,
        "n_group": 4,
        "topk_group": 2,
        "n_shared_experts": 2,
        "routed_scaling_factor": 2.5,
        "rope_parameters": {"rope_theta": 10000.0, **YARN, "mscale": 1.0, "mscale_all_dim": 0.7},
    },
    "deepseek_v3_no_q_lora": {
        "model_type": "deepseek_v3",
        **DEEPSEEK,
        "q_lora_rank": None,
        "n_group": 1,
        "topk_group": 1,
        "n_shared_experts": 1,
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.5,
        "rope_interleave": False,
        "dtype": "bfloat16",
    },
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": 101,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.3,
    },
}


def random_model(differing: dict) -> torch.nn.Module:
    """The model of a variant with weights that its stored type holds exactly, computing in float32."""
    torch.manual_seed(0)
    common = {} if differing["model_type"] == "gpt2" else SIZES  # its sizes have names of their own
    config = AutoConfig.for_model(**{**common, **differing})
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=torch.float32
    ).eval()
    stored = getattr(torch, differing.get("dtype", "float32"))
    with torch.no_grad():
        for name, x in [*model.named_parameters(), *model.named_buffers()]:
            if any(part in name for part in ("norm", "ln_", "bias")) and x.is_floating_point():
                x.add_(0.2 * torch.randn_like(x))
            elif name.endswith("mlp.gate.weight"):
                x.copy_(0.3 * torch.randn_like(x))
            if "inv_freq" not in name:
                x.copy_(x.to(stored).to(torch.float32))
    return model


def least_margin(model: torch.nn.Module, ids: torch.Tensor) -> float:
    """The smallest distance, over all routers and tokens, between a chosen score and the best one not
    chosen.
    """
    margins = [float("inf")]

    def gap(scores: torch.Tensor, k: int) -> None:
        ordered = scores.sort(-1, descending=True).values
        if k < scores.shape[-1]:
            margins.append(float((ordered[..., k - 1] - ordered[..., k]).min()))

    def watch(router: torch.nn.Module, inputs: tuple, _: object) -> None:
        logits = torch.nn.functional.linear(
            inputs[0].reshape(-1, inputs[0].shape[-1]), router.weight
        )
        if not hasattr(router, "e_score_correction_bias"):
            return gap(logits.softmax(-1), router.top_k)
        scores = (logits.sigmoid() + router.e_score_correction_bias).view(
            len(logits), router.num_group, -1
        )
        groups = scores.topk(2, -1).values.sum(-1)
        gap(groups, router.topk_group)
        kept = torch.zeros_like(groups).scatter(1, groups.topk(router.topk_group, -1).indices, 1.0)[
            ..., None
        ]
        return gap((scores + (kept - 1) * 1e9).flatten(1), router.top_k)

    hooks = [
        m.register_forward_hook(watch) for m in model.modules() if "Router" in type(m).__name__
    ]
    model(ids)
    for hook in hooks:
        hook.remove()
    return min(margins)


def reference_ids(model: torch.nn.Module) -> torch.Tensor:
    """2 rows of 24 tokens on which no router is close to another choice."""
    for seed in range(123, 1123):
        ids = torch.randint(
            3, SIZES["vocab_size"], (2, 24), generator=torch.Generator().manual_seed(seed)
        )
        if least_margin(model, ids) >= MARGIN:
            return ids
    raise ValueError(f"no tokens with router margins of {MARGIN}")


def packed_and_padded(model: torch.nn.Module, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Row 0 as two packed documents (10 and 14 tokens), and row 1 cut to 17 tokens behind 7 of padding."""
    segments = torch.tensor([0] * 10 + [1] * 14)
    positions = torch.cat([torch.arange(10), torch.arange(14)])[None]
    seen = (segments[:, None] == segments[None, :]) & torch.tril(
        torch.ones(24, 24, dtype=torch.bool)
    )
    bias = torch.zeros(1, 1, 24, 24).masked_fill(~seen[None, None], torch.finfo(torch.float32).min)
    left_ids, left_mask = ids.clone(), torch.ones_like(ids)
    left_ids[1], left_mask[1, :7] = torch.cat([torch.zeros(7, dtype=torch.long), ids[1, :17]]), 0
    left_positions = (left_mask.cumsum(-1) - 1).clamp(min=0)
    return {
        "packed_logits": model(ids[:1], attention_mask=bias, position_ids=positions).logits[0],
        "packed_segments": segments,
        "packed_positions": positions[0],
        "left_ids": left_ids,
        "left_mask": left_mask,
        "left_logits": model(
            left_ids, attention_mask=left_mask, position_ids=left_positions
        ).logits,
    }


def write(folder: Path, differing: dict) -> str:
    """One folder; returns its line of the list."""
    model = random_model(differing)
    with torch.no_grad():
        ids = reference_ids(model)
        arrays = {"ids": ids, "logits": model(ids).logits}
        if differing["model_type"] == "llama":
            arrays |= packed_and_padded(model, ids)
        margin, spread = least_margin(model, ids), float(arrays["logits"].std())
    model.to(getattr(torch, differing.get("dtype", "float32"))).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    np.savez(folder / "ref.npz", **{name: x.numpy() for name, x in arrays.items()})
    said = json.dumps({name: value for name, value in differing.items() if name != "model_type"})
    router = "" if margin == float("inf") else f", least router margin {margin:.4f}"
    return f"- `{folder.name}`: {differing['model_type']} {said}; standard deviation of the logits {spread:.2f}{router}"


def main(root: Path) -> None:
    """Every variant, and the README that lists them."""
    lines = [write(root / name, differing) for name, differing in VARIANTS.items()]
    head = [
        "# Reference models",
        "",
        f"Written by `tests/oracles/make_hugging_face.py` with torch {torch.__version__} and transformers {transformers.__version__}.",
        "Each folder: `config.json` and `model.safetensors` as transformers saves them, and `ref.npz`: `ids` (2 rows of 24 tokens) and the",
        "float32 `logits` of them. The Llama ones also hold row 0 packed as two documents (`packed_logits`, `packed_segments`,",
        "`packed_positions`) and row 1 behind 7 tokens of padding (`left_ids`, `left_mask`, `left_logits`).",
        "",
        f"Common: `{json.dumps(SIZES)}`. What differs:",
        "",
    ]
    (root / "README.md").write_text("\n".join([*head, *lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
