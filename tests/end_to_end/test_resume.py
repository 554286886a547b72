"""A run that is killed or stopped goes on as if nothing had happened. Real processes, real signals."""

import json
import signal
from functools import partial
from pathlib import Path

import pytest
import yaml

from data_pipeline.component import FrozenMap
from data_pipeline.loader import PackedShards
from data_pipeline.tokenizers.tokenizer import SentencePiece, Tokenizer
from model.architectures.llama import Llama
from tests.end_to_end import job as end_to_end
from tests.end_to_end.job import (
    COMMAND,
    arrays,
    assert_same_bits,
    copied,
    differences,
    rows,
    run,
    saved,
    write_job,
)
from tests.examples import write_documents
from tests.launch.command import AS_USERS, begin, meshwright, until
from trainer.checkpoints.retention import Checkpoints
from trainer.evals.held_out import HeldOut
from trainer.evals.samples import Samples
from trainer.objectives.next_token import NextToken
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.records.metrics import read_metrics
from trainer.run import Run
from trainer.schedules import WarmupCosine

# these bits are those of programs as users run them, optimised by the compiler
finish = partial(end_to_end.finish, **AS_USERS)
STEPS, SAVE_EVERY = 240, 24  # seconds: a signal is noticed within one


def pretrain() -> Run:
    """A few thousand parameters; bf16 and a save every few steps, as a real run has them."""
    weights = FrozenMap(some=2.0, other=1.0)
    data = PackedShards(folder="data/train", weights=weights, seq_len=64, batch_size=8)
    return Run(
        architecture=Llama(
            vocab_size=512,
            width=32,
            layers=2,
            heads=4,
            kv_heads=2,
            head_width=8,
            feed_forward_width=48,
            context=64,
        ),
        objective=NextToken(),
        data=data,
        optimizer=Optimizer(
            rule=AdamW(),
            peak_lr=5e-3,
            schedule=WarmupCosine(warmup_steps=4, end_frac=0.1),
            weight_decay=0.1,
        ),
        steps=STEPS,
        checkpoint=Checkpoints(every_steps=SAVE_EVERY, keep=11),
        evals=(
            HeldOut(data=data.model_copy(update={"folder": "data/held_out"})),
            Samples(prompts=("def ",), chat=False, max_tokens=4),
        ),
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """job.yaml, and a run folder with a tokenizer and shards of this repository's own sources."""
    folder = tmp_path_factory.mktemp("prepared")
    texts = [path.read_text() for path in sorted(repository.glob("*/*.py"))]
    SentencePiece(vocab_size=512, model="bpe").train(texts, folder / "run/data/tokenizer.model")
    tokenizer = Tokenizer(folder / "run/data/tokenizer.model")
    documents = [[tokenizer.bos, *tokenizer.encode(text)[:500], tokenizer.eos] for text in texts]
    for side, mine in {"train": documents[4:], "held_out": documents[:4]}.items():
        write_documents(folder / "run/data" / side / "some", mine[::2])
        write_documents(folder / "run/data" / side / "other", mine[1::2])
    write_job(folder, pretrain())
    return folder


@pytest.fixture
def job(prepared: Path, tmp_path: Path) -> Path:
    """A copy of its own."""
    return copied(prepared, tmp_path / "job")


@pytest.fixture(scope="module")
def uninterrupted(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing happened to."""
    return finish(copied(prepared, tmp_path_factory.mktemp("uninterrupted") / "job"))


def interrupt(job: Path, number: int, *, after_steps: int) -> tuple[int, str]:
    """Start, send the signal when the checkpoint at or behind `after_steps` is written; exit code and
    everything printed.
    """
    process = begin(*COMMAND, cwd=job, **AS_USERS)
    until(
        lambda: process.poll() is not None or any(step >= after_steps for step in saved(job)),
        "a checkpoint",
    )
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return process.returncode, out + err


def test_killed_run_resumed_repeats_the_uninterrupted_run(job: Path, uninterrupted: Path) -> None:
    code, _ = interrupt(job, signal.SIGKILL, after_steps=2 * SAVE_EVERY)
    assert code == -signal.SIGKILL and not (job / "run/pretrain/done.json").exists()
    assert 2 * SAVE_EVERY <= saved(job)[-1] < STEPS
    assert_same_bits(finish(job), uninterrupted)
    assert len(rows(job)) == STEPS


def test_a_second_run_gives_the_same_bits_whatever_a_beginning_without_a_checkpoint_has_left(
    job: Path, uninterrupted: Path
) -> None:
    (job / "run/pretrain").mkdir()
    (job / "run/pretrain/before.json").write_text('{"some/loss": 0.0}')
    assert_same_bits(finish(job), uninterrupted)


def test_training_learns(uninterrupted: Path) -> None:
    results = json.loads((uninterrupted / "run/pretrain/results.json").read_text())
    assert results["after"]["some/bits_per_byte"] < 0.8 * results["before"]["some/bits_per_byte"]


def test_a_run_with_other_rows_differs(job: Path, uninterrupted: Path) -> None:
    """The negative control of the tests above: at three quarters the mixture becomes another one, and
    nothing else changes.
    """
    stage = f"{{from_tokens: {STEPS * 3 // 4 * 8 * 64}, weights: {{some: 1.0, other: 2.0}}}}"
    finish(job, "--set", f"pretrain.data.schedule.stages=[{stage}]")
    found = differences(job, uninterrupted)
    assert {f"metrics of step {STEPS}", "results after"} <= set(
        found
    ) and f"metrics of step {STEPS // 2}" not in found
    assert all(
        name in found
        for name in arrays(job, STEPS)
        if name.startswith("params/") and "w" in name.rpartition("/")[2]
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_says_how_to_go_on_and_the_run_goes_on(
    job: Path, uninterrupted: Path, number: int, code: int
) -> None:
    returned, said = interrupt(job, number, after_steps=SAVE_EVERY)
    assert returned == code, said
    assert "Traceback" not in said and "meshwright run job.yaml" in said
    last = rows(job)[-1]["step"]
    assert last < STEPS and (job / f"run/pretrain/checkpoints/{last}").is_dir(), (
        "the step it stopped after is saved"
    )
    assert_same_bits(finish(job), uninterrupted)
    assert fields(job) == fields(uninterrupted)


def fields(job: Path) -> list[tuple[int, frozenset[str]]]:
    """(step, names of its numbers) of every row, but for those of saves, which come when they are done."""
    timed = ("checkpoint/", "time/checkpoint_s")
    named = [(row["step"], row) for row in read_metrics(job / "run/pretrain")]
    return [
        (step, frozenset(name for name in row if not name.startswith(timed))) for step, row in named
    ]


def test_a_life_that_only_repeats_the_last_evaluation_leaves_the_same_rows(
    job: Path, uninterrupted: Path
) -> None:
    again = copied(uninterrupted, job.parent / "again")
    for name in ("done.json", "results.json"):
        (again / "run/pretrain" / name).unlink()
    finish(again)
    assert fields(again) == fields(uninterrupted)
    samples = [path / "run/pretrain/samples.jsonl" for path in (again, uninterrupted)]
    assert len({len(path.read_text().splitlines()) for path in samples}) == 1


def test_checkpoints_of_another_run_are_refused_with_the_difference(uninterrupted: Path) -> None:
    refused = run(
        uninterrupted,
        "--set",
        "pretrain.architecture.norm_eps=1e-6",
        "--set",
        f"pretrain.steps={STEPS + 10}",
    )
    assert refused.returncode == 2
    assert (
        "architecture.norm_eps: 1e-05 saved, 1e-06 asked for" in refused.stderr
        and "Traceback" not in refused.stderr
    )
    assert len(refused.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("pretrain.mesh.fsdp=3", "does not divide 1 devices"),
        ("pretrain.data.folder=data/none", "data/none"),
        ("pretrain.tokenizer=data/none.model", "none.model"),
        ("pretrain.start_from=nowhere", "nowhere"),
    ],
)
def test_bad_input_is_one_sentence(job: Path, setting: str, sentence: str) -> None:
    wrong = run(job, "--set", setting)
    assert wrong.returncode == 2, wrong.stdout + wrong.stderr
    assert (
        sentence in wrong.stderr
        and "Traceback" not in wrong.stderr
        and len(wrong.stderr.strip().splitlines()) == 1
    )
    assert not (job / "run/pretrain/done.json").exists() and not saved(job)


def test_the_config_written_as_yaml_is_the_config(job: Path) -> None:
    shown = meshwright("show", "job.yaml", cwd=job)
    fields = yaml.safe_load(shown.stdout)["pretrain"]
    assert fields.pop("type") == "Run" and Run.model_validate_json(json.dumps(fields)) == pretrain()
