"""A folder of one's own texts: notes, manuals and pages in the formats that people write in."""

import json
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from data_pipeline.documents.document import Document, content_id
from data_pipeline.documents.drops import Drops
from data_pipeline.readers import html_folder
from data_pipeline.readers.book_files import read_book
from data_pipeline.readers.folder import File, batches, files_under, name_in
from data_pipeline.readers.html_folder import HtmlFolder
from data_pipeline.readers.part import Part

# Read as they are: the marks of Markdown and reStructuredText are part of how their author writes.
PLAIN = (".txt", ".txt.gz", ".text", ".md", ".markdown", ".rst")
EVERYTHING = ("",)  # the suffix that every name ends in


class Texts(BaseModel, frozen=True, extra="forbid", strict=True):
    """The .txt, .md, .rst and .html files under a folder, one document each; what else lies there is counted
    by its suffix.

    Attributes:
        folder: The folder, on disk or a URL.
    """

    VERSION: ClassVar[int] = 1

    folder: str

    def parts(self, source: str, *, work: Path) -> list[Part]:
        """Plain texts, then pages, each in batches by path; the first part knows what is left out.

        Raises:
            FileNotFoundError: No such folder.
            ValueError: It holds no text.
        """
        field = f"sources.{source}.folder"
        files = files_under(self.folder, EVERYTHING, field=field)
        plain = [file for file in files if file.name.lower().endswith(PLAIN)]
        pages = [file for file in files if file.name.lower().endswith(html_folder.SUFFIXES)]
        if not plain and not pages:
            wanted = ", ".join((*PLAIN, ".html"))
            raise ValueError(
                f"{field}={self.folder!r} holds no {wanted} file; name a folder that does"
            )
        read = {file.path for file in (*plain, *pages)}
        left_out = _by_suffix([file for file in files if file.path not in read])
        parts: list[Part] = []
        for kind, of_kind in (("plain", plain), ("page", pages)):
            for batch in batches(of_kind):
                # Counted once, so only the first part brings it along.
                detail = json.dumps([kind, {} if parts else left_out])
                name = f"{len(parts):05d}/{batch[0].name}"
                parts.append(Part(name, tuple(file.path for file in batch), detail))
        return parts

    def read(self, part: Part, source: str, *, work: Path, drops: Drops) -> Iterator[Document]:
        """One document a file; path and group = path inside the folder."""
        kind, left_out = json.loads(part.detail)
        for suffix, (n_files, example) in left_out.items():
            drops.add(source, f"suffix_not_read_{suffix or 'none'}", example, n=n_files)
        if kind == "page":
            pages = HtmlFolder(folder=self.folder)
            yield from pages.read(part, source, work=work, drops=drops)
            return
        for path in part.inputs:
            name = name_in(self.folder, path)
            content = read_book(path, name, work, source, drops)
            if content is not None:
                text = content.text
                yield Document(content_id(text), text, source, name, name)


def _by_suffix(files: list[File]) -> dict[str, tuple[int, str]]:
    """Suffix without its dot → how many files have it, and the first of them."""
    found: dict[str, tuple[int, str]] = {}
    for file in files:
        suffix = posixpath.splitext(file.name)[1].lstrip(".").lower()
        n_files, example = found.get(suffix, (0, file.name))
        found[suffix] = n_files + 1, example
    return found
