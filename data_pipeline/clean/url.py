"""Pages by their address: blocklists of domains and URLs, words in URLs (after RefinedWeb, Penedo et al.
2023; limits of datatrove).
"""

import re
from typing import ClassVar
from urllib.parse import urlsplit

import numpy as np
from pydantic import BaseModel

from data_pipeline.clean.lists import user_list
from data_pipeline.clean.rule import Limit, Signals
from data_pipeline.documents.document import Document

FILES = ("blocked", "hard_words", "soft_words")


class UrlFilter(BaseModel, frozen=True, extra="forbid", strict=True):
    """Looks at the paths of documents that are http or https URLs; all lists are the user's files with an
    entry a line.

    Attributes:
        sources: The sources it applies to.
        blocked: Files of domains, which stand for all their subdomains too, and of URLs without scheme (the
        layout of the UT1 lists).
        hard_words: Files of words, one of which in a URL drops the document.
        soft_words: Files of words, of which a URL may have `max_soft_words`.
        max_soft_words: datatrove: 1.
    """

    VERSION: ClassVar[int] = 1
    LATE: ClassVar[frozenset[str]] = frozenset({"max_soft_words"})
    EDITS: ClassVar[bool] = False

    sources: tuple[str, ...]
    blocked: tuple[str, ...] = ()
    hard_words: tuple[str, ...] = ()
    soft_words: tuple[str, ...] = ()
    max_soft_words: int = 1

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """Signals: `url_blocked` (0 or 1), `url_hard_words`, `url_soft_words`."""
        # "" for documents that are no pages, which no list can match.
        urls = [url_of(document.path) for document in documents]
        # A set, because a word of a URL counts once.
        words = [set(re.findall(r"[^\W_]+", url)) for url in urls]
        blocked, hard, soft = ([entries.lines for entries in self._lists(field)] for field in FILES)
        return documents, {
            "url_blocked": np.array(
                [any(not names.isdisjoint(names_of(url)) for names in blocked) for url in urls],
                np.float32,
            ),
            "url_hard_words": np.array(
                [sum(len(url_words & listed) for listed in hard) for url_words in words], np.float32
            ),
            "url_soft_words": np.array(
                [sum(len(url_words & listed) for listed in soft) for url_words in words], np.float32
            ),
        }

    def limits(self) -> tuple[Limit, ...]:
        """Not blocked, no hard word, few soft ones."""
        return (
            Limit("url_blocked", "url_blocked", most=0),
            Limit("url_hard_words", "url_hard_words", most=0),
            Limit("url_soft_words", "url_soft_words", most=self.max_soft_words),
        )

    def fingerprint(self) -> str:
        """Hashes of all list files, in the order of the fields."""
        return " ".join(entries.sha256 for field in FILES for entries in self._lists(field))

    def _lists(self, field: str) -> list:
        # a pydantic model iterates over its fields
        return [user_list(file, field=field) for file in dict(self)[field]]


def url_of(path: str) -> str:
    """A page's URL in lower case without scheme, user, `www.`, port and fragment; "" for what is no URL of
    a page.
    """
    try:
        parts = urlsplit(path.lower())
        host = (
            (parts.hostname or "").removeprefix("www.").rstrip(".")
            if parts.scheme in ("http", "https")
            else ""
        )
    except ValueError:  # brackets that hold no address
        return ""
    return f"{host}{parts.path}{'?' * bool(parts.query)}{parts.query}" if host else ""


def names_of(url: str) -> set[str]:
    """The URL itself, with and without its last slash, and its domain with all domains above it."""
    # `a.b.c` is blocked by an entry `b.c`, and by `c`.
    labels = url.partition("/")[0].split(".")
    return {url, url.rstrip("/"), *(".".join(labels[i:]) for i in range(len(labels)))} - {""}
