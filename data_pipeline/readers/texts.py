"""A folder of one's own texts: notes, manuals and pages in the formats that people write in."""

import contextlib
import importlib.metadata
import json
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
from data_pipeline.readers.left_out import by_suffix, count
from data_pipeline.readers.part import Part

EVERYTHING = ("",)  # the suffix that every name ends in
# Read as they are: the marks of Markdown and reStructuredText are part of how their author writes.
PLAIN = (".txt", ".text", ".md", ".markdown", ".rst")
KINDS: dict[str, tuple[str, ...]] = {
    "plain": (*PLAIN, *(f"{suffix}.gz" for suffix in PLAIN), ".epub"),
    "page": html_folder.SUFFIXES,
    "pdf": (".pdf",),
    "docx": (".docx",),
}
# What a kind is read with, of the extra `documents`.
LIBRARIES = {"pdf": "pypdfium2", "docx": "mammoth"}
INSTALL = "pip install 'meshwright[documents]'"
REMEDIES = {kind: f"{INSTALL} reads it" for kind in LIBRARIES}


class Texts(BaseModel, frozen=True, extra="forbid", strict=True):
    """The .txt, .md, .rst, .html, .epub, .pdf and .docx files under a folder, one document each; what else
    lies there is counted by its suffix. PDF and DOCX need `pip install 'meshwright[documents]'`.

    Attributes:
        folder: The folder, on disk or a URL.
    """

    VERSION: ClassVar[int] = 4

    folder: str

    def parts(self, source: str, *, work: Path) -> list[Part]:
        """Plain texts, pages, then PDF and DOCX, each in batches by path; the first part knows what is left
        out.

        Raises:
            FileNotFoundError: No such folder.
            ValueError: It holds no text, or none that can be read with what is installed.
        """
        field = f"sources.{source}.folder"
        files = files_under(self.folder, EVERYTHING, field=field)
        versions = _versions()
        of_kind: dict[str, list[File]] = {kind: [] for kind in versions}
        others = []
        for file in files:
            # Without its library a file is left out like any other that is not read.
            of_kind.get(_kind(file), others).append(file)
        if not any(of_kind.values()):
            raise ValueError(f"{field}={self.folder!r} holds {_nothing(others)}")
        parts: list[Part] = []
        left_out = by_suffix(others, REMEDIES)
        for kind, version in versions.items():
            # With the version: another one may read other text, and the part is then read again.
            for batch in batches(of_kind[kind]):
                # Counted once, so only the first part brings it along.
                detail = json.dumps([kind, version, {} if parts else left_out])
                name = f"{len(parts):05d}/{batch[0].name}"
                parts.append(Part(name, tuple(file.path for file in batch), detail))
        return parts

    def read(self, part: Part, source: str, *, work: Path, drops: Drops) -> Iterator[Document]:
        """One document a file; path and group = path inside the folder."""
        kind, _, left_out = json.loads(part.detail)
        count(left_out, source, drops)
        if kind == "page":
            pages = HtmlFolder(folder=self.folder)
            yield from pages.read(part, source, work=work, drops=drops)
            return
        for path in part.inputs:
            name = name_in(self.folder, path)
            content = read_book(path, name, work, source, drops)
            if content is not None:
                # Form feeds mark headings for readers of books; in a document they are noise.
                text = content.text.replace("\f", "")
                language = content.language
                yield Document(content_id(text), text, source, name, name, language)


def _kind(file: File) -> str:
    name = file.name.lower()
    return next((kind for kind, suffixes in KINDS.items() if name.endswith(suffixes)), "")


def _versions() -> dict[str, str]:
    """The kinds that can be read here → the version of what reads them; "" = this package alone."""
    versions = {}
    for kind in KINDS:
        library = LIBRARIES.get(kind)
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[kind] = importlib.metadata.version(library) if library else ""
    return versions


def _nothing(others: list[File]) -> str:
    """What stands in a folder without texts, and what to do."""
    waiting = [file.name for file in others if _kind(file) in LIBRARIES]
    if waiting:
        return f"no text but {len(waiting)} files such as {waiting[0]!r}; read them after {INSTALL}"
    wanted = ", ".join((*PLAIN, ".html", ".epub", ".pdf", ".docx"))
    return f"no {wanted} file; name a folder that does"
