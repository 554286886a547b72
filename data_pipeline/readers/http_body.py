"""The body of an HTTP response as it was meant, whether the archive stored it as it was sent or already
decoded.

Crawlers have for years stored decoded bodies under the headers of the encoded ones, so a header tells
what to try, and the body itself whether it is so.
"""

import re
import zlib

import brotli
import zstandard

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
CHUNK = re.compile(rb"[ \t]*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")
# Names under which servers send the body as it is.
IDENTITY = frozenset({"", "identity", "none", "utf-8", "8bit", "binary", "7bit"})
ZSTD_BYTES = 1 << 11  # of input; 4 bytes give at most 128 KiB
BREAKS_OFF = "the compressed body breaks off"
HEAD_BYTES = 1 << 10
CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
HTML = re.compile(
    # Atomic, because a comment could else go on over the next one's end: in 2^n ways through n of them.
    rb"\s*(?:<\?xml[^>]*>\s*)?(?:(?><!--.*?-->)\s*)*"
    rb"<(?:!doctype\s+html|html|head|body|title|meta|script|style"
    rb"|table|div|p|h[1-6]|article|main|section|a|br|font|center|b)[\s>/]",
    re.IGNORECASE | re.DOTALL,
)


def plain_body(body: bytes, transfer: str, content: str, *, max_bytes: int) -> bytes:
    """The body without its transfer and content encodings, at most one byte more than `max_bytes`.

    Args:
        body: As it is stored.
        transfer: The header Transfer-Encoding, or "".
        content: The header Content-Encoding, or "".
        max_bytes: Which the caller allows; a bomb inflates no further.

    Raises:
        ValueError: The body is neither in the encoding of its header nor plain markup.
    """
    if "chunked" in transfer.lower() and (joined := without_chunks(body)) is not None:
        body = joined
    # Encodings are named in the order in which they were applied.
    for encoding in reversed([name.strip().lower() for name in content.split(",")]):
        if encoding not in IDENTITY:
            body = undone(body, encoding, max_bytes)
    return body[: max_bytes + 1]


def without_chunks(body: bytes) -> bytes | None:
    """The chunks of a body joined; None when it is not chunked, or breaks off inside its first chunk's
    head.
    """
    data, position = bytearray(), 0
    while head := CHUNK.match(body, position):
        n_bytes = int(head[1], 16)
        data += body[head.end() : head.end() + n_bytes]
        if not n_bytes:
            return bytes(data)
        position = head.end() + n_bytes
        # A newline ends each chunk; some servers send a bare one.
        position += 2 if body[position : position + 2] == b"\r\n" else 1
    # A body that the crawler cut off ends without the chunk of length 0.
    return bytes(data) if data and position >= len(body) else None


def undone(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """The body without one content encoding, as it is where it is markup already.

    Raises:
        ValueError: It is neither.
    """
    if is_markup(body):
        return body
    try:
        if body.startswith(GZIP):
            return inflated(body, 31, max_bytes)  # 16 + 15: gzip's header, the largest window
        if body.startswith(ZSTD):
            return unpacked_zstd(body, max_bytes)
        if encoding == "deflate":
            # The standard means zlib's format; many servers send the bare stream.
            return first_inflated(body, (15, -15), max_bytes)
        if encoding == "br":
            return unpacked_brotli(body, max_bytes)
    except (zstandard.ZstdError, brotli.error) as error:
        raise ValueError(f"Content-Encoding {encoding}: {error}") from None
    raise ValueError(f"Content-Encoding {encoding!r} does not fit the body")


def first_inflated(body: bytes, windows: tuple[int, ...], max_bytes: int) -> bytes:
    """The body inflated in the first of zlib's formats that fits.

    Raises:
        ValueError: None of them fits.
    """
    for bits in windows[:-1]:
        try:
            return inflated(body, bits, max_bytes)
        except ValueError:
            continue
    return inflated(body, windows[-1], max_bytes)


def inflated(body: bytes, bits: int, max_bytes: int) -> bytes:
    """The body inflated, at most a byte more than `max_bytes`.

    Raises:
        ValueError: It is damaged, or breaks off.
    """
    stream = zlib.decompressobj(bits)
    try:
        data = stream.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not stream.eof and len(data) <= max_bytes:
        raise ValueError(BREAKS_OFF)
    return data


def unpacked_zstd(body: bytes, max_bytes: int) -> bytes:
    """The body out of zstd, about `max_bytes` at most.

    Raises:
        ValueError: It breaks off.
        zstandard.ZstdError: It is damaged.
    """
    stream, data = zstandard.ZstdDecompressor().decompressobj(), bytearray()
    # The library does not bound its output: a little input at a time does.
    for start in range(0, len(body), ZSTD_BYTES):
        data += stream.decompress(body[start : start + ZSTD_BYTES])
        if stream.eof or len(data) > max_bytes:
            return bytes(data)
    raise ValueError(BREAKS_OFF)


def unpacked_brotli(body: bytes, max_bytes: int) -> bytes:
    """The body out of brotli, about `max_bytes` at most.

    Raises:
        ValueError: It breaks off.
        brotli.error: It is damaged.
    """
    stream = brotli.Decompressor()
    data = stream.process(body, output_buffer_limit=max_bytes + 1)
    if not stream.is_finished() and len(data) <= max_bytes:
        raise ValueError(BREAKS_OFF)
    return data


def is_markup(body: bytes) -> bool:
    """Whether the body's beginning is markup, not compressed data: a tag and no control characters."""
    head = body[:HEAD_BYTES]
    return b"<" in head and not CONTROL.search(head)


def is_html(body: bytes) -> bool:
    """Whether a body of no declared type begins as pages do."""
    return HTML.match(body[:HEAD_BYTES].removeprefix(b"\xef\xbb\xbf")) is not None
