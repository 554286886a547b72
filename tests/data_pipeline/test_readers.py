"""Readers: every sound record of raw input becomes a document, every other one a count, and nothing at all one clear sentence."""

import gzip
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_pipeline.drops import Drops
from data_pipeline.readers.books import Books
from data_pipeline.readers.code_tree import CodeTree, StdlibCode
from data_pipeline.readers.stdlib_docs import MODULES, StdlibDocs
from data_pipeline.readers.warc import Warc
from data_pipeline.readers.worker import Worker, map_batches

SENTENCE = "The {n}th page says something of its own, and says it in a whole sentence."


def record(
    n: int, html: bytes | None = None, *, status: str = "200 OK", kind: str = "text/html; charset=utf-8", headers: str = ""
) -> bytes:
    html = f"<html><body><main><p>{SENTENCE.format(n=n)}</p></main></body></html>".encode() if html is None else html
    http = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{headers}\r\n".encode() + html
    head = f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Target-URI: http://example.org/{n}?q=1\r\nWARC-Date: 2020-01-01T00:00:00Z\r\n"
    identity = f"WARC-Record-ID: <urn:uuid:{n:032d}>\r\nContent-Type: application/http; msgtype=response\r\n"
    return (head + identity + f"Content-Length: {len(http)}\r\n\r\n").encode() + http + b"\r\n\r\n"


def read(reader, folder: Path, source: str = "web"):
    drops = Drops()
    return list(reader.documents(source, work=folder, drops=drops)), dict(drops.counts.get(source, {}))


def numbers(documents) -> list[int]:
    return [int(d.path.split("/")[-1].split("?")[0]) for d in documents]


@pytest.mark.parametrize("compressed", [True, False])
def test_a_sound_warc_gives_each_page_once_in_order(tmp_path, compressed):
    file = tmp_path / ("a.warc.gz" if compressed else "a.warc")
    file.write_bytes(b"".join(gzip.compress(record(n)) if compressed else record(n) for n in range(7)))
    documents, counts = read(Warc(paths=(str(tmp_path),)), tmp_path)
    assert numbers(documents) == list(range(7)) and counts == {}
    assert [d.text.strip() for d in documents] == [SENTENCE.format(n=n) for n in range(7)]
    assert {d.group for d in documents} == {f"http://example.org/{n}" for n in range(7)}


def test_an_archive_compressed_as_a_whole_is_read_too(tmp_path):
    (tmp_path / "a.warc.gz").write_bytes(gzip.compress(b"".join(map(record, range(5)))))
    assert numbers(read(Warc(paths=(str(tmp_path / "a.warc.gz"),)), tmp_path)[0]) == list(range(5))


def test_a_truncated_gzip_loses_only_the_record_it_breaks_off_in(tmp_path):
    members = [gzip.compress(record(n)) for n in range(6)]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(members)[: -len(members[5]) // 2])
    documents, counts = read(Warc(paths=(str(tmp_path),)), tmp_path)
    assert numbers(documents) == list(range(5)) and counts["damaged_gzip_bytes"] > 0


def test_damage_in_the_middle_loses_less_than_its_neighbours(tmp_path):
    members = [gzip.compress(record(n)) for n in range(6)]
    members[2] = members[2][:40] + b"\x00\xff" * 9 + members[2][58:]
    members.insert(5, b"no gzip at all")
    (tmp_path / "a.warc.gz").write_bytes(b"".join(members))
    documents, counts = read(Warc(paths=(str(tmp_path),)), tmp_path)
    assert [n for n in numbers(documents) if n != 2] == [0, 1, 3, 4, 5] and counts["damaged_gzip_bytes"] >= 14


@pytest.mark.parametrize(
    "damage",
    [
        lambda parts: [parts[0], b"junk between\r\nrecords\r\n", *parts[1:]],
        lambda parts: [b"junk first\r\n", *parts],
        lambda parts: [*parts, parts[0][:-30]],
        lambda parts: [parts[0], record(9).replace(b"Content-Length: 1", b"Content-Length: 9"), *parts[1:]],
        lambda parts: [parts[0], b"WARC/1.1\r\nWARC-Type: response\r\n", *parts[1:]],
    ],
    ids=["junk-between", "junk-first", "cut-off", "wrong-length", "half-a-header"],
)
def test_an_uncompressed_archive_is_resumed_after_damage(tmp_path, damage):
    (tmp_path / "a.warc").write_bytes(b"".join(damage([record(n) for n in range(4)])))
    documents, counts = read(Warc(paths=(str(tmp_path),)), tmp_path)
    assert set(range(4)) - {1} <= set(numbers(documents)) and counts["damaged_warc_bytes"] > 0


def test_records_that_are_no_good_page_are_counted_by_reason(tmp_path):
    pages = [
        record(0),
        record(1, status="404 Not Found"),
        record(2, b"%PDF-1.4", kind="application/pdf"),
        record(3, b"<p>" + b"x " * 3_000),
        record(4, b"<html><body></body></html>"),
        record(5, b"no gzip", headers="Content-Encoding: gzip\r\n"),
        record(6, gzip.compress(b"<p>A page that was sent compressed, as many are.</p>"), headers="Content-Encoding: gzip\r\n"),
        record(7, "<p>Une page écrite à l'ancienne, en latin-1.</p>".encode("latin-1"), kind="text/html; charset=iso-8859-1"),
    ]
    (tmp_path / "a.warc").write_bytes(b"".join(pages))
    documents, counts = read(Warc(paths=(str(tmp_path),), max_page_bytes=4_000), tmp_path)
    assert numbers(documents) == [0, 6, 7]
    assert counts.pop("damaged_warc_bytes") == len(pages[5])
    assert counts == {"page_http_status": 1, "page_too_large": 1, "page_without_text": 1, "page_undecodable": 1}
    assert "écrite à l'ancienne" in documents[-1].text


def test_a_page_nested_20000_deep_does_not_hang_and_its_neighbours_survive(tmp_path):
    deep = b"<html><body>" + b"<div>" * 20_000 + b"deep" + b"</div>" * 20_000 + b"</body></html>"
    flat = b"<html><body><main>" + b"<p>Many paragraphs do not nest, closed or not." * 5_000 + b"</main></body></html>"
    (tmp_path / "a.warc").write_bytes(record(0) + record(1, deep) + record(2, flat) + record(3))
    began = time.monotonic()
    documents, counts = read(Warc(paths=(str(tmp_path),)), tmp_path)
    assert numbers(documents) == [0, 2, 3] and counts == {"page_too_deep": 1}
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "content", [b"", b"\x1f\x8b\x08broken from the start", b"plain text, no archive" * 50], ids=["empty", "broken", "text"]
)
@pytest.mark.parametrize("name", ["a.warc.gz", "a.warc"])
def test_a_file_without_any_record_is_one_clear_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"sources\.web\.paths: .*{name} has no readable WARC record; remove it") as error:
        read(Warc(paths=(str(tmp_path),)), tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "reader",
    [
        lambda folder: Warc(paths=(folder,)),
        lambda folder: CodeTree(folder=folder),
        lambda folder: Books(folder=folder, topics=False),
    ],
)
def test_a_missing_or_empty_folder_is_one_clear_error(tmp_path, reader):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"sources\.mine\.\w+='.*nowhere' does not exist; name an existing"):
        read(reader(str(tmp_path / "nowhere")), tmp_path, "mine")
    with pytest.raises(ValueError, match=r"sources\.mine\.\w+='.*empty' holds no \.\w+.* file; name a folder that does"):
        read(reader(str(tmp_path / "empty")), tmp_path, "mine")


def test_documents_do_not_depend_on_the_number_of_processes(tmp_path):
    pages = [record(n, f"<p>{'long ' * 40_000} page {n}</p>".encode()) for n in range(12)]
    (tmp_path / "a.warc").write_bytes(b"".join(pages))
    assert read(Warc(paths=(str(tmp_path),), processes=1), tmp_path) == read(Warc(paths=(str(tmp_path),), processes=3), tmp_path)


def test_a_stuck_or_crashed_request_costs_only_itself():
    requests = [b"b'one'", b"__import__('time').sleep(60)", b"b'two'", b"__import__('os')._exit(3)", b"1/0", b"b'three'"]
    worker = Worker("builtins:eval", timeout_s=3.0)
    answers = worker.run(requests)
    worker.close()
    assert [a.data for a in answers] == [b"one", b"", b"two", b"", b"", b"three"]
    assert [a.error for a in answers] == ["", "timeout", "", "crash", "ZeroDivisionError: division by zero", ""]


def test_leaving_off_early_stops_the_children():
    batches = ([b"__import__('time').sleep(0.01) or b'x'"] * 5 for _ in range(1_000))
    began = time.monotonic()
    answers = map_batches("builtins:eval", batches, timeout_s=30.0, processes=2)
    assert next(answers)[0].data == b"x"
    answers.close()
    assert time.monotonic() - began < 10


def test_module_pages_are_the_same_every_time_and_name_no_machine(tmp_path):
    modules = ("json.decoder", "math", "configparser", "no_such_module", "sys", "tempfile", "argparse")
    first, counts = read(StdlibDocs(modules=modules, processes=1), tmp_path / "1")
    second, _ = read(StdlibDocs(modules=modules[::-1], processes=2), tmp_path / "2")
    assert first == second and counts == {"module_not_rendered": 1}
    assert (tmp_path / "1/web.warc.gz").read_bytes() == (tmp_path / "2/web.warc.gz").read_bytes()
    assert [d.group for d in first] == ["argparse", "configparser", "json", "math", "sys", "tempfile"]
    text = "\n".join(d.text for d in first)
    assert "Return the cube root of x." in text and "Simple JSON" in text
    assert " at 0x" not in text and "\xa0" not in text and str(Path.home()) not in text


def test_members_inherited_by_every_class_are_not_repeated(tmp_path):
    documents, _ = read(StdlibDocs(modules=("json.decoder",)), tmp_path)
    assert "inherited from" not in documents[0].text and "add_note" not in documents[0].text


def test_no_module_at_all_is_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match=r"sources\.web\.modules=\('no_such_module',\): none could be rendered; name"):
        read(StdlibDocs(modules=("no_such_module",)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_default_list_is_large_and_has_no_module_with_side_effects():
    assert len(MODULES) == len(set(MODULES)) > 200
    assert not {"antigravity", "this", "idlelib", "turtledemo", "turtle", "tkinter"} & {name.split(".")[0] for name in MODULES}


def test_code_is_decoded_as_its_coding_line_says_and_a_bad_file_is_counted(tmp_path):
    files = {
        "pkg/latin.py": "# -*- coding: latin-1 -*-\nname = 'é'\n".encode("latin-1"),
        "pkg/utf8.py": "name = 'é'\n".encode(),
        "pkg/bad.py": b"name = '\xe9'\n",
        "pkg/unknown.py": b"# coding: no-such-coding\nx = 1\n",
        "other/empty.py": b" \n",
        "other/data.json": b"{}",
        "tests/test_it.py": b"assert True\n",
        "single.py": b"x = 1\n",
        "pkg/__pycache__/x.py": b"x = 1\n",
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    documents, counts = read(CodeTree(folder=str(tmp_path), exclude=("/tests/*",)), tmp_path, "code")
    assert [(d.path, d.group) for d in documents] == [("pkg/latin.py", "pkg"), ("pkg/utf8.py", "pkg"), ("single.py", "single")]
    assert "name = 'é'" in documents[0].text and counts == {"file_not_utf8": 2, "file_empty": 1}


def test_folders_that_all_files_share_do_not_make_them_one_group(tmp_path):
    for name in ("src/lib/a.py", "src/lib/b/c.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    assert [d.group for d in read(CodeTree(folder=str(tmp_path)), tmp_path)[0]] == ["a", "b"]


def test_the_standard_library_is_read_without_its_tests_and_groups_as_its_pages_do(tmp_path):
    documents, _ = read(StdlibCode(), tmp_path, "code")
    groups = {d.path: d.group for d in documents}
    assert len(documents) > 400 and groups["json/decoder.py"] == "json" and groups["bisect.py"] == "bisect"
    assert not [path for path in groups if "/test" in f"/{path}" and not path.startswith(("unittest/", "doctest"))]
    assert "pydoc_data/topics.py" not in groups and list(groups) == sorted(groups)


MARK = "*** {} OF THE PROJECT GUTENBERG EBOOK A BOOK ***"
GUTENBERG = f"Title: A Book\n\n{MARK.format('START')}\n\nIt began.\n\nIt ended.\n\n{MARK.format('END')}\nLicence\n"


def test_books_lose_gutenbergs_wrapping_and_bad_ones_are_counted(tmp_path):
    (tmp_path / "a.txt").write_text(GUTENBERG)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"A compressed book.\n"))
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"A truncated book." * 99)[:-12])
    (tmp_path / "d.txt").write_bytes(b"caf\xe9")
    (tmp_path / "e.txt").write_bytes(b"")
    documents, counts = read(Books(folder=str(tmp_path), topics=False), tmp_path, "books")
    assert [(d.group, d.text) for d in documents] == [
        ("book:a.txt", "It began.\n\nIt ended.\n"),
        ("book:b.txt.gz", "A compressed book.\n"),
    ]
    assert counts == {"file_broken_gzip": 1, "file_not_utf8": 1, "file_empty": 1}


def test_a_folder_of_unreadable_books_is_one_clear_error(tmp_path):
    (tmp_path / "d.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"holds no readable book \(file_not_utf8\); books are UTF-8"):
        read(Books(folder=str(tmp_path)), tmp_path, "books")


def test_topics_come_without_a_folder(tmp_path):
    documents, counts = read(Books(), tmp_path, "books")
    assert len(documents) > 60 and not counts
    assert next(d for d in documents if d.group == "topic:while").text.lstrip().startswith('The "while" statement')


def test_a_page_is_the_same_wherever_python_is_installed():
    """`platform.architecture` has the interpreter's path as a default: it would differ with every checkout."""
    code = "import sys; from data_pipeline.readers.render import render; sys.exit(sys.executable.encode() in render(b'platform'))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
