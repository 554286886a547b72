"""The job that is soaked."""

from pathlib import Path

from data_pipeline.component import FrozenMap
from data_pipeline.loader import PackedShards
from model.architectures.llama import Llama
from tests.end_to_end.job import VOCAB, write_data, write_job
from trainer.checkpoints.retention import Checkpoints
from trainer.cluster.health import HealthChecks
from trainer.objectives.next_token import NextToken
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.run import Run
from trainer.schedules import WarmupCosine

SAVE_EVERY = 10
HANG_S = 20.0


def pretrain(steps: int) -> Run:
    """Steps of tens of milliseconds, checkpoints of some megabytes: long enough to be met, short enough for
    many lives.
    """
    sizes = {
        "width": 128,
        "layers": 3,
        "heads": 4,
        "kv_heads": 2,
        "head_width": 32,
        "feed_forward_width": 352,
    }
    return Run(
        architecture=Llama(vocab_size=VOCAB, context=48, **sizes),
        objective=NextToken(),
        data=PackedShards(
            folder="data/train",
            weights=FrozenMap(web=2.0, code=1.0),
            seq_len=48,
            batch_size=8,
            dropout=FrozenMap(web=0.2),
        ),
        optimizer=Optimizer(
            rule=AdamW(),
            peak_lr=2e-3,
            schedule=WarmupCosine(warmup_steps=4, end_frac=0.1),
            weight_decay=0.1,
        ),
        steps=steps,
        checkpoint=Checkpoints(every_steps=SAVE_EVERY, keep=3),
        health=HealthChecks(hang_s=HANG_S),
    )


def prepared(folder: Path, steps: int) -> Path:
    """The job before its first step, in a new folder."""
    folder.mkdir()
    write_data(folder, {"web": 300, "code": 100})
    write_job(folder, pretrain(steps), objective={"type": "SeenRows"})
    return folder
