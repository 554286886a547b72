"""What the data bench is measured on: real pages, packed as WARC files, the text in them, and real code."""

import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from data_pipeline.documents.document import Document
from data_pipeline.documents.drops import Drops
from data_pipeline.documents.sampling import key_of
from data_pipeline.readers.code_tree import StdlibCode
from data_pipeline.readers.pages import Page
from data_pipeline.readers.part import read_all
from data_pipeline.readers.stdlib_docs import DATE, StdlibDocs
from data_pipeline.readers.warc import Warc, pages_of
from data_pipeline.readers.warc_records import write_record

N_FILES = 16  # WARC files: enough to share among a few workers
MAX_PAGE_BYTES = 1 << 20


class Sample(NamedTuple):
    """Pages, and the documents in them.

    Attributes:
        origin: Where the pages are from.
        pages: As they are.
        files: The same pages as WARC files.
        web: The text of the pages.
        code: Source files.
    """

    origin: str
    pages: list[Page]
    files: list[Path]
    web: list[Document]
    code: list[Document]

    @property
    def html_bytes(self) -> int:
        """Of all pages."""
        return sum(len(page.data) for page in self.pages)


def sample(web: Path | None, folder: Path, *, n_bytes: int) -> Sample:
    """About `n_bytes` of pages and as many of code; files are written into `folder`.

    Raises:
        ValueError: `web` holds no page.
    """
    pages = list(until(pages_in(web, folder / "work"), n_bytes, lambda page: len(page.data)))
    if len(pages) < N_FILES:
        raise ValueError(
            f"--web {web} holds {len(pages)} pages and the bench needs {N_FILES}; give more, or raise --mb"
        )
    files = [folder / "warc" / f"{number:02}.warc.gz" for number in range(N_FILES)]
    files[0].parent.mkdir()
    for number, file in enumerate(files):
        records = (write_record(url=page.path, html=page.data, date=DATE) for page in pages[number::N_FILES])
        file.write_bytes(b"".join(gzip.compress(record, 6, mtime=0) for record in records))
    documents = list(read_all(Warc(paths=tuple(map(str, files))), "web", work=folder / "work"))
    code = list(
        until(
            read_all(StdlibCode(), "code", work=folder / "work"), n_bytes, lambda document: len(document.text)
        )
    )
    return Sample(str(web) if web else "the standard library's documentation", pages, files, documents, code)


def pages_in(web: Path | None, work: Path) -> Iterator[Page]:
    """Every page, in an order of no meaning where there are files to choose of."""
    work.mkdir(exist_ok=True)
    if web is None:
        docs = StdlibDocs()
        for part in docs.parts("web", work=work):
            for _ in docs.read(part, "web", work=work, drops=Drops()):
                pass
            yield from _archived(work / f"web-{part.name}.warc.gz", work)
    elif web.is_dir():
        files = sorted(
            (*web.rglob("*.html"), *web.rglob("*.htm")), key=lambda file: key_of("bench", str(file))
        )
        sized = (file for file in files if file.is_file() and 0 < file.stat().st_size <= MAX_PAGE_BYTES)
        yield from (
            Page(str(file), f"http://localhost/{file.relative_to(web)}", file.name, file.read_bytes())
            for file in sized
        )
    else:
        yield from _archived(web, work)


def _archived(file: Path, work: Path) -> Iterator[Page]:
    return pages_of(str(file), file.name, MAX_PAGE_BYTES, work=work, source="web", drops=Drops())


def until[T](items: Iterable[T], n_bytes: int, size) -> Iterator[T]:
    """The first items that have `n_bytes` together."""
    taken = 0
    for item in items:
        if taken >= n_bytes:
            return
        taken += size(item)
        yield item
