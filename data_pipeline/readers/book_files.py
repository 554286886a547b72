"""One book file, plain text or EPUB, local or remote → its text as it was written, or the reason why it
cannot be read.
"""

import gzip
import re
import zlib
from pathlib import Path
from typing import NamedTuple

from resiliparse.parse.encoding import detect_encoding

from data_pipeline.documents.drops import Drops
from data_pipeline.readers.epub import MAX_TEXT_BYTES
from data_pipeline.readers.gutenberg import declared_charset
from data_pipeline.readers.storage import Unreadable, opened
from data_pipeline.readers.worker import kept_worker

SUFFIXES = (".txt", ".txt.gz", ".epub")
MAX_FILE_BYTES = 256 << 20  # of an EPUB, whose pictures are not read
EPUB_TIMEOUT_S = 60.0
# UTF-32 first: its little-endian mark begins with that of UTF-16.
MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
LINE_END = re.compile(r"\r\n?|\f")  # a form feed begins a page, which is no chapter


class Text(NamedTuple):
    """A book as it was read; `\\f` stands before the headings that its markup has."""

    text: str
    language: str = ""


def read_book(file: str, path: str, work: Path, source: str, drops: Drops) -> Text | None:
    """None, counted, when it cannot be read."""
    name = path.lower()
    most = MAX_FILE_BYTES if name.endswith(".epub") else MAX_TEXT_BYTES
    try:
        with opened(file, work) as raw:
            # One byte more than allowed tells a file that is too large; a bomb is not unpacked further.
            data = (gzip.GzipFile(fileobj=raw) if name.endswith(".gz") else raw).read(most + 1)
    except (gzip.BadGzipFile, zlib.error, EOFError):
        return drops.add(source, "file_broken_gzip", path)
    except Unreadable as error:
        return drops.add(source, "file_unreadable", str(error))
    if len(data) > most:
        return drops.add(source, "file_too_large", path)
    book = (
        _of_epub(data, path, source, drops)
        if name.endswith(".epub")
        else _of_text(data, path, source, drops)
    )
    return book if book is None or book.text.strip() else drops.add(source, "file_empty", path)


def _of_epub(data: bytes, path: str, source: str, drops: Drops) -> Text | None:
    (answer,) = kept_worker("data_pipeline.readers.epub:epub_text").run(
        [data], timeout_s=EPUB_TIMEOUT_S
    )
    if answer.error:
        reason = answer.error.removeprefix("ValueError: ")
        return drops.add(
            source, f"epub_{reason if reason.isidentifier() else 'broken'}", f"{path}: {reason}"
        )
    language, text = answer.data.decode().split("\n", 1)
    return Text(text, language)


def _of_text(data: bytes, path: str, source: str, drops: Drops) -> Text | None:
    text = decode(data)
    return (
        drops.add(source, "file_undecodable", path)
        if text is None
        else Text(LINE_END.sub("\n", text))
    )


def decode(data: bytes) -> str | None:
    """UTF-8, else by its mark, else the encoding that Gutenberg's header declares or that is detected; None
    when it is no text.
    """
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return _decoded(data, encoding)
    # Only UTF-16 and UTF-32 have zero bytes in text, and those begin with a mark.
    if b"\0" in data:
        return None
    text = _decoded(data, "utf-8-sig")
    # What the book says of itself before what is guessed from its bytes.
    for encoding in (declared_charset(data), detect_encoding(data)):
        text = _decoded(data, encoding) if text is None and encoding else text
    return text


def _decoded(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return None
