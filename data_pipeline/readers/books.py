"""Long prose: the topics that `help()` explains, and a user's folder of books as plain text or EPUB."""

import json
import platform
import pydoc_data.topics
import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, Field

from data_pipeline.documents.document import Document, content_id
from data_pipeline.documents.drops import Drops
from data_pipeline.readers.book_files import SUFFIXES, Text, read_book
from data_pipeline.readers.chapters import chapters
from data_pipeline.readers.folder import batches, files_and_others, name_in
from data_pipeline.readers.gutenberg import without_gutenberg
from data_pipeline.readers.left_out import by_suffix, count
from data_pipeline.readers.part import Part
from data_pipeline.readers.scans import without_scan_noise

# What is no book here may be a text of one's own.
OTHER_READER = {
    suffix: "a source of type Texts reads it"
    for suffix in ("md", "markdown", "rst", "text", "html", "htm", "xhtml", "pdf", "docx")
}
WRAP_CHARS = 50  # no line of a hard-wrapped paragraph but its last is shorter


class Books(BaseModel, frozen=True, extra="forbid", strict=True):
    """Books and book-like texts. Plain text is UTF-8, UTF-16, or the legacy encoding that it declares or is
    detected to be in.

    Attributes:
        folder: A folder of .txt, .txt.gz and .epub files, one book each; none by default. What else lies
            there is counted by its suffix.
        topics: Whether Python's `help()` topics are read; None = only where there is no folder.
        unit: What becomes one document; the group is the book either way.
        lines: Whether the lines of a hard-wrapped paragraph stay, or are joined (verse and tables always
        stay).
        min_letter_frac: For scanned books (0.6 is a fair start): paragraphs with fewer letters among their
        characters are dropped, and
            with them page numbers, running heads and hyphens at line ends. None = the text was proofread.
    """

    VERSION: ClassVar[int] = 3

    folder: str | None = None
    topics: bool | None = None
    unit: Literal["book", "chapter"] = "book"
    lines: Literal["kept", "joined"] = "kept"
    min_letter_frac: float | None = Field(None, ge=0, le=1)

    def fingerprint(self) -> str:
        """The version of Python, whose topics are read; "" without them."""
        return platform.python_version() if self._reads_topics() else ""

    def parts(self, source: str, *, work: Path) -> list[Part]:
        """The topics, then the folder's books by path in batches.

        Raises:
            FileNotFoundError: No such folder.
            ValueError: It holds no book; or there is neither folder nor topics.
        """
        if self.folder is None and not self._reads_topics():
            raise ValueError(
                f"sources.{source}: folder=None and topics=False leave no books; set one of them"
            )
        parts = (
            [Part("00000", (pydoc_data.topics.__file__,), "topics")] if self._reads_topics() else []
        )
        if self.folder is not None:
            field = f"sources.{source}.folder"
            files, others = files_and_others(self.folder, SUFFIXES, field=field)
            # Counted once, so only the first part of the folder brings it along.
            detail = json.dumps(by_suffix(others, OTHER_READER)) if others else ""
            for batch in batches(files):
                name = f"{len(parts):05d}"
                parts.append(Part(name, tuple(file.path for file in batch), detail))
                detail = ""
        return parts

    def read(self, part: Part, source: str, *, work: Path, drops: Drops) -> Iterator[Document]:
        """One document a book, its path that of the file; or one a chapter, with `#` and its number behind
        the path.
        """
        if part.detail == "topics":
            for name, text in sorted(pydoc_data.topics.topics.items()):
                yield Document(
                    content_id(text),
                    text,
                    source,
                    f"topic:{name}",
                    f"topic:{name}",
                    "en",
                    "PSF-2.0",
                )
            return
        if part.detail:
            count(json.loads(part.detail), source, drops)
        for file in part.inputs:
            path = name_in(self.folder, file)
            book = read_book(file, path, work, source, drops)
            if book is not None:
                yield from self._documents(book, path, source, drops)

    def _reads_topics(self) -> bool:
        # Whoever names a folder wants his own books, not 79 pages of help among them.
        return self.folder is None if self.topics is None else self.topics

    def _documents(self, book: Text, path: str, source: str, drops: Drops) -> Iterator[Document]:
        text, language = without_gutenberg(book.text)
        # Gutenberg's header was written by people; an EPUB's metadata may be a converter's default.
        language = language or book.language
        if self.min_letter_frac is not None:
            text, n_page_lines, n_joined, n_noise_bytes = without_scan_noise(
                text, min_letter_frac=self.min_letter_frac
            )
            cuts = {
                "scan_page_lines": n_page_lines,
                "scan_hyphen_spans": n_joined,
                "scan_noise_bytes": n_noise_bytes,
            }
            for reason, n in cuts.items():
                if n:
                    drops.add(source, reason, path, n=n)
        pieces = chapters(text) if self.unit == "chapter" else [text]
        # Form feeds marked headings for `chapters`; in a document they are noise.
        pieces = [piece.replace("\f", "").strip("\n") + "\n" for piece in pieces]
        pieces = [unwrapped(piece) if self.lines == "joined" else piece for piece in pieces]
        if not any(map(str.strip, pieces)):
            drops.add(source, "file_empty", path)
        for n, piece in enumerate(pieces):
            if piece.strip():
                shown = f"{path}#{n:03d}" if self.unit == "chapter" else path
                yield Document(content_id(piece), piece, source, shown, f"book:{path}", language)


def unwrapped(text: str) -> str:
    """Paragraphs whose lines were wrapped at a width, on one line each; short or indented lines are verse,
    tables or titles.
    """
    # A paragraph is a run of lines that begin without indentation.
    return re.sub(r"(?:^[^\s][^\n]*\n)+", _one_line, text, flags=re.MULTILINE)


def _one_line(paragraph: re.Match) -> str:
    lines = paragraph[0].rstrip("\n").split("\n")
    return (
        " ".join(lines) + "\n"
        # One short line before the last means that the breaks are the author's.
        if all(len(line) >= WRAP_CHARS for line in lines[:-1])
        else paragraph[0]
    )
