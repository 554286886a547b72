"""A data job that is done again: after a kill, with other workers, with changed settings; and jobs that are
refused.
"""

import json
import resource
import shutil
import signal
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest

from data_pipeline.clean.identify import model
from data_pipeline.clean.language import Language
from data_pipeline.clean.quality import TooShort
from data_pipeline.clean.recipe import standard_recipe
from data_pipeline.component import FrozenMap
from data_pipeline.engine.runner import Engine
from data_pipeline.files import OutputError
from data_pipeline.prepare import Prepare
from data_pipeline.readers.books import Books
from data_pipeline.stages.docstring_chats import DocstringChats
from data_pipeline.tokenizers.tokenizer import SentencePiece
from tests.data_pipeline.small_job import (
    MODULES,
    SOURCES,
    Watch,
    made,
    outputs,
    prepare,
    results,
    tree,
)

ROOT = Path(__file__).parents[2]


def test_finished_data_is_not_made_again(raw, data):
    before, stages = {path: path.stat().st_mtime_ns for path in data.rglob("*")}, []
    prepare(raw).execute(
        data, job_folder=data.parent, progress=Watch(lambda what, n: stages.append(what))
    )
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before and not stages


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"seed": 2}, "seed: 1 there, 2 now"),
        (
            {"tokenizer": SentencePiece(vocab_size=500, model="bpe")},
            "tokenizer.vocab_size: 600 there, 500 now",
        ),
    ],
)
def test_another_configuration_in_the_same_folder_is_refused_by_field(raw, data, changes, field):
    before = tree(data)
    with pytest.raises(
        ValueError,
        match=f"with other settings .{field}.; restore them, choose another folder, or pass --allow-change",
    ):
        prepare(raw, **changes).execute(data, job_folder=data.parent)
    assert tree(data) == before


def test_the_same_input_in_another_place_gives_the_same_content(raw, data, tmp_path):
    shutil.copytree(raw, tmp_path / "moved")
    prepare(tmp_path / "moved").execute(tmp_path / "data", job_folder=tmp_path)
    first, second = (
        json.loads((folder / "done.json").read_bytes()) for folder in (data, tmp_path / "data")
    )
    assert first["contents"] == second["contents"] and first["tokenizer"] == second["tokenizer"]
    first, second = results(data), results(tmp_path / "data")
    assert all(first[name] == second[name] for name in ("read", "dropped", "kept", "held_out"))


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.data_pipeline.small_job import Watch, prepare, tree
def act(what, n):
    if what == sys.argv[3] and n == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    prepare(Path(sys.argv[1])).execute(Path(sys.argv[2]), job_folder=Path(sys.argv[2]).parent, progress=Watch(act))
"""


def killed_at(raw: Path, folder: Path, stage: str, advanced: int) -> None:
    command = [sys.executable, "-c", KILLED, raw, folder, stage, str(advanced)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert not (folder / "done.json").exists()


STAGES = (
    *(
        "reading",
        "measuring",
        "comparing",
        "selecting",
        "keeping the sides apart",
        "writing tokens",
    ),
    *("making the tokenizer", "making chats"),
)


@pytest.mark.parametrize(
    ("stage", "advanced"),
    [("measuring", 2), ("writing tokens", 3)]
    + [
        pytest.param(stage, n, marks=pytest.mark.slow)
        for stage in STAGES
        for n in range(3)
        if n == 0 or not stage.startswith("making")
    ],
)
def test_the_same_command_after_a_kill_gives_the_bytes_of_an_uninterrupted_run(
    raw, data, tmp_path, stage, advanced
):
    if (stage, advanced) == ("comparing", 2):
        advanced = 1  # there is one rule that compares
    killed_at(raw, tmp_path / "data", stage, advanced)
    finished = {path: path.stat().st_mtime_ns for path in made(tmp_path / "data")}
    prepare(raw).execute(tmp_path / "data", job_folder=tmp_path)
    assert {
        path: path.stat().st_mtime_ns for path in finished if path.exists()
    }.items() <= finished.items()
    assert outputs(tmp_path / "data") == outputs(data)


@pytest.mark.parametrize("workers", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_any_number_of_workers_writes_the_same_bytes(raw, data, tmp_path, workers):
    prepare(raw, engine=Engine(workers=workers)).execute(tmp_path / "data", job_folder=tmp_path)
    assert outputs(tmp_path / "data") == outputs(data)


def changed_stages(raw: Path, data: Path, folder: Path, **changes) -> set[str]:
    """The stages that make something anew when finished data is asked for with other settings."""
    shutil.copytree(data, folder)
    before = set(made(folder))
    prepare(raw, **changes).execute(folder, job_folder=folder.parent, allow_change=tuple(changes))
    return {path.relative_to(folder / "stages").parts[0] for path in set(made(folder)) - before}


def test_a_change_makes_again_what_depends_on_it_and_nothing_else(raw, data, tmp_path):
    looser = tuple(
        rule.model_copy(update={"min_words": 10}) if isinstance(rule, TooShort) else rule
        for rule in standard_recipe()
    )
    assert changed_stages(raw, data, tmp_path / "1", recipe=looser) <= {
        "across",
        "select",
        "separate",
        "tokenizer",
        "chats",
    }
    words = tuple(
        rule.model_copy(update={"first_chars": 700}) if isinstance(rule, Language) else rule
        for rule in standard_recipe()
    )
    assert "ingest" not in changed_stages(raw, data, tmp_path / "2", recipe=words)
    assert changed_stages(
        raw, data, tmp_path / "3", tokenizer=SentencePiece(vocab_size=500, model="bpe")
    ) == {"tokenizer"}
    assert not changed_stages(raw, data, tmp_path / "4", shard_records=9)


def test_after_a_mistake_the_corrected_job_goes_on_from_what_the_mistake_did_not_touch(
    raw, data, tmp_path
):
    folder = tmp_path / "data"
    wrong_path = FrozenMap(
        {**prepare(raw).sources, "books": Books(folder=str(raw / "nowhere"), topics=False)}
    )
    with pytest.raises(FileNotFoundError, match="sources.books.folder"):
        prepare(raw, sources=wrong_path).execute(folder, job_folder=tmp_path)
    with pytest.raises(
        ValueError,
        match=r"vocab_size=90000 is more than this text supports; set it to \d+ or lower",
    ):
        prepare(raw, tokenizer=SentencePiece(vocab_size=90_000, model="bpe")).execute(
            folder, job_folder=tmp_path
        )
    assert not (folder / "tokenizer.model").exists() and not (folder / "done.json").exists()
    before = {path: path.stat().st_mtime_ns for path in made(folder)}
    prepare(raw).execute(folder, job_folder=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before and outputs(
        folder
    ) == outputs(data)


def test_a_limit_keeps_a_sample_of_each_source_and_counts_the_rest(raw, tmp_path):
    job = prepare(
        raw, limit_mib=0.1, held_out_frac=0.4, tokenizer=SentencePiece(vocab_size=400, model="bpe")
    )
    job.execute(tmp_path / "data", job_folder=tmp_path)
    found = results(tmp_path / "data")
    for source in SOURCES:
        assert found["dropped"][source]["over_limit_mib"] > 0
        assert (
            0
            < found["kept"][source]["bytes"] + found["held_out"][source]["bytes"]
            <= 0.1 * 2**20 * 1.01
        )
    assert found["read"]["code"] == len(MODULES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"chats": DocstringChats(source="cod", n_chats=1, n_pairs=0, max_tokens=9)},
            "chats.source names 'cod', which is no source",
        ),
        (
            {"recipe": standard_recipe(web=("wbe",))},
            "recipe.0.sources names 'wbe', which is no source",
        ),
        ({"sources": FrozenMap()}, "sources is empty"),
        ({"sources": FrozenMap({"pairs": Books()})}, "sources.pairs: the name is taken"),
    ],
)
def test_fields_that_contradict_each_other_are_refused_before_anything_is_written(
    raw, tmp_path, changes, message
):
    with pytest.raises(ValueError, match=message):
        prepare(raw, **changes).execute(tmp_path / "data", job_folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unfit_corpus_is_refused_with_the_reasons(raw, tmp_path):
    (tmp_path / "books").mkdir()
    for i in range(3):
        (tmp_path / "books" / f"{i}.txt").write_text(f"too short {i}")
    sources = FrozenMap(
        {**prepare(raw).sources, "books": Books(folder=str(tmp_path / "books"), topics=False)}
    )
    with pytest.raises(
        ValueError, match=r"sources.books has no document left to train on \(too_short: 3\)"
    ):
        prepare(raw, sources=sources).execute(tmp_path / "data", job_folder=tmp_path)
    assert not (tmp_path / "data" / "text").exists()


def test_an_output_that_cannot_be_written_is_named_with_a_remedy(raw, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        OutputError,
        match=r"cannot write .*file/data.*; free space there or choose another output folder",
    ):
        prepare(raw).execute(tmp_path / "file" / "data", job_folder=tmp_path)


def _run_on_a_full_disk(raw: Path, folder: Path) -> str:
    model()  # unpacks itself into a temporary file
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (90_000, 90_000)
    )  # a file beyond it fails as on a full disk
    try:
        prepare(raw).execute(folder, job_folder=folder.parent)
    except OutputError as error:
        return str(error)
    return "nothing was raised"


def test_a_full_disk_is_one_clear_error_and_nothing_half_written_looks_complete(raw, tmp_path):
    with get_context("spawn").Pool(1) as pool:
        message = pool.apply(_run_on_a_full_disk, (raw, tmp_path / "data"))
    assert message.startswith("cannot write") and message.endswith(
        "free space there or choose another output folder"
    )
    assert not (tmp_path / "data" / "done.json").exists() and not list(tmp_path.rglob("*.partial"))


def test_a_prepare_phase_is_equal_after_a_round_trip_through_json(raw):
    job = prepare(raw)
    again = Prepare.model_validate_json(job.model_dump_json())
    assert again == job and hash(again) == hash(job) and again.fingerprint() == job.fingerprint()
    assert prepare(raw, seed=2).fingerprint() != job.fingerprint()
