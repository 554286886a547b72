"""`meshwright data at` and `data seen` are two views of one thing: which step read which document."""

import json
import re
import shutil

import numpy as np
import pytest

from data_pipeline.shards.shards import Shards
from launch.__main__ import main
from launch.job.load import dump, load
from launch.job.yaml import to_yaml
from launch.shards.origin import Trained, opened, reading_phases, when_read
from tests.launch.corpus import texts, write_corpus

BATCH, SEQ_LEN = 4, 48
SKIPPED = [[8, 16]]  # two steps of rows
CONSUMED = 40


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose phase `pretrain` has gone through 40 rows, 8 of them skipped."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    write_corpus(folder / "data", {"web": 21, "books": 5})
    fields = {
        "weights": "{web: 2, books: 1}",
        "seq_len": SEQ_LEN,
        "batch_size": BATCH,
        "packing": "{type: ConcatenateAndSplit}",
    }
    job = load("tiny", [f"pretrain.data.{name}={value}" for name, value in fields.items()])
    (folder / "job.yaml").write_text(to_yaml(dump({"pretrain": job.phases["pretrain"]})))
    for step, rows in ((4, 16), (8, CONSUMED)):
        position = folder / "pretrain" / "checkpoints" / str(step) / "position"
        position.mkdir(parents=True)
        (position / "metadata").write_text(
            json.dumps({"rows": rows, "skipped": SKIPPED if rows == CONSUMED else [], "past": {}})
        )
    return folder


@pytest.fixture(scope="module")
def logged(run, tmp_path_factory):
    """The same, with rows of metrics.jsonl: batches of 2, from step 3 on of 6."""
    folder = shutil.copytree(run, tmp_path_factory.mktemp("runs") / "logged")
    ends = [(1, 2), (2, 4), (3, 18), (4, 24), (5, 30), (6, 36)]
    lines = [
        {"step": 0, "eval/web/loss": 1.0},
        *({"step": step, "data/rows": float(rows)} for step, rows in ends),
    ]
    (folder / "pretrain" / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines)
    )
    shutil.move(folder / "pretrain/checkpoints/8", folder / "pretrain/checkpoints/5")
    position = folder / "pretrain/checkpoints/5/position/metadata"
    position.write_text(
        json.dumps({"step": 5, "rows": 30, "skipped": [*SKIPPED, [38, 44]], "past": {}})
    )
    shutil.rmtree(folder / "pretrain/checkpoints/4")
    return folder


def pretrain(run) -> Trained:
    return opened(run, "pretrain", reading_phases(run, [])["pretrain"])


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


def test_a_step_read_a_document_just_when_the_document_is_in_the_step(run, logged, capsys):
    for folder, n_steps in ((run, (CONSUMED - 8) // BATCH), (logged, 6)):
        read = {step: documents_at(capsys, folder, step) for step in range(1, n_steps + 1)}
        for source in ("web", "books"):
            for record in map(Shards(folder / "data/train" / source).__getitem__, range(0, 5)):
                steps = [step for step, documents in read.items() if record.id in documents]
                _, out, _ = printed(capsys, "seen", "--run", folder, record.id)
                assert (
                    out == f"pretrain: {source} document {record.id} {when_read(steps, n_steps)}\n"
                )
                assert all(re.search(rf"\b{step}\b", out) for step in steps)
                _, out, _ = printed(capsys, "seen", "--run", folder, record.id, "--json")
                row = {"phase": "pretrain", "source": source, "steps": steps, "of_steps": n_steps}
                assert json.loads(out) == {"document": record.id, "seen": [row]}


def test_skipped_rows_belong_to_no_step(run):
    phase = pretrain(run)
    rows = [row for step in range(1, phase.past.step + 1) for row in phase.past.rows_of(step)]
    assert rows == [*range(8), *range(16, CONSUMED)] and phase.past.step == 8
    assert phase.past.rows_of(9) == [40, 41, 42, 43] and phase.past.rows_of(1009)[0] == 4040


def test_past_steps_are_what_the_log_says_and_future_ones_follow_from_the_position(logged):
    phase = pretrain(logged)
    past = [
        [0, 1],
        [2, 3],
        [*range(4, 8), 16, 17],
        [*range(18, 24)],
        [*range(24, 30)],
        [*range(30, 36)],
    ]
    assert [phase.past.rows_of(step) for step in range(1, 7)] == past
    assert [phase.past.rows_of(step) for step in (7, 8)] == [[36, 37, 44, 45], [46, 47, 48, 49]]
    first = 46 + 4 * (10**9 - 8)
    assert phase.past.rows_of(10**9) == list(range(first, first + 4))


def test_the_text_of_a_step_is_its_documents_text_span_by_span(run, capsys):
    _, plain, _ = printed(capsys, "at", run, "--phase", "pretrain", "--step", 1, "--json")
    _, out, _ = printed(capsys, "at", "--run", run, "--step", 1, "--json", "--text")
    found, known = (
        json.loads(out),
        {source: "\0".join(texts(source, 21)) for source in ("web", "books")},
    )
    assert found["rows"] == [0, 1, 2, 3] and len(found["spans"]) > 4
    for span, bare in zip(found["spans"], json.loads(plain)["spans"], strict=True):
        text = span.pop("text")
        assert span == bare and not span["damaged"]
        assert re.sub(r"<\S+?>|�", "", text) in known[span["source"]]
        record = Shards(run / "data/train" / span["source"])
        length = len(record[record.find(span["document"])[0]].sequences[0].tokens)
        assert 0 <= span["start"] < span["stop"] <= length
    _, out, _ = printed(capsys, "at", run, "--step", 1, "--text")
    assert out.count("── row") == len(found["spans"]) and "№" in out


def test_a_document_that_is_damaged_is_marked(run, capsys, tmp_path):
    damaged = shutil.copytree(run, tmp_path / "damaged")
    job = load(str(damaged / "job.yaml"), ["pretrain.data.skip_bad_records=true"])
    (damaged / "job.yaml").write_text(to_yaml(dump(job.phases)))
    rng = np.random.default_rng(0)
    for file in (damaged / "data/train/books").glob("*.arrayrecord"):
        file.write_bytes(rng.bytes(file.stat().st_size))
    phase = pretrain(damaged)
    steps = [
        step
        for step in range(1, 6)
        if any(o.source == "books" for n in phase.past.rows_of(step) for o in phase.rows.origins(n))
    ]
    _, out, _ = printed(capsys, "at", damaged, "--step", steps[0])
    assert "(damaged, left out)" in out and documents_at(capsys, damaged, steps[0]) == documents_at(
        capsys, run, steps[0]
    )


def test_steps_that_are_still_to_come_can_be_asked_for(run, capsys):
    assert documents_at(capsys, run, 1000)


def test_what_is_not_there_is_said_so(run, capsys, tmp_path):
    for argv, said in (
        (
            ("at", run, "--phase", "sft", "--step", 1),
            "--phase sft: .* has no such phase that reads shards; choose of pretrain",
        ),
        (("at", run, "--phase", "pretrain", "--step", 0), "--step 0: steps count from 1"),
        (("at", tmp_path, "--phase", "pretrain", "--step", 1), "is no folder of a run"),
        (("at", "--step", 1), "give the folder of one run"),
        (("at", run, "--run", run, "--step", 1), "give the folder of one run"),
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
