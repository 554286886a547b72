"""What the bench of training measures: shapes by name, or those of a Run."""

from typing import Any

from pydantic import BaseModel, PositiveInt

from data_pipeline.component import one_of
from model.architectures.gpt2 import PRESETS as GPT2_PRESETS
from model.execution import Execution, Precision
from model.sharding import Mesh
from trainer.optimizer import Optimizer

ADAMW = {
    "rule": {"type": "AdamW"},
    "peak_lr": 1e-4,
    "weight_decay": 0.1,
    "schedule": {"type": "WarmupCosine", "warmup_steps": 10, "end_frac": 0.1},
}
LLAMA_31M = {  # 31.5 M parameters in products: the shape that docs and issues quote
    "type": "Llama",
    "vocab_size": 8192,
    "width": 512,
    "layers": 8,
    "heads": 8,
    "kv_heads": 8,
    "head_width": 64,
    "feed_forward_width": 1536,
    "context": 512,
}
BATCH = {"optimizer": ADAMW, "batch_size": 8, "seq_len": 512}
SHAPES = {
    "llama_31m": {"architecture": LLAMA_31M, **BATCH},
    "gpt2_124m": {
        "architecture": {"type": "GPT2", **GPT2_PRESETS["gpt2_124m"].model_dump(mode="json")},
        **BATCH,
    },
}


class TrainShape(BaseModel, frozen=True, extra="forbid", strict=True):
    """All that decides what a step costs; the fields are those of a Run."""

    architecture: one_of("model.architectures")
    optimizer: Optimizer
    batch_size: PositiveInt
    seq_len: PositiveInt
    micro_batches: PositiveInt = 1
    precision: Precision = Precision()
    execution: Execution = Execution()
    mesh: Mesh = Mesh()


def shape_of_run(run: Any) -> dict[str, Any]:
    """The tree of the TrainShape of a Run."""
    saved = run.model_dump(mode="json")
    return {
        name: saved["data"][name] if name in saved["data"] else saved[name]
        for name in TrainShape.model_fields
    }
