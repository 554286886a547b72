"""New input of a finished corpus comes behind what was written, and changes none of it."""

from pathlib import Path

import pytest

from data_pipeline.component import FrozenMap
from data_pipeline.documents.corpus import clean_text
from data_pipeline.loader import PackedShards
from data_pipeline.readers.books import Books
from data_pipeline.rows.mix import Schedule, Stage
from data_pipeline.rows.sequence import RowSequence
from data_pipeline.shards.shards import Shards
from tests.data_pipeline.small_job import make_raw, outputs, prepare

NEW = "The lighthouse keeper counted every ship that passed the northern cape, and wrote down where it went and what it carried. "
SETTINGS = {
    "folder": "data/train",
    "weights": {"web": 1.0, "books": 1.0},
    "seq_len": 32,
    "batch_size": 2,
}


@pytest.fixture(scope="module")
def grown(tmp_path_factory) -> tuple[Path, dict[str, bytes], list[str]]:
    """(the folder of data with a second segment of books, what was there before, what was said)."""
    folder, said = tmp_path_factory.mktemp("grown"), []
    raw, data = make_raw(folder / "raw"), folder / "data"
    prepare(raw).execute(data, job_folder=folder)
    before = outputs(data)
    held_out = next(document for document in clean_text(data, "held_out", "books"))
    (raw / "books" / "a_lighthouse.txt").write_text(
        NEW * 9
    )  # sorts before all others, in the batch that they are in
    (raw / "books" / "stolen.txt").write_text(
        "\n".join([NEW * 2, *held_out.text.splitlines()[:40]])
    )
    (raw / "web" / "again.warc.gz").write_bytes((raw / "web" / "pages.warc.gz").read_bytes())
    for _ in range(2):
        prepare(raw).append(data, say=said.append)
    return data, before, said


def test_what_was_written_stays_as_it_was(grown):
    data, before, _ = grown
    after = outputs(data)
    assert {
        name: content for name, content in after.items() if name in before and name != "done.json"
    } == {name: content for name, content in before.items() if name != "done.json"}
    assert {Path(name).parts[:4] for name in set(after) - set(before)} == {
        ("train", "books", "segments", "00001")
    }


def test_only_what_is_new_is_appended_and_only_once(grown):
    data, _, said = grown
    assert said == [
        "  web: 0 documents appended",
        "  code: 0 documents appended",
        "  books: 2 documents appended",
    ] + [f"  {source}: 0 documents appended" for source in ("web", "code", "books")]
    texts = list(clean_text(data, "train", "books"))
    assert [document.path for document in texts if NEW.strip() in document.text] == [
        "a_lighthouse.txt",
        "stolen.txt",
    ]
    shards = Shards(data / "train" / "books")
    shards.verify()
    assert len(shards.segments) == 2 and len(shards) == len(texts)


def test_what_is_appended_repeats_nothing_held_out(grown):
    data, _, _ = grown
    (stolen,) = (
        document for document in clean_text(data, "train", "books") if document.path == "stolen.txt"
    )
    lines = {
        line
        for document in clean_text(data, "held_out", "books")
        for line in document.text.splitlines()
        if len(line.split()) > 12
    }
    assert lines and not lines & set(stolen.text.splitlines())


def test_a_stage_that_names_the_new_segment_moves_no_row_before_it(grown):
    data, _, _ = grown
    first = Schedule(segments={"books": 1})
    grows = Schedule(
        segments={"books": 1}, stages=(Stage(from_tokens=32 * 40, weights=SETTINGS["weights"]),)
    )
    before, after = (
        RowSequence(shards.sources(data.parent), shards.weights, 3, schedule=shards.schedule)
        for shards in (PackedShards(**SETTINGS, schedule=schedule) for schedule in (first, grows))
    )
    assert [before.origins(i) for i in range(40)] == [after.origins(i) for i in range(40)]
    new = {
        document.id
        for document in clean_text(data, "train", "books")
        if NEW.strip() in document.text
    }
    assert new & {origin.document for i in range(40, 1200) for origin in after.origins(i)} == new


def test_from_another_folder_the_same_files_are_read(tmp_path, monkeypatch):
    here, there = make_raw(tmp_path / "here" / "raw"), make_raw(tmp_path / "there" / "raw")
    relative = FrozenMap({"books": Books(folder="raw/books", topics=False)})
    phase = prepare(here, sources=relative, recipe=(), chats=None)
    monkeypatch.chdir(tmp_path / "here")
    phase.execute(Path("data"), job_folder=Path())
    (here / "books" / "lighthouse.txt").write_text(NEW * 9)
    (there / "books" / "other.txt").write_text("Another folder's own book, of the same name. " * 40)
    monkeypatch.chdir(tmp_path / "there")
    said: list[str] = []
    phase.append(Path("../here/data"), say=said.append)
    assert said == ["  books: 1 documents appended"] and Path.cwd() == tmp_path / "there"
    texts = clean_text(tmp_path / "here" / "data", "train", "books")
    assert [d.path for d in texts if d.path in ("lighthouse.txt", "other.txt")] == [
        "lighthouse.txt"
    ]

    # Moved: nothing is guessed, and what is named is read.
    (tmp_path / "here").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"begin at .*here, which is no folder; .* --from FOLDER"):
        phase.append(tmp_path / "moved" / "data")
    said.clear()
    phase.append(tmp_path / "moved" / "data", read_from=tmp_path / "moved", say=said.append)
    assert said == ["  books: 0 documents appended"]
