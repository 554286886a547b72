"""Personal data replaced by values that nobody owns: e-mail and IP addresses, telephone numbers, IBANs,
payment cards.

After dolma (Soldaini et al. 2024), with more kinds and with checksums. What is found is counted, never
shown or logged.
"""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from pydantic import BaseModel

from data_pipeline.clean.pii_patterns import EMAIL, NUMERIC, Pattern, PiiKind
from data_pipeline.clean.replace import Span, bytes_of, matches_near, positions_of, replace_spans
from data_pipeline.clean.rule import Limit, Signals
from data_pipeline.documents.document import Document

DIGIT_0 = np.uint8(ord("0"))


class Pii(BaseModel, frozen=True, extra="forbid", strict=True):
    """Replaces personal data: equal values by equal values, in every document and on every machine, so that
    who is who stays clear.

    E-mail addresses get the domains of RFC 2606, IP addresses the ranges of RFC 5737 and 3849, telephone
    numbers the fictional 555-01xx, IBANs and cards published examples; such values are no personal data and
    stay where they are found.

    Attributes:
        sources: The sources it applies to.
        kinds: What is looked for; in code, long numbers are seldom telephones or cards.
        max_hits: Documents with more are dropped (dolma: 5); None drops none.
    """

    VERSION: ClassVar[int] = 3
    LATE: ClassVar[frozenset[str]] = frozenset({"max_hits"})
    EDITS: ClassVar[bool] = True

    sources: tuple[str, ...]
    kinds: tuple[PiiKind, ...] = ("email", "ip", "phone", "iban", "card")
    max_hits: int | None = None

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """Signals: `pii_email_spans` and so on for each kind, and their sum `pii_hits`."""
        documents, counts = replace_spans(documents, self.kinds, self._find)
        spans = {f"pii_{kind}_spans": values for kind, values in counts.items()}
        return documents, {
            **spans,
            "pii_hits": sum(spans.values(), np.zeros(len(documents), np.float32)),
        }

    def limits(self) -> tuple[Limit, ...]:
        """At most `max_hits` replaced values a document, or no limit."""
        return () if self.max_hits is None else (Limit("pii", "pii_hits", most=self.max_hits),)

    # `text` is all documents of the batch joined; see `replace_spans`.
    def _find(self, text: str) -> Iterator[Span]:
        if "email" in self.kinds and "@" in text:
            # An address has an @: the regular expression runs around those alone.
            at = positions_of(text, "@")
            yield from spans_of(EMAIL, text, at, at)
        numeric = [pattern for pattern in NUMERIC if pattern.kind in self.kinds]
        if numeric:
            # One byte a character: digits are found by numpy, and patterns run only where digits stand
            # densely.
            chars = bytes_of(text)
            # Unsigned bytes wrap around: what is below "0" becomes large.
            digits = np.flatnonzero(chars - DIGIT_0 < 10)
            for pattern in numeric:
                yield from spans_of(pattern, text, *pattern.candidates(chars, digits))


def spans_of(pattern: Pattern, text: str, first: np.ndarray, last: np.ndarray) -> Iterator[Span]:
    """The spans near the candidates."""
    for match in matches_near(
        text, pattern.regex, first, last, before=pattern.before, after=pattern.after
    ):
        # An empty replacement means that the match is no personal data: a version number, a failed
        # checksum.
        if replacement := pattern.replace(match):
            yield Span(match.start(), match.end(), pattern.kind, replacement)
