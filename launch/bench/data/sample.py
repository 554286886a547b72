"""What the data bench measures on: real pages packed as WARC files, their text, and real code."""

import gzip
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

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
# 1 MiB: larger pages are mostly tables or data.
MAX_PAGE_BYTES = 1 << 20


class Stage(NamedTuple):
    """A piece of work whose speed is measured.

    Attributes:
        name: In the table.
        amount: How much, in `unit`, one call of `work` processes.
        unit: Of the amount; speeds are units a CPU-second.
        work: Processes all of it once.
        bound: Name of the stage that does the least that any program must do here; "" for a bound itself.
        note: What a bound does, or what came out.
    """

    name: str
    amount: float
    unit: str
    work: Callable[[], Any]
    bound: str = ""
    note: str = ""


class Sample(NamedTuple):
    """Pages, and the documents in them.

    Attributes:
        origin: Where the pages are from.
        pages: HTML as it was served.
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
        """Bytes of HTML of all pages together."""
        return sum(len(page.data) for page in self.pages)


def sample(web: Path | None, folder: Path, *, n_bytes: int) -> Sample:
    """About `n_bytes` of pages and as many of code; files are written into `folder`.

    Raises:
        ValueError: `web` holds no page.
    """
    pages = list(until(pages_in(web, folder / "work"), n_bytes, lambda page: len(page.data)))
    if len(pages) < N_FILES:
        rule = f"the bench needs {N_FILES}; give more, or raise --mb"
        raise ValueError(f"--web {web} holds {len(pages)} pages and {rule}")
    files = [folder / "warc" / f"{number:02}.warc.gz" for number in range(N_FILES)]

    files[0].parent.mkdir()

    # Each file takes every N_FILES-th page, so that all have about the same size.
    for number, file in enumerate(files):
        records = (
            write_record(url=page.path, html=page.data, date=DATE)
            for page in pages[number::N_FILES]
        )
        # Level 6 is gzip's default, with which crawls are packed. mtime=0: no time in the bytes.
        file.write_bytes(b"".join(gzip.compress(record, 6, mtime=0) for record in records))
    documents = list(read_all(Warc(paths=tuple(map(str, files))), "web", work=folder / "work"))
    modules = read_all(StdlibCode(), "code", work=folder / "work")
    # Characters are counted for bytes: code is almost all ASCII.
    code = list(until(modules, n_bytes, lambda document: len(document.text)))
    origin = str(web) if web else "the standard library's documentation"

    return Sample(origin, pages, files, documents, code)


def pages_in(web: Path | None, work: Path) -> Iterator[Page]:
    """Every page; files of a folder come in an order by hash, so that the first ones are a fair sample."""
    work.mkdir(exist_ok=True)
    if web is None:
        docs = StdlibDocs()
        for part in docs.parts("web", work=work):
            # Read for its side effect: the pages that pydoc makes are written to a WARC file.
            for _ in docs.read(part, "web", work=work, drops=Drops()):
                pass
            yield from _archived(work / f"web-{part.name}.warc.gz", work)
    elif web.is_dir():
        yield from _html_files(web)
    else:
        yield from _archived(web, work)


def _html_files(folder: Path) -> Iterator[Page]:
    files = [*folder.rglob("*.html"), *folder.rglob("*.htm")]
    # By hash: in the order of their names the pages of one site would fill the sample.
    for file in sorted(files, key=lambda file: key_of("bench", str(file))):
        # The WARC reader would drop an empty page, or one that is too large.
        if file.is_file() and 0 < file.stat().st_size <= MAX_PAGE_BYTES:
            url = f"http://localhost/{file.relative_to(folder)}"
            yield Page(str(file), url, file.name, file.read_bytes())


def _archived(file: Path, work: Path) -> Iterator[Page]:
    return pages_of(str(file), file.name, MAX_PAGE_BYTES, work=work, source="web", drops=Drops())


def until[T](items: Iterable[T], n_bytes: int, size: Callable[[T], int]) -> Iterator[T]:
    """The first items that have `n_bytes` together."""
    taken = 0
    for item in items:
        if taken >= n_bytes:
            return
        # Counted after the test: the last item may exceed the limit, but none is cut.
        taken += size(item)
        yield item
