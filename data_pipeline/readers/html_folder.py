"""Web pages from a folder of HTML files."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from data_pipeline.documents.document import Document
from data_pipeline.documents.drops import Drops
from data_pipeline.readers.compressed import contents
from data_pipeline.readers.folder import batches, files_under, name_in
from data_pipeline.readers.pages import Content, Page, documents
from data_pipeline.readers.part import Part

SUFFIXES = tuple(kind + packed for kind in (".html", ".htm", ".xhtml") for packed in ("", ".gz"))


class HtmlFolder(BaseModel, frozen=True, extra="forbid", strict=True):
    """The .html, .htm and .xhtml files (also .gz) under a folder.

    Attributes:
        folder: The folder, on disk or a URL.
        content: Which text of a page: its main content, or all.
        max_page_bytes: Longer pages are counted and left out.
        timeout_s: Processor time for one page's extraction, in a child that is killed when it takes longer.
    """

    VERSION: ClassVar[int] = 3

    folder: str
    content: Content = "main"
    max_page_bytes: int = 4 << 20
    timeout_s: float = 5.0

    def parts(self, source: str, *, work: Path) -> list[Part]:
        """A part for some 64 MB of files, in the order of their paths, named by its first.

        Raises:
            FileNotFoundError: No such folder.
            ValueError: It holds no HTML file.
        """
        files = files_under(self.folder, SUFFIXES, field=f"sources.{source}.folder")
        return [Part(batch[0].name, tuple(file.path for file in batch)) for batch in batches(files)]

    def read(self, part: Part, source: str, *, work: Path, drops: Drops) -> Iterator[Document]:
        """One document a page; path and group = path inside the folder."""
        pages = self._pages(part, source, work, drops)
        return documents(
            pages, content=self.content, timeout_s=self.timeout_s, source=source, drops=drops
        )

    def _pages(self, part: Part, source: str, work: Path, drops: Drops) -> Iterator[Page]:
        for path in part.inputs:
            html = contents(
                path, max_bytes=self.max_page_bytes, work=work, source=source, drops=drops
            )
            if html is not None:
                name = name_in(self.folder, path)
                yield Page(name, name, name, html)
