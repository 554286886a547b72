"""One book or document, plain text, EPUB, PDF or DOCX, local or remote → its text as it was written, or the
reason why it cannot be read.
"""

import gzip
import posixpath
import re
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

from resiliparse.parse.encoding import detect_encoding

from data_pipeline.documents.drops import Drops
from data_pipeline.readers.epub import MAX_TEXT_BYTES
from data_pipeline.readers.gutenberg import declared_charset
from data_pipeline.readers.storage import Unreadable, opened
from data_pipeline.readers.worker import kept_worker

SUFFIXES = (".txt", ".txt.gz", ".epub")
# Of formats that a hostile file can abuse, what reads them: a function that runs in a child process.
HANDLERS = {
    ".epub": "data_pipeline.readers.epub:epub_text",
    ".pdf": "data_pipeline.readers.pdf:pdf_text",
    ".docx": "data_pipeline.readers.docx:docx_text",
}
MAX_FILE_BYTES = 256 << 20  # of those, whose pictures are not read
TIMEOUT_S = 60.0
# UTF-32 first: its little-endian mark begins with that of UTF-16.
MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
LINE_END = re.compile(r"\r\n?|\f")  # a form feed begins a page, which is no chapter


class Text(NamedTuple):
    """A text as it was read; `\\f` stands before the headings that its markup has."""

    text: str
    language: str = ""


def read_book(file: str, path: str, work: Path, source: str, drops: Drops) -> Text | None:
    """The text of a file, by the suffix of `path`; None, counted, when it cannot be read."""
    suffix = posixpath.splitext(path.lower())[1]
    most = MAX_FILE_BYTES if suffix in HANDLERS else MAX_TEXT_BYTES
    try:
        with opened(file, work) as raw:
            # One byte more than allowed tells a file that is too large; a bomb is not unpacked further.
            data = raw.read(most + 1) if suffix != ".gz" else _unpacked(raw, most + 1)
    except (gzip.BadGzipFile, zlib.error, EOFError):
        return drops.add(source, "file_broken_gzip", path)
    except Unreadable as error:
        return drops.add(source, "file_unreadable", str(error))
    if len(data) > most:
        return drops.add(source, "file_too_large", path)
    text = (
        _of_child(suffix, data, path, source, drops)
        if suffix in HANDLERS
        else _of_text(data, path, source, drops)
    )
    return text if text is None or text.text.strip() else drops.add(source, "file_empty", path)


def _unpacked(packed: BinaryIO, most: int) -> bytes:
    """At most so many bytes of the members of a gzip file; what stands behind the last one and is no member
    is left out, as gzip itself does.

    Raises:
        gzip.BadGzipFile, zlib.error, EOFError: a member is damaged, or breaks off.
    """
    data = bytearray()
    with gzip.GzipFile(fileobj=packed) as file:
        while len(data) < most:
            try:
                # read1, because read would lose with the exception what it had of the member before.
                chunk = file.read1(most - len(data))
            except gzip.BadGzipFile as error:
                # The same class tells of a wrong checksum, which is damage.
                if data and str(error).startswith("Not a gzipped file"):
                    break
                raise
            if not chunk:
                break
            data += chunk
    return bytes(data)


def _of_child(suffix: str, data: bytes, path: str, source: str, drops: Drops) -> Text | None:
    (answer,) = kept_worker(HANDLERS[suffix]).run([data], timeout_s=TIMEOUT_S)
    if answer.error:
        # A word is one of the handler's own; a sentence is that of a library.
        reason = answer.error.removeprefix("ValueError: ")
        word = reason if reason.isidentifier() else "broken"
        return drops.add(source, f"{suffix[1:]}_{word}", f"{path}: {reason}")
    head, text = answer.data.decode().split("\n", 1)
    # What is lost of a file that is read otherwise: pages of a PDF.
    language, _, n_lost = head.partition(" ")
    if n_lost.strip("0"):
        drops.add(source, f"{suffix[1:]}_damaged_page_spans", path, n=int(n_lost))
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
