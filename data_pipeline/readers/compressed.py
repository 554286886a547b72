"""What a raw file holds, decompressed piece by piece; damage costs the member or frame it lies in, and
reading goes on at the next.
"""

import bz2
import mmap
import posixpath
import re
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import zstandard

from data_pipeline.documents.drops import Drops
from data_pipeline.readers.storage import Unreadable, mapped

# Decompressed. So much sound data also proves that a stretch found after damage is no chance match of a
# magic number.
PIECE_BYTES = 1 << 20
CHUNK_BYTES = 1 << 14  # of the file
# A bomb inflates to more than this, and is smaller by more than any text: nobody's archive of pages shrinks
# to a two-hundredth
MEMBER_BYTES = 1 << 30
BOMB_RATIO = 200
ZSTD = b"\x28\xb5\x2f\xfd"
# first frame of a .warc.zst, skipped by whoever does not know it; size, then a dictionary
DICTIONARY = b"\x5d\x2a\x4d\x18"
MAX_DICTIONARY_BYTES = 64 << 20
WINDOW_BYTES = 1 << 31  # the longest of the command-line tool, which some published corpora need

Buffer = bytes | mmap.mmap
Lost = Callable[[str, int, int], object]  # reason, offset in the file, bytes of the file


class Piece(NamedTuple):
    """A stretch of data.

    Attributes:
        data: Decompressed, about `PIECE_BYTES` at most.
        offset: Where its member (in a plain file, itself) begins in the file.
        broken: Something was lost just before it.
        flat: The file is not compressed: the data lies in it as it is.
    """

    data: bytes
    offset: int
    broken: bool = False
    flat: bool = False


class Gzip:
    """A gzip member."""

    name = "gzip"
    # A member begins with two magic bytes and one for deflate.
    magic = re.compile(rb"\x1f\x8b\x08")
    damaged = (zlib.error,)
    chunk_bytes = CHUNK_BYTES

    def __init__(self, dictionary: bytes):
        # 16 + 15: gzip's header and checksum, and the largest window.
        self.stream = zlib.decompressobj(wbits=31)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` adds, a bounded amount at a time."""
        while data and not self.stream.eof:
            yield self.stream.decompress(data, PIECE_BYTES)
            # zlib stops at the bound and keeps the rest of its input here.
            data = self.stream.unconsumed_tail


class Bzip2:
    """A bzip2 stream."""

    name = "bzip2"
    magic = re.compile(rb"BZh[1-9]1AY&SY")  # the level, then the digits of pi that begin a block
    damaged = (OSError, ValueError)
    chunk_bytes = CHUNK_BYTES

    def __init__(self, dictionary: bytes):
        self.stream = bz2.BZ2Decompressor()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` adds, a bounded amount at a time."""
        yield self.stream.decompress(data, PIECE_BYTES)
        while not self.stream.eof and not self.stream.needs_input:
            yield self.stream.decompress(b"", PIECE_BYTES)


class Zstd:
    """A zstd frame."""

    name = "zstd"
    magic = re.compile(re.escape(ZSTD))
    damaged = (zstandard.ZstdError,)
    # The library does not bound its output, but 4 bytes give at most 128 KiB: 64 MiB a chunk.
    chunk_bytes = 1 << 11

    def __init__(self, dictionary: bytes):
        self.stream = decompressor(dictionary).decompressobj()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` adds to the decompressed stream."""
        yield self.stream.decompress(data)


Codec = type[Gzip] | type[Bzip2] | type[Zstd]
SUFFIXES: dict[str, Codec] = {".gz": Gzip, ".bz2": Bzip2, ".zst": Zstd}


@lru_cache(1)
def decompressor(dictionary: bytes) -> zstandard.ZstdDecompressor:
    """One for all frames of a file: setting up a dictionary takes longer than reading a page."""
    known = zstandard.ZstdCompressionDict(dictionary) if dictionary else None
    return zstandard.ZstdDecompressor(dict_data=known, max_window_size=WINDOW_BYTES)


def dictionary_of(buffer: Buffer) -> bytes:
    """The dictionary that a .warc.zst begins with, which may itself be compressed; b"" where there is none.

    https://iipc.github.io/warc-specifications/specifications/warc-zstd/
    """
    if buffer[:4] != DICTIONARY:
        return b""
    data = buffer[8 : 8 + int.from_bytes(buffer[4:8], "little")]
    try:
        if data[:4] != ZSTD:
            return data
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=MAX_DICTIONARY_BYTES)
    except zstandard.ZstdError:
        return b""  # the frames that need it are then damaged, and counted


class Member:
    """One member of a file, decompressed as it is iterated over.

    Attributes:
        position: How far into the file it was read, to the chunk.
        end: Where it ends; None until that is known, and when it breaks off, is damaged or a bomb.
        reason: Why it has no end.
    """

    def __init__(self, buffer: Buffer, start: int, codec: Codec, dictionary: bytes):
        self._buffer, self._start, self._decoder = buffer, start, codec(dictionary)
        self.position, self.end, self.reason = start, None, f"damaged_{codec.name}_bytes"

    def __iter__(self) -> Iterator[bytes]:
        """Pieces of the data: of a damaged chunk none, of a truncated member all that is there."""
        data, n_bytes, stream = bytearray(), 0, self._decoder.stream
        while self.end is None and self.position < len(self._buffer):
            chunk = self._buffer[self.position : self.position + self._decoder.chunk_bytes]
            # A small member may inflate to a gigabyte, a large one two-hundredfold: real archives do
            # neither.
            most = max(MEMBER_BYTES, BOMB_RATIO * (self.position + len(chunk) - self._start))
            try:
                for some in self._decoder.feed(chunk):
                    data += some
                    n_bytes += len(some)
                    while len(data) > PIECE_BYTES:
                        yield bytes(data[:PIECE_BYTES])
                        del data[:PIECE_BYTES]
                    if n_bytes > most:
                        self.reason = "oversized_member_bytes"
                        return
            except self._decoder.damaged:
                return
            self.position += len(chunk)
            if stream.eof:
                # The decoder read a whole chunk; what it left unused belongs to the next member.
                self.end = self.position = self.position - len(stream.unused_data)
        yield bytes(data)


def codec_of(buffer: Buffer, name: str) -> Codec | None:
    """How the file is compressed, by its first bytes, and where these are damaged by its name."""
    if buffer[:4] == DICTIONARY:
        return Zstd
    head = buffer[:16]
    return next(
        (codec for codec in SUFFIXES.values() if codec.magic.match(head)),
        SUFFIXES.get(posixpath.splitext(name)[1].lower()),
    )


def pieces(buffer: Buffer, name: str, lost: Lost) -> Iterator[Piece]:
    """The data of a file, gzip, bzip2, zstd (any number of members, also misplaced or damaged ones) or plain.

    The data of a member of at most `PIECE_BYTES` is given once it is known to be sound, that of a longer
    one up to about as much before damage is met (which zstd may meet a little later than it begins: an
    archive should be compressed record by record). `lost` is told of each stretch of the file that could
    not be read.
    """
    codec = codec_of(buffer, name)
    if codec is None:
        for start in range(0, len(buffer), PIECE_BYTES):
            yield Piece(buffer[start : start + PIECE_BYTES], start, flat=True)
        return
    dictionary = dictionary_of(buffer)
    # Damage is reported only when sound data follows, so that a stretch has one report with its full
    # length.
    start, damage = 0, None  # damage: (reason, where it begins) of what is not yet reported
    while start < len(buffer):
        member, held, known = Member(buffer, start, codec, dictionary), None, start
        for data in member:
            # One piece is held back until the next arrives or the member ends: damage may follow it.
            if held is not None:
                yield Piece(held, start, _report(damage, start, lost))
                damage, known = None, member.position
            held = data
        # A file that was cut off: what its last member holds is sound as far as it goes.
        truncated = member.position >= len(buffer) and damage is None
        if held and (member.end is not None or truncated):
            yield Piece(held, start, _report(damage, start, lost))
            damage = None
        if member.end is not None:
            _report(damage, start, lost)  # of a member without data
            start, damage = member.end, None
            continue
        damage = damage or (member.reason, known)
        # After damage go on at the next place that looks like the beginning of a member.
        following = codec.magic.search(buffer, start + 1)
        start = following.start() if following else len(buffer)
    _report(damage, len(buffer), lost)


def _report(damage: tuple[str, int] | None, end: int, lost: Lost) -> bool:
    if damage is not None:
        reason, start = damage
        lost(reason, start, max(end - start, 1))
    return damage is not None


def contents(path: str, *, max_bytes: int, work: Path, source: str, drops: Drops) -> bytes | None:
    """The whole of a small file, decompressed; None, counted, when it cannot be read, is damaged, or is
    longer than `max_bytes`.

    Raises:
        OSError: A store did not give it.
    """
    damage, data = [], bytearray()
    try:
        with mapped(path, work) as buffer:
            for piece in pieces(
                buffer, path, lambda reason, start, _: damage.append(f"{path}:{start}: {reason}")
            ):
                data += piece.data
                if len(data) > max_bytes or damage:
                    break
    except Unreadable as error:
        return drops.add(source, "file_unreadable", str(error))
    if damage:
        return drops.add(source, "file_damaged", damage[0])
    return bytes(data) if len(data) <= max_bytes else drops.add(source, "file_too_large", path)
