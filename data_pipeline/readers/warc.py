"""Web pages from WARC files and web text from WET files, damaged ones included: what is sound is read, what
is not is counted.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from fastwarc.warc import WarcRecord
from pydantic import BaseModel

from data_pipeline.documents.document import Document
from data_pipeline.documents.drops import Drops
from data_pipeline.readers.compressed import pieces
from data_pipeline.readers.folder import files_of, parts_of_files
from data_pipeline.readers.http_body import is_html, plain_body
from data_pipeline.readers.pages import Content, Page, documents, utc
from data_pipeline.readers.part import Part
from data_pipeline.readers.storage import Unreadable, mapped
from data_pipeline.readers.warc_records import Found, Records

SUFFIXES = tuple(f".{kind}{packed}" for kind in ("warc", "wet") for packed in ("", ".gz", ".zst"))
HTML_TYPES = ("text/html", "application/xhtml+xml")


class Warc(BaseModel, frozen=True, extra="forbid", strict=True):
    """The HTML pages (response and resource records) and plain texts (conversion records, as in WET files)
    of WARC archives.

    Attributes:
        paths: Files or URLs, or folders searched for .warc and .wet files, plain, .gz or .zst.
        content: Which text of a page: its main content, or all.
        max_page_bytes: Longer pages are counted and left out.
        timeout_s: Processor time for one page's extraction, in a child that is killed when it takes longer.
    """

    VERSION: ClassVar[int] = 3

    paths: tuple[str, ...]
    content: Content = "main"
    max_page_bytes: int = 4 << 20
    timeout_s: float = 5.0

    def parts(self, source: str, *, work: Path) -> list[Part]:
        """A part for some 64 MB of files; archives are larger, and one part each.

        Raises:
            FileNotFoundError: A path does not exist.
            ValueError: A folder has no WARC file.
        """
        return parts_of_files(self.paths, SUFFIXES, field=f"sources.{source}.paths")

    def read(self, part: Part, source: str, *, work: Path, drops: Drops) -> Iterator[Document]:
        """One document a page in the order of records; path = URL, group = URL without query and fragment,
        time = WARC-Date.
        """
        pages = self._pages(part, source, work, drops)
        return documents(
            pages, content=self.content, timeout_s=self.timeout_s, source=source, drops=drops
        )

    def _pages(self, part: Part, source: str, work: Path, drops: Drops) -> Iterator[Page]:
        for path, name in files_of(part):
            yield from pages_of(
                path, name, self.max_page_bytes, work=work, source=source, drops=drops
            )


def pages_of(
    path: str, name: str, max_page_bytes: int, *, work: Path, source: str, drops: Drops
) -> Iterator[Page]:
    """The pages and texts of one archive; what is lost or unfit is counted.

    Raises:
        OSError: A store did not give the file.
    """

    def lost(reason: str, offset: int, n_bytes: int) -> None:
        drops.add(source, reason, f"{name}:{offset}: {n_bytes} bytes", n_bytes)

    n_records = 0
    try:
        with mapped(path, work) as buffer:
            for record in Records(lost).of(pieces(buffer, path, lost)):
                n_records += 1
                page = page_of(record, f"{name}:{record.offset}", max_page_bytes, source, drops)
                if page is not None:
                    yield page
    except Unreadable as error:
        return drops.add(source, "file_unreadable", str(error))
    # A file that is no WARC at all would else count as one without pages.
    if not n_records:
        drops.add(source, "file_without_record", name)


def page_of(
    raw_record: Found, place: str, max_page_bytes: int, source: str, drops: Drops
) -> Page | None:
    """The page of a record; None when it holds none, and counted when it is an error page, too large,
    undecodable, or of no known type.
    """
    if raw_record.kind not in ("response", "resource", "conversion"):
        return None
    record = raw_record.parsed()
    if record is None:
        n_bytes = len(raw_record.data)
        return drops.add(source, "damaged_warc_bytes", f"{place}: {n_bytes} bytes", n_bytes)
    content_type = type_of(record)
    is_text = raw_record.kind == "conversion" and content_type == "text/plain"
    if content_type not in (*HTML_TYPES, "") and not is_text:
        return None
    url = record.headers.get("WARC-Target-URI", "").strip("<>")
    # Error pages and redirects have text too, but nobody wrote it to be read.
    if record.http_headers is not None and record.http_headers.status_code != 200:
        return drops.add(
            source, "page_http_status", f"{place}: {record.http_headers.status_code}: {url}"
        )
    try:
        data = body_of(record, max_page_bytes)
    except (OSError, ValueError):  # a damaged content encoding inside a sound record
        return drops.add(source, "page_undecodable", f"{place}: {url}")
    if len(data) > max_page_bytes:
        return drops.add(source, "page_too_large", f"{place}: {url}")
    # A server that names no type leaves it to the browser to look.
    if not content_type and not is_html(data):
        return drops.add(source, "page_type_unknown", f"{place}: {url}")
    # Pages that differ in their query alone are held out, or trained on, together.
    group = url.split("#")[0].split("?")[0]
    time = utc(record.headers.get("WARC-Date", ""))
    return Page(place, url or place, group or place, data, record.http_charset, time, is_text)


def type_of(record: WarcRecord) -> str:
    """The media type of a record's body in lower case; "" where an HTTP response names none."""
    if record.http_headers is None:
        content_type = record.headers.get("Content-Type", "")
    else:
        content_type = record.http_content_type or ""
    return content_type.split(";")[0].strip().lower()


def body_of(record: WarcRecord, max_page_bytes: int) -> bytes:
    """The body with its encodings undone; one byte more than allowed tells a page that is too long.

    Raises:
        ValueError: It is not what its header says, and no markup either.
    """
    if record.http_headers is None:
        return record.reader.read(max_page_bytes + 1)
    headers = record.http_headers
    transfer, content = (
        ",".join(headers.get_multiple(name)) for name in ("Transfer-Encoding", "Content-Encoding")
    )
    return plain_body(record.reader.read(), transfer, content, max_bytes=max_page_bytes)
