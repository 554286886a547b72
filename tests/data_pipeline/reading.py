"""What the tests of readers share: reading a source whole, and archives to read."""

from pathlib import Path

from data_pipeline.documents.document import Document
from data_pipeline.documents.drops import Drops
from data_pipeline.readers.part import Reader, read_all

SENTENCE = "The {n}th page says something of its own, and says it in a whole sentence."


def read(
    reader: Reader, folder: Path, source: str = "web"
) -> tuple[list[Document], dict[str, int]]:
    """The documents, and what was lost by reason."""
    documents, drops = read_with_drops(reader, folder, source)
    return documents, dict(drops.counts.get(source, {}))


def read_with_drops(
    reader: Reader, folder: Path, source: str = "web"
) -> tuple[list[Document], Drops]:
    """The documents, and what was lost with examples."""
    drops = Drops()
    return list(read_all(reader, source, work=folder / "work", drops=drops)), drops


def record(
    n: int,
    html: bytes | None = None,
    *,
    status: str = "200 OK",
    kind: str = "text/html; charset=utf-8",
    headers: str = "",
) -> bytes:
    """A response record of page `n`."""
    html = (
        f"<html><body><main><p>{SENTENCE.format(n=n)}</p></main></body></html>".encode()
        if html is None
        else html
    )
    http = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{headers}\r\n".encode() + html
    return warc_record(n, "response", "application/http; msgtype=response", http)


def warc_record(n: int, warc_type: str, content_type: str, block: bytes) -> bytes:
    """A record of any type."""
    head = f"WARC/1.1\r\nWARC-Type: {warc_type}\r\nWARC-Target-URI: http://example.org/{n}?q=1\r\nWARC-Date: 2020-01-01T00:00:00Z\r\n"
    identity = f"WARC-Record-ID: <urn:uuid:{n:032d}>\r\nContent-Type: {content_type}\r\n"
    return (
        (head + identity + f"Content-Length: {len(block)}\r\n\r\n").encode() + block + b"\r\n\r\n"
    )


def numbers(documents: list[Document]) -> list[int]:
    """Which pages they are."""
    return [int(d.path.split("/")[-1].split("?")[0]) for d in documents]
