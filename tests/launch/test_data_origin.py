"""`meshwright data at` and `data seen` are two views of one thing: which step read which document."""

import json
import re
import shutil

import pytest

from data_pipeline.shards import Shards
from launch.__main__ import main
from launch.data_origin import opened, told
from launch.job import dump, load
from launch.yaml_text import to_yaml
from tests.launch.corpus import write_corpus

BATCH, SEQ_LEN = 4, 48
SKIPPED = [[8, 16]]  # two steps of rows
CONSUMED = 40


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose phase `pretrain` has gone through 40 rows, 8 of them skipped."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    write_corpus(folder / "data", {"web": 21, "books": 5})
    fields = {"weights": "{web: 2, books: 1}", "seq_len": SEQ_LEN, "batch_size": BATCH, "packing": "{type: ConcatenateAndSplit}"}
    job = load("tiny", [f"pretrain.data.{name}={value}" for name, value in fields.items()])
    (folder / "job.yaml").write_text(to_yaml(dump({"pretrain": job.phases["pretrain"]})))
    for step, rows in ((4, 16), (8, CONSUMED)):
        position = folder / "pretrain" / "checkpoints" / str(step) / "position"
        position.mkdir(parents=True)
        (position / "metadata").write_text(json.dumps({"rows": rows, "skipped": SKIPPED if rows == CONSUMED else [], "past": {}}))
    return folder


def printed(capsys, *argv) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of `meshwright data …`."""
    capsys.readouterr()
    code = main(["data", *map(str, argv)])
    return code, *capsys.readouterr()


def documents_at(capsys, run, step: int) -> set[str]:
    """Ids that `data at` prints."""
    code, out, _ = printed(capsys, "at", run, "--phase", "pretrain", "--step", step)
    assert code == 0
    return set(re.findall(r"\b[0-9a-f]{16}\b", out))


def test_a_step_read_a_document_just_when_the_document_is_in_the_step(run, capsys):
    n_steps = (CONSUMED - 8) // BATCH
    read = {step: documents_at(capsys, run, step) for step in range(1, n_steps + 1)}
    for source in ("web", "books"):
        for record in map(Shards(run / "data/train" / source).__getitem__, range(0, 5)):
            steps = [step for step, documents in read.items() if record.id in documents]
            _, out, _ = printed(capsys, "seen", run, record.id)
            assert out == f"pretrain: {source} document {record.id} {told(steps, n_steps)}\n"
            assert all(re.search(rf"\b{step}\b", out) for step in steps)


def test_skipped_rows_belong_to_no_step(run):
    (phase,) = opened(run, ["pretrain"], [])
    rows = [row for step in range(1, phase.steps_to(CONSUMED) + 1) for row in phase.rows_of(step)]
    assert rows == [*range(8), *range(16, CONSUMED)]


def test_steps_that_are_still_to_come_can_be_asked_for(run, capsys):
    assert documents_at(capsys, run, 1000)


def test_what_is_not_there_is_said_so(run, capsys, tmp_path):
    for argv, said in (
        (("at", run, "--phase", "sft", "--step", 1), "--phase sft: .* has no such phase that reads shards; choose of pretrain"),
        (("at", run, "--phase", "pretrain", "--step", 0), "--step 0: steps count from 1"),
        (("at", tmp_path, "--phase", "pretrain", "--step", 1), "is no folder of a run"),
        (("seen", run, "0123456789abcdef"), "0123456789abcdef: no such document"),
    ):
        code, _, error = printed(capsys, *argv)
        assert code == 2 and re.search(said, error)


def test_a_run_of_limited_epochs_has_a_last_step(run, capsys, tmp_path):
    limited = shutil.copytree(run, tmp_path / "limited")
    job = load(str(limited / "job.yaml"), ["pretrain.data.schedule.max_epochs={web: 1, books: 1}"])
    (limited / "job.yaml").write_text(to_yaml(dump(job.phases)))
    code, _, error = printed(capsys, "at", limited, "--phase", "pretrain", "--step", 1000)
    last = int(re.search(r"ends after (\d+) steps", error)[1])
    assert code == 2 and documents_at(capsys, limited, last)
