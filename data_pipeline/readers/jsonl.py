"""Documents from JSON lines: an object a line, of which some keys are read."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from data_pipeline.documents.columns import Columns
from data_pipeline.documents.document import Document
from data_pipeline.documents.drops import Drops
from data_pipeline.readers.compressed import Piece, pieces
from data_pipeline.readers.folder import name_of, one_part_a_file
from data_pipeline.readers.part import Part
from data_pipeline.readers.storage import Unreadable, mapped

SUFFIXES = tuple(
    kind + packed
    for kind in (".jsonl", ".json", ".ndjson")
    for packed in ("", ".gz", ".zst", ".bz2")
)


class Jsonl(BaseModel, frozen=True, extra="forbid", strict=True):
    """JSON lines, plain, gzip, zstd or bzip2.

    Attributes:
        paths: Files or URLs, or folders searched for .jsonl, .json and .ndjson files, also .gz, .zst and
        .bz2.
        columns: Which keys are read.
        max_line_bytes: Longer lines are counted and left out, and never in memory as a whole.
    """

    VERSION: ClassVar[int] = 1

    paths: tuple[str, ...]
    columns: Columns = Columns()
    max_line_bytes: int = 64 << 20

    def parts(self, source: str, *, work: Path) -> list[Part]:
        """A part a file.

        Raises:
            FileNotFoundError: A path does not exist.
            ValueError: A folder has no such file.
        """
        return one_part_a_file(self.paths, SUFFIXES, field=f"sources.{source}.paths")

    def read(self, part: Part, source: str, *, work: Path, drops: Drops) -> Iterator[Document]:
        """One document a line; a row's place is FILE:LINE (after damage the line is counted among those
        that can be read).
        """
        path, name = part.inputs[0], name_of(part)

        def lost(reason: str, offset: int, n_bytes: int) -> None:
            drops.add(source, reason, f"{name}:byte {offset}: {n_bytes} bytes", n_bytes)

        try:
            with mapped(path, work) as buffer:
                for number, line in enumerate(
                    lines_of(pieces(buffer, path, lost), self.max_line_bytes), 1
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
