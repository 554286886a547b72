"""SIGKILL at random moments, also while a checkpoint is being written: the run goes on from its last whole
checkpoint to the same bits.
"""

import os
import random
import secrets
from pathlib import Path

import pytest

from data_pipeline.component import FrozenMap
from data_pipeline.loader import PackedShards
from model.architectures.llama import Llama
from tests.end_to_end.job import (
    VOCAB,
    assert_same_bits,
    copied,
    finish,
    killed_when,
    last_step,
    n_files,
    saved,
    unfinished,
    write_data,
    write_job,
)
from trainer.checkpoints.retention import Checkpoints
from trainer.objectives.next_token import NextToken
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.run import Run
from trainer.schedules import WarmupCosine

STEPS, SAVE_EVERY, KILLS = 120, 10, 2


def pretrain() -> Run:
    """A step and a save take long enough to be met by a kill; bf16 as a real run has it."""
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
            folder="data/train", weights=FrozenMap(web=2.0, code=1.0), seq_len=48, batch_size=8
        ),
        optimizer=Optimizer(
            rule=AdamW(),
            peak_lr=2e-3,
            schedule=WarmupCosine(warmup_steps=4, end_frac=0.1),
            weight_decay=0.1,
        ),
        steps=STEPS,
        checkpoint=Checkpoints(every_steps=SAVE_EVERY, keep=3),
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job before its first step."""
    folder = tmp_path_factory.mktemp("prepared")
    write_data(folder, {"web": 200, "code": 100})
    write_job(folder, pretrain())
    return folder


@pytest.fixture(scope="module")
def uninterrupted(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job that nothing happened to."""
    return finish(copied(prepared, tmp_path_factory.mktemp("uninterrupted") / "job"))


def kill_somewhere(job: Path, draw: random.Random, *, in_save: bool) -> str:
    """Kill a life of the run: while it writes a checkpoint, or after a number of steps; says where that
    was.
    """
    left, step, files = (
        unfinished(job),
        last_step(job) + draw.randrange(1, 2 * SAVE_EVERY),
        draw.randrange(20),
    )
    if in_save:
        killed_when(
            lambda: any(n_files(save) >= files for save in unfinished(job) - left),
            f"{files} files of a save",
            job,
        )
    else:
        killed_when(lambda: last_step(job) >= step, f"step {step}", job)
    return f"with {files} files of a save written" if in_save else f"after step {last_step(job)}"


@pytest.mark.parametrize(
    "chain", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 6))]
)
def test_a_run_killed_again_and_again_repeats_the_uninterrupted_run(
    chain: int, prepared: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    seed = int(os.environ.get("MESHWRIGHT_SEED", secrets.randbelow(1 << 32)))
    print(f"MESHWRIGHT_SEED={seed} repeats these moments")
    job, draw = copied(prepared, tmp_path / "job"), random.Random(seed + chain)
    for kill in range(KILLS):
        print("killed", kill_somewhere(job, draw, in_save=kill % 2 == 1))
    print("resumed from step", max(saved(job), default=0))
    assert_same_bits(finish(job), uninterrupted)
