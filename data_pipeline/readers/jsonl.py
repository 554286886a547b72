"""Documents from JSON lines: an object a line, of which some keys are read."""

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from data_pipeline.documents.columns import Columns
from data_pipeline.documents.document import Document
from data_pipeline.documents.drops import Drops
from data_pipeline.readers.compressed import Piece, pieces
from data_pipeline.readers.folder import files_of, parts_of_files
from data_pipeline.readers.part import Part
from data_pipeline.readers.storage import Unreadable, mapped

SUFFIXES = tuple(
    kind + packed
    for kind in (".jsonl", ".json", ".ndjson")
    for packed in ("", ".gz", ".zst", ".bz2")
)

# What tells where an element of an array ends; a backslash is taken with what it escapes.
MARKS = re.compile(rb'[\[\]{},"]|\\.?', re.DOTALL)
SEAM = re.compile(rb"\}\s*,\s*(?=\{)")  # between two objects of an array


class Jsonl(BaseModel, frozen=True, extra="forbid", strict=True):
    """JSON lines, or a JSON array of objects; plain, gzip, zstd or bzip2.

    Attributes:
        paths: Files or URLs, or folders searched for .jsonl, .json and .ndjson files, also .gz, .zst and
        .bz2.
        columns: Which keys are read.
        max_line_bytes: Longer lines (of an array, objects) are counted and left out, and never in memory as
        a whole.
    """

    VERSION: ClassVar[int] = 2

    paths: tuple[str, ...]
    columns: Columns = Columns()
    max_line_bytes: int = 64 << 20

    def parts(self, source: str, *, work: Path) -> list[Part]:
        """A part for some 64 MB of files.

        Raises:
            FileNotFoundError: A path does not exist.
            ValueError: A folder has no such file.
        """
        return parts_of_files(self.paths, SUFFIXES, field=f"sources.{source}.paths")

    def read(self, part: Part, source: str, *, work: Path, drops: Drops) -> Iterator[Document]:
        """One document a line; a row's place is FILE:LINE (after damage the line is counted among those
        that can be read), in an array FILE:NUMBER.
        """
        for path, name in files_of(part):
            yield from self._file(path, name, source, work, drops)

    def _file(
        self, path: str, name: str, source: str, work: Path, drops: Drops
    ) -> Iterator[Document]:
        def lost(reason: str, offset: int, n_bytes: int) -> None:
            drops.add(source, reason, f"{name}:byte {offset}: {n_bytes} bytes", n_bytes)

        try:
            with mapped(path, work) as buffer:
                for number, line in enumerate(
                    records_of(pieces(buffer, path, lost), self.max_line_bytes), 1
                ):
                    place = f"{name}:{number}"
                    row = parsed(line, place, source, drops)
                    document = (
                        None if row is None else self.columns.document(row, place, source, drops)
                    )
                    if document is not None:
                        yield document
        except Unreadable as error:
            drops.add(source, "file_unreadable", str(error))


def parsed(line: bytes | None, place: str, source: str, drops: Drops) -> dict[str, Any] | None:
    """The object of a line; None, counted, when there is none, and not counted for an empty line."""
    if line is None:
        return drops.add(source, "row_too_large", place)
    if not line.strip():
        return None
    try:
        # -sig: a byte order mark at the head of a file is no part of its first object.
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return drops.add(source, "row_not_utf8", place)
    except (ValueError, RecursionError) as error:
        return drops.add(source, "row_not_json", f"{place}: {error}")
    return (
        row if isinstance(row, dict) else drops.add(source, "row_not_json", f"{place}: no object")
    )


def records_of(pieces: Iterable[Piece], max_bytes: int) -> Iterator[bytes | None]:
    """The lines of the data, or the elements of an array where it begins with one."""
    pieces = iter(pieces)
    first = next(pieces, None)
    if first is None:
        return
    together = itertools.chain([first], pieces)
    is_array = first.data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
    yield from (elements_of if is_array else lines_of)(together, max_bytes)


def elements_of(pieces: Iterable[Piece], max_bytes: int) -> Iterator[bytes | None]:
    """The elements of an array, as lines are given by `lines_of`: found by brackets and strings alone, so
    that no array is in memory as a whole.
    """
    element, too_long = bytearray(), False
    depth, in_string, is_cut, is_lost = 0, False, False, False
    for piece in pieces:
        start = 0
        if piece.broken or is_lost:
            # Damage cut off what was open, and whether that was a string: go on where two objects meet.
            if element.strip() or too_long:
                yield None if too_long else bytes(element)
            element, too_long, in_string, is_cut = bytearray(), False, False, False
            seam = SEAM.search(piece.data)
            is_lost = seam is None
            if seam is None:
                continue
            depth, start = 1, seam.end()
        # What a backslash at the end of the piece before it takes is no mark.
        for mark in MARKS.finditer(piece.data, max(start, int(is_cut))):
            sign, at = mark[0], mark.start()
            if in_string:
                in_string = sign != b'"'
                continue
            if sign == b'"':
                in_string = True
            elif sign in b"[{":
                depth += 1
                start = at + 1 if depth == 1 else start
            elif sign in b"]}":
                depth -= 1
            # At the top, a comma or the last bracket ends an element.
            if (sign == b"," and depth == 1) or (sign == b"]" and depth == 0):
                element += piece.data[start:at]
                if element.strip() or too_long:
                    yield None if too_long or len(element) > max_bytes else bytes(element)
                element, too_long, start = bytearray(), False, at + 1
        element += piece.data[start:] if depth else b""
        backslashes = len(piece.data) - len(piece.data.rstrip(b"\\"))
        is_cut = backslashes % 2 == 1
        if len(element) > max_bytes:
            element, too_long = bytearray(), True
    if element.strip() or too_long:
        yield None if too_long else bytes(element)


def lines_of(pieces: Iterable[Piece], max_bytes: int) -> Iterator[bytes | None]:
    """The lines of the data without their ends; None for one longer than `max_bytes`; one that damage cuts
    off ends there.
    """
    line, too_long = bytearray(), False
    for piece in pieces:
        # The rest of a line that damage cut off is lost; joined to the next line it would be another's row.
        if piece.broken and (line or too_long):
            yield None if too_long else bytes(line)
            line, too_long = bytearray(), False
        # A line may lie across pieces: `rest` waits for its end.
        *ended, rest = piece.data.split(b"\n")
        for some in ended:
            line += some
            yield None if too_long or len(line) > max_bytes else bytes(line)
            line, too_long = bytearray(), False
        line += rest
        if len(line) > max_bytes:
            line, too_long = bytearray(), True
    if line or too_long:
        yield None if too_long else bytes(line)
