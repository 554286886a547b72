"""The same rows in micro-batches, on other numbers of processes: the same loss and gradient norm, in
float32 to rounding.
"""

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.component import FrozenMap
from data_pipeline.loader import PackedShards
from data_pipeline.rows.sequence import RowSequence
from model.architectures.llama import Llama
from model.execution import Precision
from tests.end_to_end.job import VOCAB, copied, finish, rows, write_data, write_job
from trainer.checkpoints.retention import Checkpoints
from trainer.objectives.next_token import NextToken
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.run import Run
from trainer.schedules import WarmupCosine

STEPS, ROWS = 3, 8


def pretrain() -> Run:
    """Packed rows whose numbers of targets differ; one big micro-batch."""
    return Run(
        architecture=Llama(
            vocab_size=VOCAB,
            width=32,
            layers=2,
            heads=4,
            kv_heads=2,
            head_width=8,
            feed_forward_width=48,
            context=40,
        ),
        objective=NextToken(z_loss=1e-4),
        data=PackedShards(
            folder="data/train", weights=FrozenMap(web=1.0), seq_len=40, batch_size=ROWS
        ),
        optimizer=Optimizer(
            rule=AdamW(),
            peak_lr=2e-3,
            schedule=WarmupCosine(warmup_steps=0, end_frac=0.1),
            weight_decay=0.1,
        ),
        steps=STEPS,
        checkpoint=Checkpoints(every_steps=STEPS),
        precision=Precision(compute="float32"),
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job before its first step; the first 9 tokens of every document are no targets."""
    folder = tmp_path_factory.mktemp("prepared")
    write_data(folder, {"web": 100}, first_target=9)
    write_job(folder, pretrain())
    return folder


@pytest.fixture(scope="module")
def whole(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """The rows of metrics of one process without micro-batches."""
    return rows(finish(copied(prepared, tmp_path_factory.mktemp("whole") / "job")))


def test_rows_and_micro_batches_have_different_numbers_of_targets(prepared: Path) -> None:
    data = pretrain().data
    first_rows = RowSequence(data.sources(prepared / "run"), data.weights, pretrain().seed).read(
        range(ROWS)
    )
    n_B = np.array([row["weight_L"].sum() for row in first_rows])
    assert all(len({n_B[i::parts].sum() for i in range(parts)}) > 1 for parts in (2, 4)), (
        "else a mean of means would pass"
    )
    assert any(row["segments_L"].max() > 1 for row in first_rows), "rows hold several documents"


SHARES = [
    (1, 2),
    (1, 4),
    (2, 1),
    (2, 2),
    (2, 4),
    (4, 1),
    (4, 2),
]  # processes, micro-batches; 8 rows give 4 processes no 4 micro-batches
QUICK = {(2, 2)}  # micro-batches of one process: tests/trainer/test_step.py


@pytest.mark.parametrize(
    ("processes", "micro_batches"),
    [share if share in QUICK else pytest.param(*share, marks=pytest.mark.slow) for share in SHARES],
)
def test_micro_batches_and_processes_change_neither_loss_nor_gradient_norm(
    processes: int,
    micro_batches: int,
    prepared: Path,
    whole: list[dict[str, float]],
    tmp_path: Path,
) -> None:
    job = finish(
        copied(prepared, tmp_path / "job"),
        "--on",
        f"local:{processes}",
        "--set",
        f"pretrain.micro_batches={micro_batches}",
    )
    for name in ("loss/train", "optimizer/grad_norm"):
        found, expected = ([row[name] for row in its] for its in (rows(job), whole))
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=name)
    assert len(whole) == STEPS
