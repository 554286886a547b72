"""Logits by transformers, in a process of its own: `python reference_logits.py CHECKPOINT IDS.npy
OUT.npy CONFIG.json`.
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(checkpoint: str, ids: str, out: str, config: str) -> None:
    """Write the float32 logits [B, L, V] that transformers computes for ids [B, L]."""
    import numpy as np
    import torch

    model = _model(Path(checkpoint), Path(config))
    # With gradients torch would keep every activation.
    with torch.no_grad():
        # allow_pickle=False, because a pickle could run code.
        logits = model(torch.from_numpy(np.load(ids, allow_pickle=False))).logits
    np.save(out, logits.float().numpy(), allow_pickle=False)


def _model(checkpoint: Path, config: Path) -> Any:
    import torch
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM

    # "eager", because the default (sdpa) leaves out Gemma's soft cap. local_files_only, because
    # else a wrong folder name would be looked up on the hub.
    options = {"attn_implementation": "eager", "local_files_only": True}
    if checkpoint.is_dir():
        # from the first: a cast behind it would leave Gemma's factor of embeddings as bfloat16 has it
        name = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
        options[name] = torch.float32
        return AutoModelForCausalLM.from_pretrained(checkpoint, **options).eval()
    # A GGUF file is dequantized to float32 while it is read, and refuses a further cast.
    options["gguf_file"] = checkpoint.name
    # Of its metadata transformers leaves out how rotary positions are scaled.
    options["config"] = AutoConfig.for_model(**json.loads(config.read_bytes()))
    return AutoModelForCausalLM.from_pretrained(checkpoint.parent, **options).eval()


if __name__ == "__main__":
    main(*sys.argv[1:])
