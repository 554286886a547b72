"""Makes tests/data/peft: what PEFT computes with LoRA adapters on the tiny Llama of
tests/data/hugging_face/llama_untied_gqa.

Not run by any test and no dependency of ours: it needs `torch==2.13.0 transformers==5.23.0 peft==0.21.2
safetensors numpy` in an environment of its own (Python 3.11 will do), takes some seconds on a CPU, and
writes the files that tests/model/test_adapt_parity.py reads:

    python tests/oracles/make_peft.py tests/data/hugging_face/llama_untied_gqa tests/data/peft

Factors are drawn from one seed, `b` included, so that no update is zero.
"""

import copy
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import peft
import torch
import transformers

RANK, ALPHA = 3, 6.0  # neither the scale alpha / rank nor alpha / sqrt(rank) is 1
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")

# file -> (targets, rslora)
VARIANTS = {
    "all_matrices": ((*ATTENTION, *FEED_FORWARD), False),
    "rslora": ((*ATTENTION, *FEED_FORWARD), True),
    "query_and_value": (("q_proj", "v_proj"), False),
}
IN_FULL = "model.layers.1.self_attn.k_proj"  # the merged weight that is stored


def adapted(base: torch.nn.Module, targets: tuple[str, ...], rslora: bool) -> peft.PeftModel:
    """The model with factors that change its logits."""
    settings = peft.LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        use_rslora=rslora,
        target_modules=list(targets),
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(copy.deepcopy(base), settings).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, x in model.named_parameters():
            if "lora_" in name:
                x.copy_(0.1 * torch.randn_like(x))
    return model


def gradients(model: peft.PeftModel, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of the mean loss of next tokens, by every trained factor."""
    model(ids, labels=ids).loss.backward()
    return {name: x.grad for name, x in model.named_parameters() if x.requires_grad}


def short(name: str) -> str:
    """`base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight` -> `0.up_proj.A`."""
    words = name.split(".")
    layer = words[words.index("layers") + 1]
    factor = next(word for word in words if word.startswith("lora_"))
    return f"{layer}.{words[words.index(factor) - 1]}.{factor[-1]}"


def write(file: Path, base: torch.nn.Module, targets: tuple[str, ...], rslora: bool) -> str:
    """One file; returns its line of the list."""
    model = adapted(base, targets, rslora)
    ids = torch.randint(3, base.config.vocab_size, (2, 9), generator=torch.manual_seed(123))
    arrays = {"ids": ids, "rank": torch.tensor(RANK), "alpha": torch.tensor(ALPHA)}
    with torch.no_grad():
        arrays["logits"] = model(ids).logits
        moved = float((arrays["logits"] - base(ids).logits).abs().max())
    for name, gradient in gradients(model, ids).items():
        arrays[f"gradient.{short(name)}"] = gradient
    for name, x in model.named_parameters():
        if "lora_" in name:
            arrays[f"factor.{short(name)}"] = x.detach()
    layer = model.get_submodule(f"base_model.model.{IN_FULL}") if "k_proj" in targets else None
    is_lora = peft.tuners.lora.LoraLayer
    scaling = next(m.scaling["default"] for m in model.modules() if isinstance(m, is_lora))
    arrays["scale"] = torch.tensor(scaling, dtype=torch.float64)
    if layer is not None:
        merged = model.merge_and_unload().get_submodule(IN_FULL)
        arrays["merged.1.k_proj"] = merged.weight.detach()
    np.savez_compressed(file, **{name: x.numpy() for name, x in arrays.items()})
    n_trained = sum(x.numel() for name, x in arrays.items() if name.startswith("factor."))
    what = f"{', '.join(targets)}; scale {scaling:.6f}, {n_trained} numbers trained"
    return f"- `{file.stem}`: {what}; the adapter moves logits by up to {moved:.2f}"


def main(folder: Path, out: Path) -> None:
    """Every variant, and the README that lists them."""
    out.mkdir(parents=True, exist_ok=True)
    base = transformers.LlamaForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()
    lines = [write(out / f"{name}.npz", base, *how) for name, how in VARIANTS.items()]
    versions = (
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"peft {peft.__version__}"
    )
    head = [
        "# LoRA by PEFT",
        "",
        f"Written by `tests/oracles/make_peft.py` with {versions}",
        f"on `hugging_face/{folder.name}`, rank {RANK}, alpha {ALPHA}. Each file: `ids` (2 rows of 9 tokens) and the float32 `logits`",
        "of the model with its adapter; `factor.LAYER.MATRIX.A` and `.B` as PEFT stores them, `gradient.…` of each by the mean loss of",
        "next tokens; `scale`, PEFT's factor of B·A; `merged.1.k_proj`, that weight after `merge_and_unload`.",
        "",
    ]
    (out / "README.md").write_text("\n".join([*head, *lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
