"""A streak of bad steps: the run goes back to the checkpoint before it, and on without its rows, as if they
had never been.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from data_pipeline import component
from data_pipeline.loader import PackedShards
from data_pipeline.tokenizers.tokenizer import SentencePiece
from model.architectures.llama import Llama
from model.execution import Precision
from model.mesh import Mesh
from tests.examples import write_documents
from tests.trainer.poisoned import MARK, Poisoned
from trainer.assemble import step_of
from trainer.batches.open import open_rows, open_source
from trainer.checkpoints.checkpointer import Checkpoints
from trainer.ending import Diverged
from trainer.events import read_events
from trainer.execute import execute as execute_run
from trainer.guard import Guard
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.phase import Phase
from trainer.records.metrics import read_metrics
from trainer.run import Run
from trainer.schedules import WarmupCosine

L, B, STEPS, N_DOCUMENTS = 12, 8, 40, 440
RUN = {
    "architecture": Llama(
        vocab_size=384,
        width=16,
        layers=1,
        heads=2,
        kv_heads=1,
        head_width=8,
        feed_forward_width=24,
        context=L,
    ),
    "data": PackedShards(folder="data/train", weights={"web": 1.0}, seq_len=L, batch_size=B),
    "optimizer": Optimizer(
        rule=AdamW(),
        peak_lr=1e-3,
        schedule=WarmupCosine(warmup_steps=0, end_frac=1.0),
        weight_decay=0.1,
    ),
    "steps": STEPS,
    "mesh": Mesh(fsdp=8),
    "precision": Precision(compute="float32"),
    "checkpoint": Checkpoints(every_steps=8, keep=9),
}


@pytest.fixture(scope="module", autouse=True)
def poisoned_is_known() -> Iterator[None]:
    component.imported_by_user.append("tests.trainer.poisoned")
    yield
    component.imported_by_user.remove("tests.trainer.poisoned")


def run_of(factor: float | None, **guard: Any) -> Run:
    return Run(**RUN, objective=Poisoned(factor=factor), guard=Guard(window=8, patience=3, **guard))


def job(folder: Path, marked: Callable[[int], bool]) -> Path:
    """Documents of a row each, with a mark in those that come in rows which `marked` names."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(20, 200, (N_DOCUMENTS, L + 1))
    SentencePiece(vocab_size=384, model="bpe").train(
        [Path(__file__).read_text()], folder / "data/tokenizer.model"
    )
    write_documents(folder / "plain/train/web", tokens.tolist())
    plain = RUN["data"].model_copy(update={"folder": "plain/train"})
    with jax.set_mesh(RUN["mesh"].make()):
        rows = open_rows(
            Phase(
                run_of(None).model_copy(update={"data": plain}),
                folder / "none",
                folder,
                jax.sharding.get_mesh(),
            )
        )
    places = [rows.place(i)[1].row for i in range(N_DOCUMENTS)]
    for i, row in enumerate(places):
        (document,) = {int(piece[0]) for piece in rows.sources["web"].segments[0].plan(0).row(row)}
        if marked(i):
            tokens[document, 3] = MARK
    write_documents(folder / "data/train/web", tokens.tolist())
    return folder


def execute(run: Run, folder: Path) -> list[dict[str, Any]]:
    """Train; its events."""
    (folder / "pretrain").mkdir()
    quiet = contextlib.nullcontext(lambda *_: None)
    execute_run(
        run,
        folder / "pretrain",
        job_folder=folder,
        say=lambda _: None,
        progress=lambda *_, **__: quiet,
    )
    return read_events(folder / "pretrain")


def of(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == name]


@pytest.mark.parametrize("factor", [None, 40.0])
def test_the_run_ends_as_if_the_rows_of_the_streak_had_never_been(factor, tmp_path):
    folder, run = (
        job(tmp_path, lambda row: B * 19 <= row < B * 23),
        run_of(factor),
    )  # steps 20 to 23
    (rollback,) = of(execute(run, folder), "rollback")
    assert (rollback["to"], rollback["rows"][0]) == (16, B * 19) and B * 22 <= rollback["rows"][
        1
    ] <= B * 23
    rows = [row for row in read_metrics(folder / "pretrain") if "loss/train" in row]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1)) and rows[-1][
        "guard/rollbacks"
    ] == 1
    assert all(np.isfinite(row["loss/train"]) for row in rows[:19])
    with jax.set_mesh(RUN["mesh"].make()):
        phase = Phase(run, folder / "again", folder, jax.sharding.get_mesh())
        state, source = phase.state(), open_source(phase)
        step = step_of(phase)
        source.skip(*rollback["rows"])
        for _ in range(STEPS):
            state, _ = step(state, source.next(dict))
        found = Phase(run, folder / "pretrain", folder, jax.sharding.get_mesh()).state()
    for (path, x), y in zip(
        jax.tree.leaves_with_path(found._replace(key=0)),
        jax.tree.leaves(state._replace(key=0)),
        strict=True,
    ):
        assert np.array(x).tobytes() == np.array(y).tobytes(), path
    position = json.loads((folder / f"pretrain/checkpoints/{STEPS}/position/metadata").read_text())
    assert position["skipped"] == [rollback["rows"]] and position["rows"] == source.position.rows


def test_another_level_of_the_data_costs_one_rollback_and_no_more(tmp_path):
    events = execute(run_of(40.0), job(tmp_path, lambda row: row >= B * 19))
    assert len(of(events, "rollback")) == 1 and len(of(events, "new_level")) == 1
    rows = [row for row in read_metrics(tmp_path / "pretrain") if "loss/train" in row]
    assert rows[-1]["step"] == STEPS and rows[-1]["guard/streak"] == 0


@pytest.mark.parametrize("max_rollbacks", [0, 2])
def test_a_loss_that_stays_no_number_ends_the_run_after_so_many_rollbacks(max_rollbacks, tmp_path):
    folder = job(tmp_path, lambda row: row >= B * 19)
    with pytest.raises(
        Diverged, match=re.escape(f"after {max_rollbacks} rollbacks; lower optimizer.peak_lr")
    ):
        execute(run_of(None, max_rollbacks=max_rollbacks), folder)
    assert len(of(read_events(folder / "pretrain"), "rollback")) == max_rollbacks
    steps = {
        int(path.name)
        for path in (folder / "pretrain/checkpoints").iterdir()
        if path.name.isdigit()
    }
    assert max(steps) == 16 + max_rollbacks, (
        "after a rollback the next step is saved, with the rows that are left out"
    )
