"""Phases whose data is made while they train, whose policy has a head, or that read another model: all by the
same loop.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from data_pipeline import component
from data_pipeline.component import FrozenMap
from data_pipeline.loader import PackedPairs, PackedShards
from data_pipeline.tokenizers.tokenizer import SentencePiece
from model.architectures.llama import Llama
from model.execution import Precision
from model.mesh import Mesh
from model.size import flops_per_token_of
from tests.examples import random_documents, write_documents, write_pairs
from tests.trainer.rollouts import OneToken, PolicyGradient
from trainer.batches.open import open_rows
from trainer.batches.source import BatchSource
from trainer.checkpoints.load import load_params
from trainer.checkpoints.retention import Checkpoints
from trainer.evals.held_out import HeldOut
from trainer.evals.measure import Measures
from trainer.execute import execute
from trainer.objectives.distill import Distill
from trainer.objectives.dpo import DPO
from trainer.objectives.next_token import NextToken
from trainer.objectives.reward import Reward
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.phase import Phase
from trainer.records.costs import run_flops_per_token
from trainer.records.metrics import read_metrics
from trainer.roles import Role
from trainer.run import Run
from trainer.schedules import Constant

V, L, B = 384, 8, 16
SMALL = Llama(
    vocab_size=V,
    width=16,
    layers=1,
    heads=2,
    kv_heads=2,
    head_width=8,
    feed_forward_width=24,
    context=L,
)
LARGE = SMALL.model_copy(update={"width": 24, "layers": 2, "heads": 4, "kv_heads": 4})


@pytest.fixture(scope="module")
def job_folder(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("job"), np.random.default_rng(0)
    text = Path(__file__).read_text()
    SentencePiece(vocab_size=V, model="bpe").train([text], folder / "data/tokenizer.model")
    write_documents(
        folder / "data/train/web", random_documents(rng, rng.integers(3, L + 1, 40), 300)
    )
    write_pairs(
        folder / "data/train/pairs", [(*random_documents(rng, (4, 3), 300), 1) for _ in range(40)]
    )
    return folder


@pytest.fixture(autouse=True)
def rollouts_are_known() -> Iterator[None]:
    component.imported_by_user.append("tests.trainer.rollouts")
    yield
    component.imported_by_user.remove("tests.trainer.rollouts")


SHARDS = PackedShards(folder="data/train", weights={"web": 1.0}, seq_len=L, batch_size=B)
PAIRS = PackedPairs(
    folder="data/train", weights={"pairs": 1.0}, seq_len=L, batch_size=B, pairs_per_row=2
)


def run_of(**fields: Any) -> Run:
    given = {
        "architecture": SMALL,
        "optimizer": Optimizer(
            rule=AdamW(), peak_lr=1e-2, schedule=Constant(warmup_steps=0), weight_decay=0.0
        ),
        "steps": 12,
        "mesh": Mesh(fsdp=4, tensor=2),
        "precision": Precision(compute="float32"),
        "checkpoint": Checkpoints(every_steps=100),
    }
    return Run(**given | fields)


def train(run: Run, folder: Path, name: str) -> list[dict[str, float]]:
    """Execute a phase of the job; the rows of its steps."""
    (folder / name).mkdir(exist_ok=True)
    quiet = contextlib.nullcontext(lambda *_: None)
    execute(
        run,
        folder / name,
        job_folder=folder,
        say=lambda _: None,
        progress=lambda *_, **__: quiet,
        started=time.time(),  # of this life: another one may have been in this process
    )
    return [row for row in read_metrics(folder / name) if "loss/train" in row]


def test_a_policy_learns_from_rollouts_that_it_writes_itself_and_resumes_its_position(job_folder):
    data = OneToken(batch_size=64, row_length=L, choices=16)
    run = run_of(objective=PolicyGradient(), data=data, steps=20)
    first = train(run, job_folder, "rollouts")
    rewards = [row["rollouts/reward"] for row in first if "rollouts/reward" in row]
    rows = train(run.model_copy(update={"steps": 40}), job_folder, "rollouts")
    assert [row["step"] for row in rows] == list(range(1, 41)) and rows[-1]["data/rows"] == 40 * 64
    rewards += [row["rollouts/reward"] for row in rows[20:] if "rollouts/reward" in row]
    assert rewards[0] < rewards[-1] and rewards[-1] > 0.9, rewards  # a sixteenth by chance
    with jax.set_mesh(run.mesh.make()):
        phase = Phase(run, job_folder / "none", job_folder, jax.sharding.get_mesh())
        assert isinstance(data.open(phase), BatchSource)


def test_a_reward_model_starts_from_a_policy_and_its_head_is_in_its_checkpoint_alone(job_folder):
    train(run_of(objective=NextToken(), data=SHARDS, steps=2), job_folder, "policy")
    run = run_of(objective=Reward(), data=PAIRS, start_from="policy", steps=30)
    rows = train(run, job_folder, "reward")
    assert rows[-1]["train/reward_loss"] < 0.5 * rows[0]["train/reward_loss"]
    with jax.set_mesh(run.mesh.make()):
        assert "reward_D" in load_params(job_folder / "reward").params
        back = run_of(objective=NextToken(), data=SHARDS, start_from="reward")
        phase = Phase(back, job_folder / "back", job_folder, jax.sharding.get_mesh())
        assert "reward_D" not in phase.state().trainable


def test_the_reference_of_dpo_is_computed_once_by_the_first_policy_and_kept_for_a_resumed_run(
    job_folder,
):
    train(run_of(objective=NextToken(), data=SHARDS, steps=2), job_folder, "base")
    evals = (HeldOut(data=PAIRS),)
    run = run_of(objective=DPO(beta=0.5), data=PAIRS, start_from="base", steps=4, evals=evals)
    rows = train(run, job_folder, "dpo")
    assert abs(rows[0]["rewards/margins"]) < 1e-5 < rows[-1]["rewards/margins"]
    (kept,) = (job_folder / "dpo/columns").glob("*.npz")
    written = kept.stat().st_mtime_ns
    with np.load(kept) as columns:
        assert sorted(columns.files) == ["reference_chosen_P", "reference_rejected_P"]
    more = train(run.model_copy(update={"steps": 8}), job_folder, "dpo")
    assert more[-1]["rewards/margins"] > rows[-1]["rewards/margins"]
    assert kept.stat().st_mtime_ns == written
    assert damaged_numbers_are_made_again(run, job_folder, kept)


def damaged_numbers_are_made_again(run: Run, job_folder: Path, kept: Path) -> bool:
    """Whether reference numbers that are others, and numbers of before the training, are said and made
    again.
    """
    columns, before = kept.read_bytes(), json.loads((job_folder / "dpo/before.json").read_bytes())
    kept.write_bytes(columns[:-40] + b"\0" * 40)
    (job_folder / "dpo/before.json").write_text('{"pairs/dpo_loss": 0.1}')
    said: list[str] = []
    with jax.set_mesh(run.mesh.make()):
        phase = Phase(run, job_folder / "dpo", job_folder, jax.sharding.get_mesh(), said.append)
        open_rows(phase)
        again = Measures(phase).before(phase.state())
    told = [line for line in said if "is not what was written" in line]
    assert [line.rpartition("; ")[2] for line in told] == [
        "computed again",
        "measured again on the first parameters",
    ]
    return kept.read_bytes() == columns and again == before


def test_a_student_reads_a_larger_teacher_that_no_checkpoint_of_it_holds(job_folder):
    teacher = run_of(objective=NextToken(), data=SHARDS, architecture=LARGE, steps=4)
    train(teacher, job_folder, "teacher")
    objective = Distill(temperature=2.0, nll_weight=0.5)
    roles = FrozenMap(teacher=Role(start_from="teacher", architecture=LARGE))
    run = run_of(objective=objective, data=SHARDS, roles=roles, micro_batches=2)
    rows = train(run, job_folder, "student")
    assert rows[-1]["train/kl"] < rows[0]["train/kl"] and "train/bits_per_byte" in rows[0]
    with jax.set_mesh(run.mesh.make()):
        phase = Phase(run, job_folder / "student", job_folder, jax.sharding.get_mesh())
        assert jax.tree.structure(phase.load_others()["teacher"]) == jax.tree.structure(
            phase.params["teacher"]
        )
        own = flops_per_token_of(SMALL, phase.params["policy"], length=L)
        forward = flops_per_token_of(LARGE, phase.params["teacher"], length=L) / 3
        assert run_flops_per_token(run, phase.params) == own + forward
        assert load_params(job_folder / "student").architecture == SMALL


@pytest.mark.parametrize(
    ("roles", "problem"),
    [
        ({}, "roles.teacher is missing, which objective.type=Distill reads; give it"),
        (
            {"judge": Role(start_from="x"), "teacher": Role(start_from="x")},
            "roles.judge is none that",
        ),
        (
            {
                "teacher": Role(
                    start_from="x", architecture=SMALL.model_copy(update={"vocab_size": 999})
                )
            },
            "roles.teacher.architecture.vocab_size=999 is not architecture.vocab_size=384; choose a model",
        ),
        (
            {"teacher": Role(start_from="x", architecture=SMALL.model_copy(update={"context": 4}))},
            "roles.teacher.architecture.context=4 is less than data.seq_len=8; lower seq_len",
        ),
    ],
)
def test_roles_that_the_objective_does_not_read_or_that_do_not_fit_are_one_sentence(roles, problem):
    run = run_of(
        objective=Distill(temperature=1.0, nll_weight=0.0), data=SHARDS, roles=FrozenMap(roles)
    )
    (found,) = run.problems({})
    assert problem in found and run == Run.model_validate_json(run.model_dump_json())
