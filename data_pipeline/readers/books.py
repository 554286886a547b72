"""Long prose: the topics that `help()` explains, and a user's folder of plain-text books."""

import gzip
import pydoc_data.topics
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from data_pipeline.document import Document, content_id
from data_pipeline.drops import Drops
from data_pipeline.readers.folder import files_under

# Project Gutenberg's own header and footer (their wording changed over the years; the starred lines did not)
GUTENBERG_START = re.compile(r"\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG EBOOK.*?\*\*\*", re.IGNORECASE | re.DOTALL)
GUTENBERG_END = re.compile(
    r"\*\*\* ?END OF (?:THE|THIS) PROJECT GUTENBERG EBOOK|^End of (?:the )?Project Gutenberg", re.IGNORECASE | re.MULTILINE
)


class Books(BaseModel, frozen=True, extra="forbid", strict=True):
    """Books and book-like texts.

    Attributes:
        folder: A folder of .txt and .txt.gz files (UTF-8), one book each; none by default.
        topics: Whether Python's `help()` topics are read too.
    """

    folder: str | None = None
    topics: bool = True

    def documents(self, source: str, *, work: Path, drops: Drops | None = None) -> Iterator[Document]:
        """Topics by name (group `topic:NAME`), then the folder's books by path (group `book:PATH`).

        Raises:
            FileNotFoundError: No such folder.
            ValueError: It holds no .txt file, or not one that can be read; or there is neither folder nor topics.
        """
        drops = Drops() if drops is None else drops
        if self.folder is None and not self.topics:
            raise ValueError(f"sources.{source}: folder=None and topics=False leave no books; set one of them")
        if self.topics:
            for name, text in sorted(pydoc_data.topics.topics.items()):
                yield Document(content_id(text), text, source, f"topic:{name}", f"topic:{name}")
        if self.folder is not None:
            yield from self._books(source, drops)

    def _books(self, source: str, drops: Drops) -> Iterator[Document]:
        field, root, n_books = f"sources.{source}.folder", Path(self.folder).expanduser(), 0
        for file in files_under(self.folder, (".txt", ".txt.gz"), field=field):
            text = read_book(file, source, drops)
            if text is not None:
                n_books += 1
                path = file.relative_to(root).as_posix() if root.is_dir() else file.name
                yield Document(content_id(text), text, source, path, f"book:{path}")
        if not n_books:
            reasons = ", ".join(sorted(drops.counts.get(source, {})))
            raise ValueError(f"{field}={self.folder!r} holds no readable book ({reasons}); books are UTF-8 .txt or .txt.gz files with text")


def read_book(file: Path, source: str, drops: Drops) -> str | None:
    """The book without Gutenberg's wrapping; None, counted, when it cannot be read."""
    try:
        data = file.read_bytes()
        text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode("utf-8-sig")
    except UnicodeDecodeError:
        return drops.add(source, "file_not_utf8", str(file))
    except (gzip.BadGzipFile, zlib.error, EOFError):
        return drops.add(source, "file_broken_gzip", str(file))
    except OSError as error:
        return drops.add(source, "file_unreadable", f"{file}: {error.strerror}")
    text = without_gutenberg(text)
    return text if text.strip() else drops.add(source, "file_empty", str(file))


def without_gutenberg(text: str) -> str:
    """The text between Project Gutenberg's start and end lines, where it has them."""
    start = GUTENBERG_START.search(text)
    text = text[start.end() :] if start else text
    end = GUTENBERG_END.search(text)
    return (text[: end.start()] if end else text).strip("\r\n") + "\n"
