"""Llama-2-70B from your own corpora: `meshwright run llama2_70b`, after `meshwright plan llama2_70b
--topology v5p:4x4x8`.

Hardware: 128 chips of TPU v5p, 2 rows of 4096 tokens a chip and step; other hardware by `--set
pretrain.data.batch_size=…`. The corpora are those of the config corpus. 1.4 T tokens, 20 a parameter
(Hoffmann et al. 2022). Expect: `plan` says step time, memory and days.
"""

from typing import Any

from launch.configs.llama2_7b import data, rows
from model.architectures.llama_presets import PRESETS
from model.execution import Execution, Remat
from trainer.checkpoints.checkpointer import Checkpoints
from trainer.evals.held_out import HeldOut
from trainer.objectives.next_token import NextToken
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.run import Run
from trainer.schedules import WarmupCosine


def llama2_70b() -> dict[str, Any]:
    """Two phases: the corpora, and pretraining on their tokens."""
    return {"data": data(), "pretrain": pretrain()}


def pretrain() -> Run:
    """Next tokens; the learning rate is Llama 2's (Touvron et al. 2023, section 2.2)."""
    return Run(
        architecture=PRESETS["llama2_70b"],
        objective=NextToken(),
        # 256 rows of 4096 tokens: 1 M tokens a step, a quarter of the paper's 4 M.
        data=rows("data/train", batch_size=256),
        optimizer=Optimizer(
            rule=AdamW(),
            peak_lr=1.5e-4,
            schedule=WarmupCosine(warmup_steps=2000, end_frac=0.1),
            weight_decay=0.1,
        ),
        # 20 tokens for each of 69e9 parameters, by 256 rows × 4096 tokens a step.
        steps=1_320_000,
        # Only the inputs of layers are kept for the backward pass: all activations do not fit.
        execution=Execution(remat=Remat(preset="full")),
        checkpoint=Checkpoints(every_steps=1000),
        evals=(HeldOut(data=rows("data/held_out", batch_size=256), max_rows=1024),),
        evaluate_every=5000,
    )
