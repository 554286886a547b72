"""Raw files on disk, over HTTP and in a store give the same documents; names that no table can hold still
do.
"""

import contextlib
import functools
import gzip
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import zstandard

from data_pipeline.files import OutputError
from data_pipeline.readers.folder import files_under, name_in
from data_pipeline.readers.html_folder import HtmlFolder
from data_pipeline.readers.jsonl import Jsonl
from data_pipeline.readers.storage import Unreadable, mapped, opened, sha256_of, state_of
from data_pipeline.readers.warc import Warc
from tests.data_pipeline.reading import numbers, read, record

FILES = {
    "a.warc": b"".join(map(record, range(3))),
    "b/b.warc.gz": b"".join(gzip.compress(record(n)) for n in range(3, 6)),
    "b/c.warc.zst": b"".join(zstandard.compress(record(n)) for n in range(6, 9)),
    "b/empty.warc": b"",
}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server of files that knows no ranges."""

    def log_message(self, *args):
        """Say nothing."""


class Breaking(Quiet):
    """A server that promises more than it sends."""

    def copyfile(self, source, outputfile):
        outputfile.write(source.read()[:-10])


@contextlib.contextmanager
def served(folder: Path, handler: type[Quiet] = Quiet) -> Iterator[str]:
    """The URL of a folder on this machine."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def store() -> Iterator[str]:
    """An object store with `FILES`."""
    memory = fsspec.filesystem("memory")
    for name, data in FILES.items():
        memory.pipe(f"/bucket/corpus/{name}", data)
    yield "memory://bucket/corpus"
    memory.rm("/bucket", recursive=True)


def test_a_store_and_a_server_give_what_the_disk_gives(tmp_path, store):
    here = read(Warc(paths=(str(write(tmp_path / "files", FILES)),)), tmp_path)
    assert numbers(here[0]) == list(range(9)) and here[1] == {"file_without_record": 1}
    assert read(Warc(paths=(store,)), tmp_path) == here
    with served(tmp_path / "files") as url:
        assert read(Warc(paths=(url,)), tmp_path) == here
        assert numbers(read(Warc(paths=(f"{url}b/b.warc.gz", f"{url}a.warc")), tmp_path)[0]) == [
            3,
            4,
            5,
            0,
            1,
            2,
        ]
    assert not list((tmp_path / "work").iterdir())


def test_hashes_and_states_of_inputs_are_known_wherever_they_are(tmp_path, store):
    write(tmp_path, FILES)
    for name in FILES:
        assert sha256_of(f"{store}/{name}", tmp_path) == sha256_of(str(tmp_path / name), tmp_path)
        before = state_of(str(tmp_path / name))
        (tmp_path / name).write_bytes(b"another")
        assert state_of(str(tmp_path / name)) != before and state_of(f"{store}/{name}")[0] == str(
            len(FILES[name])
        )
    (tmp_path / "loop").symlink_to("loop")
    assert (state_of(str(tmp_path / "loop")), sha256_of(str(tmp_path / "loop"), tmp_path)) == (
        (),
        "",
    )


@pytest.mark.parametrize(
    ("path", "error", "sentence"),
    [
        (
            "memory://bucket/nowhere",
            FileNotFoundError,
            "sources.x='memory://bucket/nowhere' does not exist or cannot be reached; name an",
        ),
        ("memory://bucket/corpus/b", ValueError, "holds no .txt file; name a folder that does"),
        (
            "nosuch://bucket/a",
            ValueError,
            "sources.x='nosuch://bucket/a' cannot be opened: Protocol not known: nosuch; install what",
        ),
        (
            "http://127.0.0.1:9/",
            OSError,
            r"sources.x='http://127.0.0.1:9/' cannot be listed \(.*\); check the address and access",
        ),
    ],
)
def test_an_address_with_nothing_to_read_is_one_clear_error(store, path, error, sentence):
    with pytest.raises(error, match=sentence) as raised:
        files_under(path, (".txt",), field="sources.x")
    assert "\n" not in str(raised.value)


def test_a_file_that_breaks_off_on_the_way_is_an_error_and_not_a_short_file(tmp_path):
    write(tmp_path / "files", FILES)
    with served(tmp_path / "files", Breaking) as url:
        with pytest.raises(
            OSError,
            match=r"a\.warc could not be fetched \(.*\); check address and access, then repeat",
        ) as error:
            read(Warc(paths=(f"{url}a.warc",)), tmp_path)
        assert not isinstance(error.value, Unreadable)


def test_a_work_folder_that_cannot_be_written_is_named(store, tmp_path):
    work = tmp_path / "work"
    work.write_bytes(b"")
    with (
        pytest.raises(OutputError, match=f"cannot write {work}: .*; free space there"),
        opened(f"{store}/a.warc", work),
    ):
        pass


def test_a_folder_that_cannot_be_listed_is_an_error_and_not_passed_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.html").write_bytes(b"<p>a")
    for _ in range(17):  # a path longer than the 4096 bytes that the system takes
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    with pytest.raises(
        OSError, match=r"sources\.x: .* cannot be listed \(File name too long\); make it readable"
    ):
        files_under(str(tmp_path), (".html",), field="sources.x")


def test_names_with_newlines_or_bytes_that_are_no_utf8_are_read_and_written_as_text(tmp_path):
    folder = tmp_path / "p\xe4ges #1?"
    folder.mkdir()
    names = [
        b"a\nb.html",
        b"caf\xe9.html",
        "größe.html".encode(),
        b"100%25.html",
        b"x::y.html",
        b"file:a.html",
    ]
    for name in names:
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            file.write(
                b"<main><p>The page " + name.hex().encode() + b" has a name of its own.</p></main>"
            )
    for file in files_under(str(folder), (".html",), field="x"):
        file.path.encode(), file.name.encode()
        assert name_in(str(folder), file.path) == file.name and sha256_of(file.path, tmp_path)
    documents, counts = read(HtmlFolder(folder=str(folder)), tmp_path)
    assert {d.path: d.text.split()[2] for d in documents} == {
        n.decode(errors="backslashreplace"): n.hex() for n in names
    } and counts == {}
    inputs = HtmlFolder(folder=str(folder)).parts("web", work=tmp_path)[0].inputs
    assert [path for path in inputs if path.startswith("file://")] == [
        folder.as_uri() + "/caf%E9.html"
    ]


def test_a_link_to_a_folder_is_followed_once_and_never_round(tmp_path):
    tmp_path, other = tmp_path / "corpus", tmp_path / "other"
    write(other, {"e.html": b"<p>e"})
    tmp_path.mkdir()
    for name in ("here", "there"):
        (tmp_path / name).symlink_to(other)
    (tmp_path / "up").symlink_to("..")
    write(tmp_path, {"a.html": b"<p>a", "b/c.html": b"<p>c", "b/.hidden.html": b"<p>d"})
    (tmp_path / "b/again").symlink_to("..")
    (tmp_path / "b/d.html").symlink_to("../a.html")
    assert [file.name for file in files_under(str(tmp_path), (".html",), field="x")] == [
        "a.html",
        "b/c.html",
        "b/d.html",
        "here/e.html",
    ]


def test_an_empty_file_and_a_pipe_are_told_apart(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    with mapped(str(tmp_path / "empty"), tmp_path) as buffer:
        assert buffer == b""
    os.mkfifo(tmp_path / "pipe")
    with (
        pytest.raises(Unreadable, match="pipe: no regular file"),
        opened(str(tmp_path / "pipe"), tmp_path),
    ):
        pass


def test_json_lines_are_read_from_a_store(tmp_path, store):
    fsspec.filesystem("memory").pipe(
        "/bucket/corpus/a.jsonl.gz", gzip.compress(b'{"text": "one"}\n{"text": "two"}\n')
    )
    documents, _ = read(Jsonl(paths=(store,)), tmp_path)
    assert [(d.text, d.path) for d in documents] == [
        ("one", "a.jsonl.gz:1"),
        ("two", "a.jsonl.gz:2"),
    ]
