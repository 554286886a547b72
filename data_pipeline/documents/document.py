"""One text with its origin: what readers yield and cleaning passes on."""

import hashlib
from typing import NamedTuple


class Document(NamedTuple):
    """`group` is the unit of the held-out split (a top-level module, a book topic): all texts of a group
    fall on one side.
    """

    id: str  # hash of the text as it was read, see `content_id`; cleaning does not change it
    text: str
    source: str  # name of the source in the config: web, code, books, …
    path: str  # file, URL or record that it came from
    group: str
    language: str = (
        ""  # ISO 639-1 of prose, lower-case name of a programming language for code; "" = not known
    )
    licence: str = ""  # SPDX identifier; "" = not known
    time: str = ""  # when the text was fetched or written, ISO 8601 in UTC; "" = not known


def content_id(text: str) -> str:
    """16 hex digits of SHA-256 of the text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
