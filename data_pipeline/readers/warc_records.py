"""WARC records out of a file's pieces: each is framed by its own header and checked at its end, so that a
damaged one costs no other.
"""

import io
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from data_pipeline.documents.document import content_id
from data_pipeline.readers.compressed import Lost, Piece

# Some writers end lines with a bare newline, which the standards of WARC and HTTP do not allow.
VERSION = re.compile(rb"WARC/[01]\.\d{1,2}\r?\n")
VERSION_BYTES = 11
TYPE = re.compile(rb"\nWARC-Type:[ \t]*(\w+)[ \t]*\r?\n", re.IGNORECASE)
LENGTH = re.compile(rb"\nContent-Length:[ \t]*(\d{1,18})[ \t]*\r?\n", re.IGNORECASE)
HEAD_END = re.compile(rb"\r?\n\r?\n")
BARE_NEWLINE = re.compile(rb"(?<!\r)\n")
NEWLINES = re.compile(rb"[\r\n]*")
HEADER_BYTES = 1 << 16  # a longer header is damage
RECORD_BYTES = 64 << 20  # longer ones (films, disk images) are passed over
WAIT, DAMAGED, OVERSIZED = "", "damaged_warc_bytes", "oversized_record_bytes"


class Found(NamedTuple):
    """A record as it lies in the archive: header and block."""

    kind: str  # WARC-Type in lower case
    data: bytes
    offset: int  # where it, or the compressed member that it begins in, begins in the file

    def parsed(self) -> WarcRecord | None:
        """The record with the head of HTTP parsed and its body as it is stored; None when fastwarc cannot
        read it.
        """
        try:
            # Encodings are undone by `http_body.py`: fastwarc believes the headers, which are often wrong.
            record = io.BytesIO(with_crlf(self.data))
            return next(ArchiveIterator(record, record_types=WarcRecordType.any_type), None)
        except OSError:
            return None


class Records:
    """The whole records of an archive, fed piece by piece; records may lie across pieces.

    Args:
        lost: Is told of every stretch that is no sound record, with its length decompressed, and where it
        or its member begins.
    """

    def __init__(self, lost: Lost):
        self._lost = lost
        self._data = bytearray()  # not yet used up
        self._offset = 0  # where `_data` begins in the file
        self._flat = False  # the file is not compressed: `_data` is a part of it
        self._losing = WAIT  # why what stands at the start of `_data` is being passed over

    def of(self, pieces: Iterable[Piece]) -> Iterator[Found]:
        """Yield the sound records in their order."""
        for piece in pieces:
            # What was cut off by damage can never be completed: it is judged as it is.
            if piece.broken:
                yield from self._take(final=True)
            n_before, self._flat = len(self._data), piece.flat
            if not n_before:
                self._offset = piece.offset
            self._data += piece.data
            yield from self._take(final=False)
            # What is left begins in this member.
            if not piece.flat and len(self._data) <= len(piece.data):
                self._offset = piece.offset
        yield from self._take(final=True)

    def _take(self, *, final: bool) -> Iterator[Found]:
        data, start = self._data, 0
        while (start := self._past_newlines(start)) < len(data):
            verdict, end = framed(data, start, final)
            if verdict == WAIT:
                break
            if verdict in (DAMAGED, OVERSIZED):
                # Damage in a row is reported with its first reason.
                self._losing = self._losing or verdict
                self._lost(self._losing, self._offset + start * self._flat, end - start)
            else:
                self._losing = WAIT
                yield Found(verdict, bytes(data[start:end]), self._offset + start * self._flat)
            start = end
        self._offset += start * self._flat
        del data[:start]

    def _past_newlines(self, start: int) -> int:
        # Behind a record they belong to nothing; within damage they are a part of it, wherever a piece ends.
        return start if self._losing else NEWLINES.match(self._data, start).end()


def framed(data: bytearray, start: int, final: bool) -> tuple[str, int]:
    """What stands at `start`: a sound record's type and end; DAMAGED or OVERSIZED and where the next may
    begin; or WAIT for more data.

    `final`: there is no more.
    """
    if not VERSION.match(data, start):
        return nothing_before(data, start, final)
    blank = HEAD_END.search(data, start, start + HEADER_BYTES)
    if blank is None:
        may_go_on = len(data) - start < HEADER_BYTES and not final
        return (WAIT, start) if may_go_on else (DAMAGED, following(data, start))
    head = bytes(data[start : blank.end()])
    kind, length = TYPE.search(head), LENGTH.search(head)
    # A second version line inside the header: the first record was cut off before its end.
    if not kind or not length or VERSION.search(head, 1):
        return DAMAGED, following(data, start)
    end = blank.end() + int(length[1])
    if int(length[1]) > RECORD_BYTES:
        return OVERSIZED, following(data, start)
    if end > len(data):
        return (DAMAGED, following(data, start)) if final else (WAIT, start)
    rest = bytes(data[end : end + VERSION_BYTES])
    is_cut = rest == b"\r" or (len(rest) < VERSION_BYTES and b"WARC/".startswith(rest[:5]))
    if is_cut and not final:
        # The next piece tells what follows.
        return WAIT, start
    # Neither a line end nor the next record follows: the length is wrong.
    ends_line = b"\r\n".startswith(rest[:2]) or rest[:1] == b"\n"
    if not ends_line and not VERSION.match(rest):
        return DAMAGED, following(data, start)
    return kind[1].decode().lower(), end


def with_crlf(record: bytes) -> bytes:
    """The record with the line ends that the standards ask for in its head and in that of HTTP."""
    blank = HEAD_END.search(record)
    head, block = record[: blank.start()], record[blank.end() :]
    http_end = HEAD_END.search(block, 0, HEADER_BYTES) if block.startswith(b"HTTP/") else None
    http = block[: http_end.start()] if http_end else b""
    if not BARE_NEWLINE.search(head) and not BARE_NEWLINE.search(http):
        return record
    if http_end:
        block = BARE_NEWLINE.sub(b"\r\n", http) + b"\r\n\r\n" + block[http_end.end() :]
    head = BARE_NEWLINE.sub(b"\r\n", head) + b"\r\n"
    # The block is longer now by a character a line.
    return LENGTH.sub(b"\nContent-Length: %d\r\n" % len(block), head) + b"\r\n" + block


def nothing_before(data: bytearray, start: int, final: bool) -> tuple[str, int]:
    """How much from `start` on is no record; its last bytes may be the start of one."""
    end = following(data, start)
    # The last bytes may be the beginning of a version line that the next piece completes.
    if end == len(data) and not final:
        end -= VERSION_BYTES - 1
    return (DAMAGED, end) if end > start else (WAIT, start)


def following(data: bytearray, start: int) -> int:
    """Where the next record after `start` may begin."""
    version_line = VERSION.search(data, start + 1)
    return version_line.start() if version_line else len(data)


def write_record(*, url: str, html: bytes, date: str) -> bytes:
    """One WARC/1.1 response record of an HTML page, uncompressed; equal pages give equal bytes."""
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + html
    name = content_id(url)
    # A record needs a UUID; one made of the URL's hash keeps equal pages equal bytes.
    uuid = f"{name[:8]}-{name[8:12]}-4{name[13:16]}-8000-{name[:12]}"
    head = (
        f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{uuid}>\r\n"
        f"WARC-Date: {date}\r\nWARC-Target-URI: {url}\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(http)}\r\n\r\n"
    )
    return head.encode() + http + b"\r\n\r\n"
