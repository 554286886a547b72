"""One text with its origin: what readers yield and cleaning passes on."""

import hashlib
from typing import NamedTuple


class Document(NamedTuple):
    """One text.

    Attributes:
        id: Hash of the text as it was read, see `content_id`; cleaning does not change it.
        text: The text.
        source: Name of the source in the config: web, code, books, …
        path: File, URL or record that it came from.
        group: The unit of the held-out split (a top-level module, a book topic): all texts of a group fall
        on one side.
        language: ISO 639-1 of prose, lower-case name of a programming language for code; "" = not known.
        licence: SPDX identifier; "" = not known.
        time: When the text was fetched or written, ISO 8601 in UTC; "" = not known.
    """

    id: str
    text: str
    source: str
    path: str
    group: str
    language: str = ""
    licence: str = ""
    time: str = ""


def content_id(text: str) -> str:
    """16 hex digits of SHA-256 of the text."""
    # 64 bits: of forty corpora of a billion documents, one has two documents with the same id.
    return hashlib.sha256(text.encode()).hexdigest()[:16]
