"""Laws of the data phase, on a small real job: code files, books and a WARC."""

import contextlib
import gzip
import itertools
import json
import pydoc_data.topics
import resource
import shutil
import signal
import subprocess
import sys
import sysconfig
from html import escape
from multiprocessing import get_context
from pathlib import Path

import pytest

from data_pipeline.clean.held_out import HeldOutFilter, canonical
from data_pipeline.clean.identify import model
from data_pipeline.clean.language import Language
from data_pipeline.clean.quality import TooShort
from data_pipeline.clean.recipe import standard_recipe
from data_pipeline.component import FrozenMap
from data_pipeline.documents.corpus import clean_text
from data_pipeline.engine.runner import Engine
from data_pipeline.files import OutputError, read_json_lines
from data_pipeline.prepare import Prepare
from data_pipeline.readers.books import Books
from data_pipeline.readers.code_tree import CodeTree
from data_pipeline.readers.warc import Warc
from data_pipeline.readers.warc_records import write_record
from data_pipeline.shards.shards import Shards
from data_pipeline.stages.docstring_chats import DocstringChats
from data_pipeline.tokenizers.tokenizer import SentencePiece, Tokenizer

SOURCES, KINDS = ("web", "code", "books"), ("web", "code", "books", "chat", "pairs")
ROOT = Path(__file__).parents[2]
MODULES = """abc bisect calendar cmd code codeop colorsys copy csv fnmatch getopt getpass heapq netrc queue sched shelve shlex stat
textwrap""".split()


def make_raw(folder: Path) -> Path:
    """Twenty modules, and the longest help topics: half of them as books, half as pages of a WARC."""
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    for name in ("code", "books", "web"):
        (folder / name).mkdir(parents=True)
    for module in MODULES:
        shutil.copy(stdlib / f"{module}.py", folder / "code")
    topics = sorted(pydoc_data.topics.topics.items(), key=lambda item: -len(item[1]))[2:32]
    for name, text in topics[::2]:
        (folder / "books" / f"{name}.txt").write_text(text, encoding="utf-8")
    (folder / "books" / "noise.txt").write_bytes(bytes(range(256)) * 9)
    pages = []
    for name, text in topics[1::2]:
        body = "".join(f"<p>{escape(part)}</p>" for part in text.split("\n\n"))
        html = (
            f"<html><head><title>{name}</title></head><body><main><h1>{name}</h1>{body}</main></body></html>"
        )
        record = write_record(
            url=f"http://example.org/{name}", html=html.encode(), date="2000-01-01T00:00:00Z"
        )
        pages.append(gzip.compress(record, mtime=0))
    (folder / "web" / "pages.warc.gz").write_bytes(b"".join(pages))
    return folder


def prepare(raw: Path, **changes) -> Prepare:
    fields = {
        "sources": FrozenMap(
            {
                "web": Warc(paths=(str(raw / "web"),)),
                "code": CodeTree(folder=str(raw / "code")),
                "books": Books(folder=str(raw / "books"), topics=False),
            }
        ),
        "recipe": standard_recipe(),
        "held_out_frac": 0.2,
        "held_out_filter": HeldOutFilter(jaccard=0.7, common_groups=8),
        "tokenizer": SentencePiece(vocab_size=600, model="bpe"),
        "chats": DocstringChats(source="code", n_chats=100, n_pairs=60, max_tokens=200),
        "seed": 1,
        "shard_records": 7,
        "engine": Engine(workers=1),
    }
    return Prepare(**(fields | changes))


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Watch:
    """A progress display that calls `act` with a stage and how far it is: at its start, and after every
    advance.
    """

    def __init__(self, act):
        self.act = act

    @contextlib.contextmanager
    def __call__(self, what, total=None, *, unit="", done=0):
        counted = itertools.count()

        def advance(n=1, note=""):
            self.act(what.strip(), next(counted))

        advance()
        yield advance


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    return make_raw(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def data(raw, tmp_path_factory) -> Path:
    """The job, run without interruption; tests only read it."""
    folder = tmp_path_factory.mktemp("job") / "data"
    prepare(raw).execute(folder, job_folder=folder.parent)
    return folder


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_bytes())


def test_every_shard_verifies_and_names_its_source_and_tokenizer(data):
    tokenizer = Tokenizer(data / "tokenizer.model")
    for side in ("train", "held_out"):
        for kind in KINDS:
            shards = Shards(data / side / kind)
            shards.verify()
            assert len(shards) > 0 and shards.manifest["source"] == kind
            assert shards.manifest["lineage"]["tokenizer"] == tokenizer.fingerprint


def test_read_is_kept_plus_dropped_for_every_source(data):
    found = results(data)
    for kind in KINDS:
        dropped = sum(
            n
            for reason, n in found["dropped"].get(kind, {}).items()
            if not reason.endswith(("_spans", "_lines", "_bytes"))
        )
        assert (
            found["read"][kind]
            == found["kept"][kind]["documents"] + found["held_out"][kind]["documents"] + dropped
        )
    assert found["read"]["code"] == len(MODULES) and found["read"]["books"] == 16
    assert found["dropped"]["books"]["file_undecodable"] == 1 and found["dropped"]["chat"]["over_n_chat"] > 0
    assert found["kept"]["chat"]["documents"] <= 100


def test_a_document_of_a_shard_decodes_to_its_cleaned_text_between_bos_and_eos(data):
    tokenizer = Tokenizer(data / "tokenizer.model")
    for side in ("train", "held_out"):
        for source in SOURCES:
            texts = {document.id: document.text for document in clean_text(data, side, source)}
            shards = Shards(data / side / source)
            assert shards.manifest["bytes"] == sum(len(text.encode()) for text in texts.values()) and len(
                shards
            ) == len(texts)
            for record in shards.__getitems__(range(len(shards))):
                ((tokens, weight),) = record.sequences
                assert (tokens[0], tokens[-1]) == (tokenizer.bos, tokenizer.eos) and weight.all()
                assert tokenizer.decode(tokens) == texts.pop(record.id)


def test_no_group_is_on_both_sides(data):
    set_aside = json.loads((data / "held_out.json").read_bytes())
    for source in SOURCES:
        train, held_out = (
            {canonical(document.group) for document in clean_text(data, side, source)}
            for side in ("train", "held_out")
        )
        assert train and held_out and held_out <= {canonical(group) for group in set_aside[source]}
        assert not train & {canonical(group) for group in set_aside[source]}


def test_chats_and_pairs_ask_about_the_code_of_their_own_side(data):
    tokenizer = Tokenizer(data / "tokenizer.model")
    set_aside = set(json.loads((data / "held_out.json").read_bytes())["code"])
    for side in ("train", "held_out"):
        (rows,) = (data / "stages" / "chats").glob(f"*/{side}/chat.jsonl")
        for row in read_json_lines(rows):
            asked = {module for module in MODULES if f"`{module}`" in row["conversations"][0][0]["content"]}
            asked |= {
                module for module in MODULES if f"Module: {module}\n" in row["conversations"][0][0]["content"]
            }
            assert asked and bool(asked & set_aside) == (side == "held_out")
        shards = Shards(data / side / "pairs")
        for chosen, rejected in (record.sequences for record in shards.__getitems__(range(len(shards)))):
            n = int(chosen.weight.argmax())
            assert (
                chosen.tokens[:n].tolist() == rejected.tokens[:n].tolist() and n == rejected.weight.argmax()
            )
            assert tokenizer.decode(chosen.tokens) != tokenizer.decode(rejected.tokens)
            assert len(chosen.tokens) + len(rejected.tokens) <= 200


def test_finished_data_is_not_made_again(raw, data):
    before, stages = {path: path.stat().st_mtime_ns for path in data.rglob("*")}, []
    prepare(raw).execute(data, job_folder=data.parent, progress=Watch(lambda what, n: stages.append(what)))
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
    first, second = (json.loads((folder / "done.json").read_bytes()) for folder in (data, tmp_path / "data"))
    assert first["contents"] == second["contents"] and first["tokenizer"] == second["tokenizer"]
    first, second = results(data), results(tmp_path / "data")
    assert all(first[name] == second[name] for name in ("read", "dropped", "kept", "held_out"))


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.data_pipeline.test_prepare import Watch, prepare
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
    *("reading", "measuring", "comparing", "selecting", "keeping the sides apart", "writing tokens"),
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
    assert {path: path.stat().st_mtime_ns for path in finished if path.exists()}.items() <= finished.items()
    assert outputs(tmp_path / "data") == outputs(data)


def made(folder: Path) -> list[Path]:
    """What the stages of an unfinished job have finished."""
    return [
        path
        for path in (folder / "stages").rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.parts)
    ]


def outputs(folder: Path) -> dict[str, bytes]:
    """What the trainer and people read."""
    return {name: content for name, content in tree(folder).items() if not name.startswith("stages/")}


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


def test_after_a_mistake_the_corrected_job_goes_on_from_what_the_mistake_did_not_touch(raw, data, tmp_path):
    folder = tmp_path / "data"
    wrong_path = FrozenMap(
        {**prepare(raw).sources, "books": Books(folder=str(raw / "nowhere"), topics=False)}
    )
    with pytest.raises(FileNotFoundError, match="sources.books.folder"):
        prepare(raw, sources=wrong_path).execute(folder, job_folder=tmp_path)
    with pytest.raises(
        ValueError, match=r"vocab_size=90000 is more than this text supports; set it to \d+ or lower"
    ):
        prepare(raw, tokenizer=SentencePiece(vocab_size=90_000, model="bpe")).execute(
            folder, job_folder=tmp_path
        )
    assert not (folder / "tokenizer.model").exists() and not (folder / "done.json").exists()
    before = {path: path.stat().st_mtime_ns for path in made(folder)}
    prepare(raw).execute(folder, job_folder=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before and outputs(folder) == outputs(data)


def test_a_limit_keeps_a_sample_of_each_source_and_counts_the_rest(raw, tmp_path):
    job = prepare(raw, limit_mib=0.1, held_out_frac=0.4, tokenizer=SentencePiece(vocab_size=400, model="bpe"))
    job.execute(tmp_path / "data", job_folder=tmp_path)
    found = results(tmp_path / "data")
    for source in SOURCES:
        assert found["dropped"][source]["over_limit_mib"] > 0
        assert 0 < found["kept"][source]["bytes"] + found["held_out"][source]["bytes"] <= 0.1 * 2**20 * 1.01
    assert found["read"]["code"] == len(MODULES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"chats": DocstringChats(source="cod", n_chats=1, n_pairs=0, max_tokens=9)},
            "chats.source names 'cod', which is no source",
        ),
        ({"recipe": standard_recipe(web=("wbe",))}, "recipe.0.sources names 'wbe', which is no source"),
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
    with pytest.raises(ValueError, match=r"sources.books has no document left to train on \(too_short: 3\)"):
        prepare(raw, sources=sources).execute(tmp_path / "data", job_folder=tmp_path)
    assert not (tmp_path / "data" / "text").exists()


def test_an_output_that_cannot_be_written_is_named_with_a_remedy(raw, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        OutputError, match=r"cannot write .*file/data.*; free space there or choose another output folder"
    ):
        prepare(raw).execute(tmp_path / "file" / "data", job_folder=tmp_path)


def _run_on_a_full_disk(raw: Path, folder: Path) -> str:
    model()  # unpacks itself into a temporary file
    resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000))  # a file beyond it fails as on a full disk
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
