"""HTML → text in a child: pages that are deep, stuck or wrongly labelled cost themselves alone, and folders
of pages read like archives.
"""

import gzip
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.documents.drops import Drops
from data_pipeline.readers import folder
from data_pipeline.readers.extract import depth, depth_bound
from data_pipeline.readers.html_folder import HtmlFolder
from data_pipeline.readers.stdlib_docs import MODULES, StdlibDocs
from data_pipeline.readers.warc import Warc
from data_pipeline.readers.worker import Worker, kept_worker
from tests.data_pipeline.reading import numbers, read, read_with_drops, record

ROOT = Path(__file__).parents[2]
HANDLER = "data_pipeline.readers.extract:extract"


@pytest.mark.parametrize(
    "html",
    [b"<div>" * 20_000 + b"deep" + b"</div>" * 20_000, b"<b>" * 1_000_000, b"<ul><li>" * 300_000],
    ids=["div", "b", "ul"],
)
def test_a_page_nested_without_end_is_left_out_and_its_neighbours_are_read(tmp_path, html):
    flat = (
        b"<html><body><main>"
        + b"<p>Many paragraphs do not nest, closed or not." * 5_000
        + b"</main></body></html>"
    )
    (tmp_path / "a.warc").write_bytes(
        record(0) + record(1, b"<html><body>" + html) + record(2, flat) + record(3)
    )
    documents, counts = read(Warc(paths=(str(tmp_path),)), tmp_path)
    assert numbers(documents) == [0, 2, 3] and counts == {"page_too_deep": 1}


def test_a_page_that_takes_too_long_costs_itself_alone(tmp_path):
    slow = b"<div>" * 1_900 + b"<p>slow</p>" * 60_000  # under the limit of depth, and slow at it
    (tmp_path / "a.warc").write_bytes(record(0) + record(1, slow) + record(2))
    documents, counts = read(Warc(paths=(str(tmp_path),), timeout_s=0.2), tmp_path)
    assert numbers(documents) == [0, 2] and counts == {"page_timeout": 1}


@given(
    steps=st.lists(
        st.tuples(
            st.integers(-2_000, 2_000),
            st.sampled_from([b"", b"<p>words</p>", b"<br>", b"<ul><li>one<li>two</ul>"]),
        )
    )
)
@settings(max_examples=60)
def test_the_quick_bound_of_a_pages_depth_is_never_too_low_when_it_closes_what_it_opened(steps):
    html, level = b"", 0
    for step, between in steps:
        level += (step := max(step, -level))
        html += b"<div>" * step + b"</div>" * -step + between
    assert depth(html) <= depth_bound(html)


TEXT = "Une page écrite à l'ancienne, où chaque é a sa place."


@pytest.mark.parametrize(
    ("kind", "head", "encoding"),
    [
        ("text/html; charset=iso-8859-1", "", "latin-1"),
        ("text/html", '<meta charset="windows-1252">', "cp1252"),
        (
            "text/html",
            '<meta http-equiv="Content-Type" content="text/html; charset=utf-8">',
            "utf-8",
        ),
        ("text/html", "", "utf-8"),
        ("text/html; charset=utf-8", "", "cp1252"),  # declared wrongly
        ("text/html; charset=no-such-charset", '<meta charset="utf-8">', "utf-8"),
        ("text/html; charset=\xff", "", "utf-8"),
    ],
    ids=["http", "meta", "http-equiv", "sniffed", "wrong", "unknown", "no-ascii"],
)
def test_a_page_is_decoded_as_declared_or_as_detected(tmp_path, kind, head, encoding):
    html = f"<html><head>{head}</head><body><main><p>{TEXT}</p></main></body></html>".encode(
        encoding
    )
    (tmp_path / "a.warc").write_bytes(record(0, html, kind=kind))
    documents, counts = read(Warc(paths=(str(tmp_path),)), tmp_path)
    assert [d.text.strip() for d in documents] == [TEXT] and counts == {}


def test_what_a_child_did_before_does_not_change_its_answers():
    pages = [
        b"main\nutf-8\n<main><p>%d %s</p></main>" % (n, b"words of a page " * 10 * n)
        for n in range(8)
    ] + [b"all\n\n\xff\xfe<p>odd"]
    forward = kept_worker(HANDLER).run(pages, timeout_s=5.0)
    assert kept_worker(HANDLER).run(pages[::-1], timeout_s=5.0)[::-1] == forward
    alone = Worker(HANDLER)
    try:
        assert alone.run(pages[3:4], timeout_s=5.0) == forward[3:4]
    finally:
        alone.close()


def test_one_child_serves_all_parts(tmp_path):
    before = kept_worker(HANDLER)
    (tmp_path / "a.warc").write_bytes(record(0))
    read(Warc(paths=(str(tmp_path),)), tmp_path)
    child = before._process.pid
    read(Warc(paths=(str(tmp_path),)), tmp_path)
    assert kept_worker(HANDLER) is before and before._process.pid == child


def test_a_stuck_or_crashed_request_costs_only_itself():
    stuck = Worker("builtins:eval")
    asleep, ended, busy, large = (
        b"__import__('time').sleep(60)",
        b"__import__('os')._exit(3)",
        b"sum(range(10**15))",
        b"bytes(8 << 30)",
    )
    answers = stuck.run(
        [b"b'one'", asleep, b"b'two'", ended, b"1/0", busy, b"b'three'", large], timeout_s=0.2
    )
    stuck.close()
    assert [a.data for a in answers] == [b"one", b"", b"two", b"", b"", b"", b"three", b""]
    assert [a.error for a in answers] == [
        "", "timeout", "", "crash", "ZeroDivisionError: division by zero", "timeout", "", "MemoryError: "
    ]  # fmt: skip


def test_a_child_that_cannot_start_is_one_clear_error():
    with pytest.raises(
        ChildProcessError,
        match="does not start a child for no.such:handler; check memory and limits",
    ):
        Worker("no.such:handler").run([b""], timeout_s=1.0)


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("busy", ["b''", "__import__('time').sleep(60)"], ids=["idle", "busy"])
def test_no_child_outlives_a_parent_that_is_killed(busy):
    code = f"""if True:
        import os, threading, time
        from data_pipeline.readers.worker import Worker
        w = Worker("builtins:eval")
        w.run([b"b''"], timeout_s=60.0)
        if not os.fork():  # holds the pipes open, as another child of the engine may
            time.sleep(20)
            os._exit(0)
        print(w._process.pid, flush=True)
        w.run([{busy.encode()!r}], timeout_s=60.0)
        time.sleep(60)"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        child = int(parent.stdout.readline())
        assert is_running(child)
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 60
        while is_running(child) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not is_running(child)
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.stdout.close()


def test_a_folder_of_pages_is_read_in_the_order_of_its_paths(tmp_path):
    menu = "<html><body><nav><a href='/'>Home</a></nav>"
    page = (
        menu
        + "<main><p>The page called {} says so in a sentence of its own.</p></main></body></html>"
    )
    names = ["b.htm", "a/z.html", "a/b.xhtml", "c.HTML.gz", "a\nb.html"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        data = page.format(name.encode().hex()).encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    (tmp_path / "notes.txt").write_text("no page")
    documents, counts = read(HtmlFolder(folder=str(tmp_path)), tmp_path)
    assert [d.path for d in documents] == [d.group for d in documents] == sorted(
        names
    ) and counts == {}
    assert all(d.path.encode().hex() in d.text and "Home" not in d.text for d in documents)
    everything, _ = read(HtmlFolder(folder=str(tmp_path), content="all"), tmp_path)
    assert all("Home" in d.text for d in everything)


def test_parts_of_a_folder_together_are_the_folder(tmp_path, monkeypatch):
    for n in range(9):
        (tmp_path / f"{n}.html").write_text(f"<main><p>{'words ' * 900} {n}</p></main>")
    whole = read(HtmlFolder(folder=str(tmp_path)), tmp_path)
    reader = HtmlFolder(folder=str(tmp_path))
    assert len(reader.parts("web", work=tmp_path)) == 1
    monkeypatch.setattr(folder, "BATCH_BYTES", 20_000)
    assert len(parts := reader.parts("web", work=tmp_path)) == 3
    backwards = [
        list(reader.read(part, "web", work=tmp_path, drops=Drops())) for part in parts[::-1]
    ]
    assert [d for some in backwards[::-1] for d in some] == whole[0]


def test_files_that_are_no_good_page_are_counted_by_reason_with_their_place(tmp_path):
    (tmp_path / "good.html").write_text("<main><p>A good page among bad ones.</p></main>")
    (tmp_path / "empty.html").write_bytes(b"")
    (tmp_path / "long.html").write_text("<p>" + "long " * 2_000)
    (tmp_path / "bomb.html.gz").write_bytes(gzip.compress(bytes(30 << 20)))
    (tmp_path / "cut.html.gz").write_bytes(gzip.compress(b"<p>A page that breaks off.</p>")[:-9])
    (tmp_path / "loop.html").symlink_to("loop.html")
    (tmp_path / "gone.html").symlink_to("nowhere")
    (tmp_path / "around").symlink_to(".")
    os.mkfifo(tmp_path / "pipe.html")
    documents, drops = read_with_drops(
        HtmlFolder(folder=str(tmp_path), max_page_bytes=5_000), tmp_path
    )
    assert [d.path for d in documents] == ["good.html"]
    assert drops.counts["web"] == {
        "file_too_large": 2,
        "file_damaged": 1,
        "file_unreadable": 3,
        "page_without_text": 1,
    }
    assert drops.examples["file_damaged"] == [f"{tmp_path}/cut.html.gz:0: damaged_gzip_bytes"]


def test_module_pages_are_the_same_every_time_and_name_no_machine(tmp_path):
    modules = (
        "json.decoder",
        "math",
        "configparser",
        "no_such_module",
        "sys",
        "tempfile",
        "argparse",
    )
    first, counts = read(StdlibDocs(modules=modules), tmp_path / "1")
    second, _ = read(StdlibDocs(modules=modules[::-1]), tmp_path / "2")
    assert first == second and counts == {"module_not_rendered": 1}
    archives = [next((tmp_path / n / "work").glob("web-*.warc.gz")).read_bytes() for n in "12"]
    assert archives[0] == archives[1]
    assert [d.group for d in first] == [
        "argparse",
        "configparser",
        "json",
        "math",
        "sys",
        "tempfile",
    ]
    text = "\n".join(d.text for d in first)
    assert "Return the cube root of x." in text and "Simple JSON" in text
    assert " at 0x" not in text and "\xa0" not in text and str(Path.home()) not in text


def test_members_inherited_by_every_class_are_not_repeated(tmp_path):
    documents, _ = read(StdlibDocs(modules=("json.decoder",)), tmp_path)
    assert "inherited from" not in documents[0].text and "add_note" not in documents[0].text


def test_modules_that_are_not_there_are_counted_and_none_named_is_an_error(tmp_path):
    assert read(StdlibDocs(modules=("no_such_module",)), tmp_path) == (
        [],
        {"module_not_rendered": 1},
    )
    with pytest.raises(ValueError, match=r"sources\.web\.modules=\(\) names nothing to read; name"):
        read(StdlibDocs(modules=()), tmp_path)


def test_the_default_list_is_large_in_parts_and_has_no_module_with_side_effects(tmp_path):
    assert len(MODULES) == len(set(MODULES)) > 200
    assert not {"antigravity", "this", "idlelib", "turtledemo", "turtle", "tkinter"} & {
        name.split(".")[0] for name in MODULES
    }
    parts = StdlibDocs().parts("web", work=tmp_path)
    assert 10 < len(parts) < 20 and [p.name for p in parts] == sorted(p.name for p in parts)
    assert [name for part in parts for name in part.detail.split()] == sorted(MODULES)


def test_a_page_is_the_same_wherever_python_is_installed():
    """`platform.architecture` has the interpreter's path as a default: it would differ with every
    checkout.
    """
    code = "import sys; from data_pipeline.readers.render import render; sys.exit(sys.executable.encode() in render(b'platform'))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
