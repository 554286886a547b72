"""The example of one's own texts: a folder goes in, a model that continues like it comes out."""

import json

import pytest

from tests.launch.command import meshwright

SMALL = (
    "pretrain.steps=12",
    "pretrain.evaluate_every=0",
    "pretrain.optimizer.schedule.warmup_steps=2",
    "pretrain.architecture.width=64",
    "pretrain.architecture.layers=1",
    "pretrain.architecture.feed_forward_width=64",
    "pretrain.data.seq_len=64",
    "data.engine.workers=1",
)
LINE = "On day {n} the tide came in at {n} and the boats went out past the {kind} lighthouse, {n} of them.\n"


def run(folder, *settings):
    words = [word for setting in (*SMALL, *settings) for word in ("--set", setting)]
    return meshwright("run", "notes", *words, cwd=folder)


def write_notes(folder, n_files: int, n_lines: int) -> None:
    folder.mkdir()
    for n in range(n_files):
        kinds = ("white", "old", "northern", "broken", "far")
        lines = [LINE.format(n=n * n_lines + i, kind=kinds[i % 5]) for i in range(n_lines)]
        (folder / f"{n}.{('txt', 'md', 'rst')[n % 3]}").write_text("".join(lines))


def test_a_folder_of_texts_becomes_a_model_of_them(tmp_path):
    write_notes(tmp_path / "notes", 12, 40)
    (tmp_path / "notes" / "photo.jpg").write_bytes(b"\xff\xd8")
    done = run(tmp_path, "data.tokenizer.vocab_size=320", "data.sources.notes.folder=notes")
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "runs/notes/data/results.json").read_text())
    assert results["read"] == {"notes": 13}
    assert results["dropped"]["notes"]["suffix_not_read_jpg"] == 1
    after = json.loads((tmp_path / "runs/notes/pretrain/results.json").read_text())
    assert after["after"]["notes/loss"] < after["before"]["notes/loss"]


@pytest.mark.parametrize(
    ("n_files", "n_lines", "sentence"),
    [
        (1, 40, "source 'notes' has 1 group(s) and a held-out split needs 2; add documents"),
        (5, 4, "vocab_size=1024 is more than this text supports; set it to"),
    ],
)
def test_a_folder_that_is_too_small_is_one_sentence(tmp_path, n_files, n_lines, sentence):
    write_notes(tmp_path / "notes", n_files, n_lines)
    done = run(tmp_path)
    assert done.returncode == 2 and sentence in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
