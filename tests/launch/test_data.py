"""`meshwright data`: shards can be read, checked and counted, and every damage is named."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from data_pipeline.documents.document import content_id
from data_pipeline.rows.pack import BestFit
from data_pipeline.shards.shards import Shards, write_shards
from launch.__main__ import main
from launch.verbs.data import ACTIONS
from tests.launch.command import environment
from tests.launch.corpus import record_of, texts, write_corpus
from tests.launch.test_help import PROBE

SIZES = {"web": 21, "books": 5}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "small"
    write_corpus(run / "data", SIZES)
    return run


@pytest.fixture
def run(made, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(made, tmp_path / "small")


def printed(capsys, *argv) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of `meshwright data …`."""
    capsys.readouterr()
    code = main(["data", *map(str, argv)])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("action", ACTIONS)
def test_help_of_an_action_imports_nothing_heavy(action, tmp_path):
    command = [sys.executable, "-c", PROBE, "data", action, "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout


def test_a_document_is_shown_as_it_was_read(made, capsys):
    for number, text in enumerate(texts("web", SIZES["web"])):
        for wanted in (number, content_id(text)):
            assert printed(
                capsys, "inspect", made / "data/train/web", "--document", wanted, "--text"
            ) == (
                0,
                text + "\n",
                "",
            )


def test_shards_are_described_in_words(made, capsys):
    code, out, _ = printed(capsys, "inspect", made / "data/train/web", "--document", 20)
    shards = Shards(made / "data/train/web")
    assert code == 0
    for expected in (
        f"{SIZES['web']} documents, {shards.manifest['tokens']:,} tokens",
        shards.manifest["content_hash"],
        "3 in 1 segment(s)",
        f"raw/web.txt (SHA-256 {'ab' * 32})",
        f"document 20, id {shards[20].id}",
        "web № 20:",
    ):
        assert expected in out


def test_a_document_that_is_not_there_is_said_so(made, capsys):
    for wanted in ("21", "0123456789abcdef"):
        code, _, error = printed(capsys, "inspect", made / "data/train/web", "--document", wanted)
        assert (
            code == 2
            and f"--document {wanted}: {made}/data/train/web has no such document; give a number from 0 to 20"
            in error
        )


def test_a_run_has_several_folders_of_shards_to_inspect(made, capsys):
    code, _, error = printed(capsys, "inspect", made)
    assert code == 2 and f"name one of {made}/data/train/books, {made}/data/train/web" in error


def test_shards_are_read_with_the_tokenizer_that_made_them(run, capsys, tmp_path):
    other = tmp_path / "other.model"
    (run / "data" / "tokenizer.model").rename(other)
    web = run / "data/train/web"
    code, _, error = printed(capsys, "inspect", web, "--document", 0)
    assert code == 2 and "no folder above has the tokenizer it was made with" in error
    assert (
        printed(capsys, "inspect", web, "--document", 0, "--text", "--tokenizer", other)[1]
        == texts("web", 1)[0] + "\n"
    )
    write_corpus(tmp_path / "another", {"code": 9})
    code, _, error = printed(
        capsys,
        "inspect",
        web,
        "--document",
        0,
        "--tokenizer",
        tmp_path / "another" / "tokenizer.model",
    )
    assert code == 2 and "is not the tokenizer it was made with" in error


def test_shards_that_are_as_written_pass(made, capsys):
    code, out, error = printed(capsys, "verify", made)
    assert (code, error) == (0, "")
    assert [line.split(":")[0] for line in out.splitlines()] == [
        "data/train/books",
        "data/train/web",
    ]


def test_a_shard_edited_by_hand_is_named_with_its_record_and_document(run, capsys):
    file = run / "data/train/web/00001.arrayrecord"
    ids, data = [content_id(text) for text in texts("web", SIZES["web"])], file.read_bytes()
    used = [place for place, byte in enumerate(data) if byte]  # most of so small a file is padding
    place = used[len(used) // 2]
    file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    code, out, error = printed(capsys, "verify", run)
    assert code == 2 and "data/train/books: as written" in out and "data/train/web: damaged" in out
    record, document = re.search(
        rf"{re.escape(str(file))}: record (\d+) \(document ([0-9a-f]{{16}})\)", error
    ).groups()
    assert ids[8 + int(record)] == document


def test_every_file_of_a_corpus_is_compared(run, capsys):
    for file in sorted((run / "data").rglob("*")):
        if file.is_file() and file.suffix in (".arrayrecord", ".npy", ".model"):
            data = file.read_bytes()
            file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
            code, _, error = printed(capsys, "verify", run)
            assert code == 2 and (file.name in error or "web" in error), file
            file.write_bytes(data)
    assert printed(capsys, "verify", run)[0] == 0


def test_shards_put_in_the_place_of_others_are_noticed(run, capsys):
    from data_pipeline.tokenizers.tokenizer import Tokenizer

    tokenizer = Tokenizer(run / "data/tokenizer.model")
    shutil.rmtree(run / "data/train/web")
    described = {
        "source": "web",
        "n_bytes": 9,
        "shard_records": 8,
        "lineage": {"tokenizer": tokenizer.fingerprint},
    }
    write_shards(run / "data/train/web", [record_of("another", tokenizer)], **described)
    code, _, error = printed(capsys, "verify", run)
    assert code == 2 and "is not what" in error and "content hash" in error


def test_counts_are_those_of_the_manifest(made, capsys):
    code, out, _ = printed(capsys, "stats", made, "--seq-len", 64)
    assert code == 0
    for name in SIZES:
        shards = Shards(made / "data/train" / name)
        plan = BestFit().plan(shards.lengths[:, 0] - 1, 64)
        full = (shards.manifest["tokens"] - len(shards)) / (64 * len(plan))
        amounts, quantiles, packed = re.findall(
            rf"^ *data/train/{name} +(.*?) *$", out, re.MULTILINE
        )
        assert amounts.split()[:2] == [f"{len(shards):,}", f"{shards.manifest['tokens']:,}"]
        assert quantiles.split()[-1] == f"{shards.lengths.max():,}"
        assert packed.split()[:2] == [f"{len(plan):,}", f"{full:.2%}"]
    assert re.search(r"reason +web +books", out) and re.search(r"near_duplicate +1 +1", out)
    assert re.search(r"web +2\.50 +1\.75", out)


def test_a_program_reads_the_same_numbers_as_json(made, capsys):
    code, out, _ = printed(capsys, "stats", made, "--seq-len", 64, "--json")
    stats = json.loads(out)
    assert code == 0 and stats["data_phases"][0]["dropped"]["web"]["near_duplicate"] == 1
    for name, size in SIZES.items():
        shards = Shards(made / "data/train" / name)
        numbers = stats["shards"][f"data/train/{name}"]
        assert (numbers["documents"], numbers["tokens"]) == (size, shards.manifest["tokens"])
        assert numbers["tokens_a_document"]["longest"] == shards.lengths.max()
        assert 0 < numbers["packed"]["full"] <= 1
    web = made / "data/train/web"
    code, out, _ = printed(capsys, "inspect", web, "--document", 20, "--json")
    inspected = json.loads(out)
    assert code == 0 and inspected["manifest"]["documents"] == SIZES["web"]
    (document,) = inspected["documents"]
    assert (document["number"], document["id"]) == (20, Shards(web)[20].id)
    assert texts("web", SIZES["web"])[20] in document["sequences"][0]["text"]
    code, _, error = printed(capsys, "inspect", web, "--document", 20, "--text", "--json")
    assert code == 2 and "leave one of them out" in error


def test_damage_is_json_on_standard_output_and_a_sentence_on_the_other(run, capsys):
    code, out, _ = printed(capsys, "verify", run, "--json")
    assert code == 0 and json.loads(out)["damage"] == []
    assert json.loads(out)["folders"]["data/train/web"]["documents"] == SIZES["web"]
    file = run / "data/train/books/00000.arrayrecord"
    file.write_bytes(file.read_bytes()[:-1])
    code, out, error = printed(capsys, "verify", run, "--json")
    verified = json.loads(out)
    assert code == 2 and verified["folders"]["data/train/books"] is None
    assert len(verified["damage"]) == 1 and verified["damage"][0] in error


def test_a_broken_account_of_a_phase_is_named_once_and_in_words(run, capsys):
    (run / "data/done.json").write_text('{"tokenizer": ')
    code, out, error = printed(capsys, "verify", run, "--json")
    assert code == 2 and error.count("data/done.json: not JSON; it was damaged") == 1
    assert len(json.loads(out)["damage"]) == 1
    (run / "data/results.json").write_bytes(b"")
    code, _, error = printed(capsys, "stats", run)
    assert code == 2 and "data/results.json: not JSON; it was damaged" in error


def test_stats_of_one_folder_has_the_account_of_its_phase(made, capsys):
    assert "near_duplicate" in printed(capsys, "stats", made / "data/train/web")[1]


def test_a_folder_without_shards_is_said_so(tmp_path, capsys):
    for action in ("verify", "stats"):
        code, _, error = printed(capsys, action, tmp_path)
        assert code == 2 and f"{tmp_path} holds no token shards; give a run" in error


def task(path, *questions: str) -> str:
    """--task for a file of questions."""
    path.write_text(
        "".join(json.dumps({"q": question, "a": "42"}) + "\n" for question in questions)
    )
    return f"{{type: Questions, name: quiz, path: {path}, question: [q], answer: a}}"


def test_a_question_that_is_in_the_corpus_is_found(made, capsys, tmp_path):
    planted = texts("web", SIZES["web"])[17]
    assert len(planted.split()) > 20
    known, unknown = (
        task(tmp_path / "a.jsonl", planted.upper().replace(" ", ", ")),
        task(tmp_path / "b.jsonl", "no such words in it " * 5),
    )
    code, out, error = printed(capsys, "check", made, "--task", unknown, "--task", known)
    assert (
        code == 2
        and content_id(planted) in out
        and "1 documents" in error
        and "Decontaminate" in error
    )
    assert printed(capsys, "check", made, "--task", unknown)[0] == 0
    code, out, error = printed(capsys, "check", made, "--task", known, "--json")
    shared = [{"shards": "data/train/web", "document": content_id(planted)}]
    assert code == 2 and json.loads(out)["tasks"]["quiz"]["documents"] == shared
    assert "share words with quiz" in error


def test_a_document_that_two_tasks_share_is_one_and_both_are_named(made, capsys, tmp_path):
    planted = texts("web", SIZES["web"])[17]
    first = task(tmp_path / "a.jsonl", planted)
    second = task(tmp_path / "b.jsonl", planted).replace("name: quiz", "name: trivia")
    _, _, error = printed(capsys, "check", made, "--task", first, "--task", second)
    assert "1 documents" in error and "share words with quiz, trivia" in error


def test_a_task_that_is_none_is_refused_in_words(made, capsys):
    unknown, incomplete, broken = "{type: Quiz}", "{type: Questions, name: a}", "{"
    for text, said in (
        (unknown, "type='Quiz' is unknown"),
        (incomplete, "path: field required"),
        (broken, "not YAML"),
    ):
        code, _, error = printed(capsys, "check", made, "--task", text)
        assert code == 2 and "--task" in error and said in error


def test_what_a_source_has_gained_is_appended(tmp_path, capsys):
    """A new file comes behind the old ones, whose shards stay as they are; nothing is appended twice."""
    lines = tmp_path / "lines"
    lines.mkdir()
    (lines / "00.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in texts("books", 60))
    )
    write_job(tmp_path / "job.yaml", sources={"books": {"type": "Jsonl", "paths": [str(lines)]}})
    run = tmp_path / "run"
    assert main(["run", str(tmp_path / "job.yaml"), "--dir", str(run)]) == 0
    before = {file: file.read_bytes() for file in (run / "data/train").rglob("*") if file.is_file()}
    (lines / "01.jsonl").write_text(
        json.dumps({"text": "A new one: " + " ".join(f"word{i}" for i in range(40))})
    )
    code, out, error = printed(capsys, "append", run)
    assert code == 0 and "1 documents appended" in out, error
    assert {file: file.read_bytes() for file in before} == before
    assert printed(capsys, "verify", run)[0] == 0
    assert "0 documents appended" in printed(capsys, "append", run)[1]
    (run / "data/done.json").write_text("{")
    code, _, error = printed(capsys, "append", run)
    assert code == 2 and "data/done.json: not JSON; it was damaged" in error


def write_job(path, *, sources: dict) -> None:
    """A job of one small data phase."""
    tokenizer = {"type": "SentencePiece", "vocab_size": 320, "model": "bpe"}
    fields = {
        "sources": sources,
        "recipe": [],
        "held_out_frac": 0.1,
        "held_out_filter": {"jaccard": 0.7, "common_groups": 8},
    }
    path.write_text(
        json.dumps(
            {
                "data": {
                    "type": "Prepare",
                    **fields,
                    "tokenizer": tokenizer,
                    "seed": 0,
                    "engine": {"workers": 1},
                }
            }
        )
    )
