"""A run goes on with other processes, devices and batch sizes: the rows it reads, and to rounding its
losses, are the ones they were.
"""

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.component import FrozenMap
from data_pipeline.loader import PackedShards
from data_pipeline.rows.mix import Schedule, Stage
from data_pipeline.rows.sequence import RowSequence
from model.architectures.llama import Llama
from model.execution import Precision
from tests.end_to_end.job import (
    VOCAB,
    copied,
    finish,
    killed_when,
    last_step,
    phase,
    rewind,
    rows,
    run,
    saved,
    write_data,
    write_job,
)
from tests.end_to_end.seen_rows import seen
from trainer.checkpoints.retention import Checkpoints
from trainer.objectives.next_token import NextToken
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.run import Run
from trainer.schedules import WarmupCosine

STEPS, SAVE_EVERY, BATCH, SEQ_LEN = 160, 8, 8, 32
STAGE = 70 * BATCH  # the row that the second mixture begins with


def pretrain() -> Run:
    """Three sources in two stages, one with a cap that it reaches on the way, one with document dropout;
    float32.
    """
    stages = (Stage(from_tokens=STAGE * SEQ_LEN, weights=FrozenMap(web=1.0, code=2.0, books=1.0)),)
    data = PackedShards(
        folder="data/train",
        weights=FrozenMap(web=3.0, code=2.0),
        seq_len=SEQ_LEN,
        batch_size=BATCH,
        schedule=Schedule(stages=stages, max_epochs=FrozenMap(code=1.5)),
        dropout=FrozenMap(web=0.3),
    )
    return Run(
        architecture=Llama(
            vocab_size=VOCAB,
            width=32,
            layers=2,
            heads=4,
            kv_heads=2,
            head_width=8,
            feed_forward_width=48,
            context=SEQ_LEN,
        ),
        objective=NextToken(),
        data=data,
        # a rate that does not depend on the number of steps, so that shorter runs are beginnings of longer
        # ones
        optimizer=Optimizer(
            rule=AdamW(),
            peak_lr=2e-3,
            schedule=WarmupCosine(warmup_steps=4, end_frac=1.0),
            weight_decay=0.1,
        ),
        steps=STEPS,
        checkpoint=Checkpoints(every_steps=SAVE_EVERY, keep=STEPS),
        precision=Precision(compute="float32"),
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job before its first step."""
    folder = tmp_path_factory.mktemp("prepared")
    write_data(folder, {"web": 400, "code": 300, "books": 200})
    write_job(folder, pretrain(), objective={"type": "SeenRows"})
    return folder


@pytest.fixture(scope="module")
def uninterrupted(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job done by one process, which nothing happened to."""
    return finish(copied(prepared, tmp_path_factory.mktemp("uninterrupted") / "job"))


def kill_after(n_rows: int, job: Path, *more: str) -> None:
    """Kill a life of the run that has written `n_rows` rows of metrics and a checkpoint."""
    before = max(saved(job), default=0)
    killed_when(
        lambda: last_step(job) >= before + n_rows and max(saved(job), default=0) > before,
        f"{n_rows} steps",
        job,
        *more,
    )


def test_rows_on_1_then_4_then_2_processes_are_those_of_the_uninterrupted_run(
    prepared: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    job, expected = copied(prepared, tmp_path / "job"), seen(rows(uninterrupted))
    assert len(expected) == STEPS * BATCH and len(set(expected)) > 0.6 * len(expected), (
        "most rows differ, epochs repeat some"
    )
    for processes in (1, 4):
        kill_after(SAVE_EVERY + 2, job, "--on", f"local:{processes}")
        read = seen(rows(job))
        assert read == expected[: len(read)], (
            f"{processes} processes, also of the steps that a resume makes again"
        )
    finish(job, "--on", "local:2")
    assert seen(rows(job)) == expected
    for name in ("loss/train", "optimizer/grad_norm"):
        np.testing.assert_allclose(
            *([row[name] for row in rows(folder)] for folder in (job, uninterrupted)), rtol=1e-3
        )


def test_the_rows_that_are_compared_come_of_stages_and_a_cap(prepared: Path) -> None:
    data = pretrain().data
    legs = RowSequence(
        data.sources(prepared / "run"), data.weights, pretrain().seed, data.schedule
    ).mixture.legs
    assert [leg.first for leg in legs if leg.first == STAGE] and 3 <= len(
        [leg for leg in legs if leg.first < STEPS * BATCH]
    )


def test_a_larger_batch_goes_on_at_the_next_row(uninterrupted: Path, tmp_path: Path) -> None:
    job, expected = copied(uninterrupted, tmp_path / "job"), seen(rows(uninterrupted))
    rewind(job, 5 * SAVE_EVERY)
    finish(
        job,
        "--set",
        "pretrain.data.batch_size=12",
        "--set",
        f"pretrain.steps={8 * SAVE_EVERY}",
    )
    n = (5 * 8 + 3 * 12) * SAVE_EVERY
    assert len(rows(job)) == 8 * SAVE_EVERY and seen(rows(job)) == expected[:n]


def test_a_run_resumed_on_more_processes_within_a_batch_ramp_goes_on_at_the_next_row(
    prepared: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    job = copied(prepared, tmp_path / "job")
    ramp = ("--set", "pretrain.batch_ramp=[[2, 3], [4, 6]]")
    for processes, steps in ((1, 5), (2, 12)):
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(tmp_path / f"cache{processes}"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        until = ("--set", f"pretrain.steps={steps}")
        finish(job, *ramp, *until, "--on", f"local:{processes}", **cache)
        # Of several CPU processes process 0 alone would read its programs from the cache, and hang: its
        # collectives come in another order.
        assert bool(list((tmp_path / f"cache{processes}").glob("jit_step-*"))) == (processes == 1)
    assert (
        seen(rows(job)) == seen(rows(uninterrupted))[: 3 * 2 + 6 * 4 + 3 * 8]
        and len(rows(job)) == 12
    )


def test_a_process_that_hangs_before_the_first_step_ends_all_of_them(
    uninterrupted: Path, tmp_path: Path
) -> None:
    job = copied(uninterrupted, tmp_path / "job")
    rewind(job, SAVE_EVERY)
    hangs = run(
        job,
        "--on",
        "local:2",
        "--import",
        "tests.end_to_end.stuck_restore",
        "--set",
        "pretrain.health.hang_s=1",
    )
    assert hangs.returncode == 75 and "nothing has moved for 10 s" in hangs.stdout + hangs.stderr
    assert "stuck_restore.py" in (phase(job) / "stacks-1.txt").read_text()


def test_rows_that_are_others_are_seen_to_differ(uninterrupted: Path, tmp_path: Path) -> None:
    """The negative control of the tests above: two steps behind the resumption another mixture begins."""
    job, expected, n = (
        copied(uninterrupted, tmp_path / "job"),
        seen(rows(uninterrupted)),
        (SAVE_EVERY + 2) * BATCH,
    )
    rewind(job, SAVE_EVERY)
    stage = f"{{from_tokens: {n * SEQ_LEN}, weights: {{web: 1.0, books: 1.0}}}}"
    finish(
        job,
        "--set",
        f"pretrain.data.schedule.stages=[{stage}]",
        "--set",
        f"pretrain.steps={2 * SAVE_EVERY}",
    )
    found = seen(rows(job))
    assert found[:n] == expected[:n] and found[n:] != expected[n : len(found)]
    assert rows(job)[-1]["loss/train"] != rows(uninterrupted)[2 * SAVE_EVERY - 1]["loss/train"]


MESHES = [
    {"fsdp": 4, "tensor": 2},
    *(
        pytest.param(mesh, marks=pytest.mark.slow)
        for mesh in ({"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}, {"data": 4, "tensor": 2})
    ),
]


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_another_mesh_gives_the_losses_to_rounding(
    mesh: dict[str, int], uninterrupted: Path, tmp_path: Path
) -> None:
    job, steps = copied(uninterrupted, tmp_path / "job"), 3 * SAVE_EVERY
    rewind(job, 2 * SAVE_EVERY)
    axes = [word for axis, n in mesh.items() for word in ("--set", f"pretrain.mesh.{axis}={n}")]
    finish(job, "--on", "local:1x8", *axes, "--set", f"pretrain.steps={steps}")
    assert seen(rows(job)) == seen(rows(uninterrupted)[:steps])
    losses, expected = (
        [row["loss/train"] for row in rows(folder)[:steps]] for folder in (job, uninterrupted)
    )
    assert losses[2 * SAVE_EVERY :] != expected[2 * SAVE_EVERY :], (
        "sums in another order: the new mesh was used"
    )
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
