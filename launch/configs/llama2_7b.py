"""Llama-2-7B from your own corpora: `meshwright run llama2_7b`, after `meshwright plan llama2_7b --topology
v5p:2x2x4`.

Hardware: 16 chips of TPU v5p, 4 rows of 4096 tokens a chip and step; other hardware by `--set
pretrain.data.batch_size=…`. The corpora are those of the config corpus. 131 G tokens, 20 a parameter
(Hoffmann et al. 2022). Expect: `plan` says step time, memory and days.
"""

from typing import Any

from data_pipeline.component import FrozenMap
from data_pipeline.loader import PackedShards
from data_pipeline.prepare import Prepare
from data_pipeline.tokenizers.tokenizer import SentencePiece
from launch.configs.corpus import corpus
from model.architectures.llama_presets import PRESETS
from model.execution import Execution, Remat
from trainer.checkpoints.checkpointer import Checkpoints
from trainer.evals.held_out import HeldOut
from trainer.objectives.next_token import NextToken
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.run import Run
from trainer.schedules import WarmupCosine

# Llama 2's context, and the length of a training row.
SEQ_LEN = 4096
# Shares of the tokens that are read in training, whatever the sizes of the corpora are.
WEIGHTS = FrozenMap(web=0.8, code=0.15, books=0.05)


def llama2_7b() -> dict[str, Any]:
    """Two phases: the corpora, and pretraining on their tokens."""
    return {"data": data(), "pretrain": pretrain()}


def data() -> Prepare:
    """The corpora of the config corpus, with Llama 2's size of vocabulary."""
    tokenizer = SentencePiece(
        vocab_size=PRESETS["llama2_7b"].vocab_size, model="bpe", sample_mib=256
    )
    return corpus()["data"].model_copy(update={"tokenizer": tokenizer})


def pretrain() -> Run:
    """Next tokens; the learning rate is Llama 2's (Touvron et al. 2023, section 2.2)."""
    return Run(
        architecture=PRESETS["llama2_7b"],
        objective=NextToken(),
        data=rows("data/train", batch_size=64),
        optimizer=Optimizer(
            rule=AdamW(),
            peak_lr=3e-4,
            schedule=WarmupCosine(warmup_steps=2000, end_frac=0.1),
            weight_decay=0.1,
        ),
        # 131e9 tokens / (64 rows × 4096 tokens) = 500,000 steps.
        steps=500_000,
        execution=Execution(remat=Remat(preset="full")),
        checkpoint=Checkpoints(every_steps=1000),
        # 1024 rows are 4 M tokens, the cost of some five training steps.
        evals=(HeldOut(data=rows("data/held_out", batch_size=64), max_rows=1024),),
        evaluate_every=5000,
    )


def rows(folder: str, *, batch_size: int) -> PackedShards:
    """Packed rows of the three corpora."""
    return PackedShards(folder=folder, weights=WEIGHTS, seq_len=SEQ_LEN, batch_size=batch_size)
