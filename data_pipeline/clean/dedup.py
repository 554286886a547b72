"""Documents that are the same but for case, spacing and punctuation."""

import hashlib
import re

from pydantic import BaseModel

from data_pipeline.clean.rule import Check
from data_pipeline.document import Document
from data_pipeline.drops import Drops

NOT_WORD = re.compile(r"[\W_]+")


class ExactDedup(BaseModel, frozen=True, extra="forbid", strict=True):
    """Keeps the first of equal documents, across all its sources; readers yield in a fixed order, so the first is always the same."""

    sources: tuple[str, ...]

    def start(self, drops: Drops) -> Check:
        """The check; it remembers 16 bytes a document."""
        seen: set[bytes] = set()

        def check(document: Document) -> Document | None:
            key = hashlib.sha256(NOT_WORD.sub(" ", document.text.lower()).strip().encode()).digest()[:16]
            if key in seen:
                return drops.add(document.source, "exact_duplicate", document.path)
            seen.add(key)
            return document

        return check
