"""The letters and the size of `shakespeare` with our defaults instead of nanoGPT's: `meshwright run
shakespeare_llama`.

Llama's block (rotary positions, SwiGLU, no biases), an output matrix of its own, Muon, a cosine to zero.
Hardware: any CPU.
Expect: a held-out loss of 1.57 nats a letter; docs/learning.md has the figures.
"""

from typing import Any

from launch.configs.shakespeare import CONTEXT, VOCAB_SIZE, data
from launch.configs.shakespeare import pretrain as shakespeare_run
from model.architectures.llama import Llama
from trainer.optimizer import Optimizer
from trainer.optimizers.muon import Muon
from trainer.run import Run
from trainer.schedules import WarmupCosine


def shakespeare_llama() -> dict[str, Any]:
    """Two phases: the text of `shakespeare`, and pretraining on its letters."""
    return {"data": data(), "pretrain": pretrain()}


def pretrain() -> Run:
    """Next letters, with another model and optimizer than `shakespeare`."""
    changed = {
        "architecture": architecture(),
        "optimizer": Optimizer(
            # b2 is that of AdamW, which Muon uses for embeddings and vectors.
            rule=Muon(b2=0.99),
            peak_lr=6e-3,
            # To zero and not to a tenth: the last steps average out the noise of a high rate.
            schedule=WarmupCosine(warmup_steps=100, end_frac=0.0),
            weight_decay=0.1,
        ),
    }
    return shakespeare_run().model_copy(update=changed)


def architecture() -> Llama:
    """840,832 parameters; `shakespeare` has 850,688."""
    sizes = {
        "width": 128,
        "layers": 4,
        "heads": 4,
        "kv_heads": 4,
        "head_width": 32,
        # Below 4 × width: SwiGLU has three matrices, GPT-2 two, and the totals should be alike.
        "feed_forward_width": 312,
    }
    return Llama(vocab_size=VOCAB_SIZE, context=CONTEXT, **sizes)
