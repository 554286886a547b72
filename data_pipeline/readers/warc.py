"""Web pages from WARC files, damaged ones included: decompress member by member, resume at the next sound one, extract in children."""

import io
import mmap
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from pydantic import BaseModel

from data_pipeline.document import Document, content_id
from data_pipeline.drops import Drops
from data_pipeline.readers.extract import request
from data_pipeline.readers.folder import files_under
from data_pipeline.readers.worker import map_batches

GZIP = b"\x1f\x8b\x08"
RECORD = b"WARC/1."
MEMBER_BYTES = 1 << 30  # decompressed; such an archive was compressed as a whole and does not fit in memory
CHUNK_BYTES = 1 << 16
BATCH_BYTES = 1 << 20
HTML_TYPES = ("text/html", "application/xhtml+xml")


class Warc(BaseModel, frozen=True, extra="forbid", strict=True):
    """The HTML pages of a user's .warc and .warc.gz files.

    Attributes:
        paths: Files, or folders searched for such files.
        max_page_bytes: Longer pages are counted and left out.
        timeout_s: Limit for one page's extraction, in a child that is killed when it takes longer.
        processes: Extraction children at work at a time; the output does not depend on it.
    """

    paths: tuple[str, ...]
    max_page_bytes: int = 4 << 20
    timeout_s: float = 5.0
    processes: int = 2

    def documents(self, source: str, *, work: Path, drops: Drops | None = None) -> Iterator[Document]:
        """One document a page in the order of files and records; path = URL, group = URL without query and fragment.

        Raises:
            FileNotFoundError: A path does not exist.
            ValueError: A folder has no WARC file, a file no readable record, or no page at all any text.
        """
        drops = Drops() if drops is None else drops
        files = [(path, f) for path in self.paths for f in files_under(path, (".warc", ".warc.gz"), field=f"sources.{source}.paths")]
        pages = chain.from_iterable(pages_of(file, source, drops, self.max_page_bytes) for _, file in files)
        n_documents = 0
        for page, text in self._texts(pages, source, drops):
            n_documents += 1
            yield Document(content_id(text), text, source, page.url, page.url.split("#")[0].split("?")[0])
        if not n_documents:
            reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(drops.counts.get(source, {}).items())) or "no HTML record"
            raise ValueError(f"sources.{source}.paths={self.paths!r} gave no text ({reasons}); name archives of HTML pages")

    def _texts(self, pages: Iterable["Page"], source: str, drops: Drops) -> Iterator[tuple["Page", str]]:
        sent: list[list[Page]] = []  # batches handed out and not yet answered, oldest first

        def requests() -> Iterator[list[bytes]]:
            for batch in batches_of(pages):
                sent.append([page._replace(html=b"") for page in batch])
                yield [request(page.html, page.charset) for page in batch]

        answers = map_batches("data_pipeline.readers.extract:extract", requests(), timeout_s=self.timeout_s, processes=self.processes)
        for batch in answers:
            for page, answer in zip(sent.pop(0), batch, strict=True):
                text = answer.data.decode()
                if answer.error:
                    drops.add(source, f"page_{reason_of(answer.error)}", page.url)
                elif not text.strip():
                    drops.add(source, "page_without_text", page.url)
                else:
                    yield page, text


def reason_of(error: str) -> str:
    """`timeout`, `crash`, `too_deep` or `not_extracted`."""
    return {"timeout": "timeout", "crash": "crash", "ValueError: too deep": "too_deep"}.get(error, "not_extracted")


class Page(NamedTuple):
    """One HTML record."""

    url: str
    charset: str | None
    html: bytes


def batches_of(pages: Iterable[Page]) -> Iterator[list[Page]]:
    """Pages in batches of about `BATCH_BYTES`: enough to keep a child busy, few enough to stream."""
    batch, n_bytes = [], 0
    for page in pages:
        batch.append(page)
        n_bytes += len(page.html)
        if n_bytes >= BATCH_BYTES:
            yield batch
            batch, n_bytes = [], 0
    if batch:
        yield batch


def pages_of(path: Path, source: str, drops: Drops, max_page_bytes: int) -> Iterator[Page]:
    """The HTML pages of one file; what is lost or unfit is counted.

    Raises:
        ValueError: Not one record of the file can be read.
    """
    n_records = 0
    for record in records_of(path, source, drops):
        n_records += 1
        if record.record_type in (WarcRecordType.response, WarcRecordType.resource) and content_type(record) in HTML_TYPES:
            page = page_of(record, source, drops, max_page_bytes)
            if page is not None:
                yield page
    if not n_records:
        raise ValueError(f"sources.{source}.paths: {path} has no readable WARC record; remove it or fetch it again")


def content_type(record: WarcRecord) -> str:
    """What HTTP, or without it the record, says the content is."""
    return (record.http_content_type or record.headers.get("Content-Type", "")).split(";")[0].strip().lower()


def page_of(record: WarcRecord, source: str, drops: Drops, max_page_bytes: int) -> Page | None:
    """The page of an HTML record; None, counted, when it is an error page, too large or undecodable."""
    url = record.headers.get("WARC-Target-URI", "").strip("<>")
    if record.http_headers is not None and record.http_headers.status_code != 200:
        return drops.add(source, "page_http_status", f"{record.http_headers.status_code}: {url}")
    try:
        html = record.reader.read(max_page_bytes + 1)
    except (OSError, ValueError):  # a damaged content encoding inside a sound record
        return drops.add(source, "page_undecodable", url)
    return Page(url, record.http_charset, html) if len(html) <= max_page_bytes else drops.add(source, "page_too_large", url)


def records_of(path: Path, source: str, drops: Drops) -> Iterator[WarcRecord]:
    """Every sound record of a .warc or .warc.gz; damage costs the records it touches and is counted in bytes."""
    if not path.stat().st_size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        if buffer[:3] != GZIP and path.suffix != ".gz":
            yield from records_in(file, buffer, path, source, drops)
            return
        for member in members_of(buffer, path, source, drops):
            yield from records_in(io.BytesIO(member), member, path, source, drops)


def members_of(buffer: mmap.mmap, path: Path, source: str, drops: Drops) -> Iterator[bytes]:
    """Each gzip member, decompressed; of a broken one what came before the damage, then on to the next that starts soundly."""
    start = 0
    while start < len(buffer):
        data, end = inflate(buffer, start, path)
        if end is None:
            end = buffer.find(GZIP, start + 1)
            end = len(buffer) if end < 0 else end
            drops.add(source, "damaged_gzip_bytes", f"{path.name}: {end - start} bytes at {start}", end - start)
        if data:
            yield data
        start = end


def inflate(buffer: mmap.mmap, start: int, path: Path) -> tuple[bytes, int | None]:
    """The member at `start` and where it ends; None when it breaks off or is no gzip."""
    stream, data, position = zlib.decompressobj(wbits=31), bytearray(), start
    while not stream.eof and position < len(buffer):
        try:
            data += stream.decompress(buffer[position : position + CHUNK_BYTES])
        except zlib.error:
            return bytes(data), None
        position += CHUNK_BYTES
        if len(data) > MEMBER_BYTES:
            raise ValueError(f"{path} holds a gzip member of more than 1 GiB; recompress it record by record (`fastwarc recompress`)")
    if not stream.eof:
        return bytes(data), None
    return bytes(data), min(position, len(buffer)) - len(stream.unused_data)


def records_in(stream: io.BufferedIOBase, buffer: bytes | mmap.mmap, path: Path, source: str, drops: Drops) -> Iterator[WarcRecord]:
    """The whole records of an uncompressed stretch; `buffer` is the same bytes as `stream`, searchable."""
    start, size = 0, len(buffer)
    while start < size:
        stream.seek(start)
        last_start, end = start, start
        try:
            for record in ArchiveIterator(stream, record_types=WarcRecordType.any_type, auto_decode="all"):
                last_start, end = record.stream_pos, record_end(record, buffer)
                if end > size:
                    break
                yield record
        except OSError:
            end = size + 1
        if end <= size and not buffer[end : end + CHUNK_BYTES].strip():
            return
        lost_from = last_start if end > size else end
        start = buffer.find(RECORD, lost_from + 1)
        start = size if start < 0 else start
        drops.add(source, "damaged_warc_bytes", f"{path.name}: {start - lost_from} bytes of records at {lost_from}", start - lost_from)


def record_end(record: WarcRecord, buffer: bytes | mmap.mmap) -> int:
    """Offset just after the record's block; beyond the buffer when the record is cut off."""
    head_end = buffer.find(b"\r\n\r\n", record.stream_pos)
    length = record.headers.get("Content-Length", "")
    if head_end < 0 or not length.isdigit():
        return len(buffer) + 1
    return head_end + 4 + int(length)


def write_record(*, url: str, html: bytes, date: str) -> bytes:
    """One WARC/1.1 response record of an HTML page, uncompressed; equal pages give equal bytes."""
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + html
    name = content_id(url)
    head = (
        f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{name[:8]}-{name[8:12]}-4{name[13:16]}-8000-{name[:12]}>\r\n"
        f"WARC-Date: {date}\r\nWARC-Target-URI: {url}\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(http)}\r\n\r\n"
    )
    return head.encode() + http + b"\r\n\r\n"
