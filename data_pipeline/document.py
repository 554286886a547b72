"""One text with its origin: what readers yield and cleaning passes on."""

import hashlib
from typing import NamedTuple


class Document(NamedTuple):
    """`group` is the unit of the held-out split (a top-level module, a book topic): all texts of a group fall on one side."""

    id: str  # content hash, see `content_id`
    text: str
    source: str  # name of the source in the config: web, code, books, …
    path: str  # file, URL or record that it came from
    group: str


def content_id(text: str) -> str:
    """16 hex digits of SHA-256 of the text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
