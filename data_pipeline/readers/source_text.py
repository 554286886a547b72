"""One source file → its text and language, or the reason why it is no document."""

import io
import os
import tokenize
from pathlib import Path
from typing import NamedTuple

from data_pipeline.documents.drops import Drops
from data_pipeline.readers.code_files import MAX_FILE_BYTES, MAX_NOTEBOOK_BYTES
from data_pipeline.readers.code_kind import Kind, kind_of_text
from data_pipeline.readers.languages import language_of_name, language_of_shebang
from data_pipeline.readers.notebooks import notebook_text
from data_pipeline.readers.storage import address, opened

UTF16 = (b"\xff\xfe", b"\xfe\xff")


class SourceText(NamedTuple):
    """What a file holds."""

    text: str
    language: str


def source_text(
    file: Path,
    shown: str,
    *,
    languages: frozenset[str],
    leave_out: tuple[Kind, ...],
    work: Path,
    source: str,
    drops: Drops,
) -> SourceText | None:
    """None: counted as `shown`, or a file without a suffix that is no script and was only looked into."""
    data = read_bytes(file, shown, work, source, drops)
    if data is None:
        return None
    # The name first: most files have a suffix, and a shebang is asked for only without one.
    language = language_of_name(file.name) or language_of_shebang(data)
    if language not in languages:
        return None
    text = decode(data, language, shown, source, drops)
    if text is None:
        return None
    if file.suffix == ".ipynb":
        try:
            language, text = notebook_text(text)
        except ValueError as error:
            return drops.add(source, "notebook_broken", f"{shown}: {error}")
    if not text.strip():
        return drops.add(source, "file_empty", shown)
    kind = kind_of_text(text, language)
    return drops.add(source, kind, shown) if kind in leave_out else SourceText(text, language)


def read_bytes(file: Path, shown: str, work: Path, source: str, drops: Drops) -> bytes | None:
    """The file's content; None, counted, when it has gone, cannot be read or has grown too large."""
    most = MAX_NOTEBOOK_BYTES if file.suffix == ".ipynb" else MAX_FILE_BYTES
    try:
        with opened(address(str(file)), work) as content:
            # One byte more than allowed tells a file that has grown since it was listed.
            data = content.read(most + 1)
    except OSError as error:
        return drops.add(source, "file_unreadable", str(error))
    return data if len(data) <= most else drops.add(source, "file_too_large", shown)


def decode(data: bytes, language: str, shown: str, source: str, drops: Drops) -> str | None:
    """UTF-8, UTF-16 with its mark, or for Python what its coding line says (PEP 263); None, counted, when
    that fails.
    """
    # What git and grep call binary: a zero byte near the beginning.
    if b"\0" in data[:8_192] and not data.startswith(UTF16):
        return drops.add(source, "file_binary", shown)
    try:
        if data.startswith(UTF16):
            return data.decode("utf-16")
        return data.decode(
            tokenize.detect_encoding(io.BytesIO(data).readline)[0]
            if language == "python"
            else "utf-8-sig"
        )
    except (UnicodeDecodeError, SyntaxError, LookupError):
        # SyntaxError: an unknown coding line, or one that the byte order mark contradicts.
        return drops.add(source, "file_not_utf8", shown)


def evidence_text(file: Path, work: Path) -> str:
    """A licence's text or a package's description; "" when it has gone since it was listed: nothing is
    declared then.
    """
    try:
        with opened(address(str(file)), work) as content:
            return content.read(MAX_FILE_BYTES).decode(errors="replace")
    except OSError:
        return ""


def as_unicode(path: str) -> str:
    """The path with bytes that are no UTF-8 written as \\xff."""
    return os.fsencode(path).decode(errors="backslashreplace")
