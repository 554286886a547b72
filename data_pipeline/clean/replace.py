"""Find spans in many texts at once and replace them: what the rules on personal data and on secrets share.

The texts of a batch are joined, and numpy looks in one pass for the few places where anything could be;
regular expressions run only there.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from data_pipeline.documents.document import Document

SEPARATOR = "\n\0\n"  # between documents; no pattern crosses it, so that each is treated as if it were alone


class Span(NamedTuple):
    """Characters `start:end` of a text, what they are, and what is to stand there."""

    start: int
    end: int
    kind: str
    replacement: str


def replace_spans(
    documents: list[Document], kinds: Iterable[str], find: Callable[[str], Iterable[Span]]
) -> tuple[list[Document], dict[str, np.ndarray]]:
    """The documents with their spans replaced, and kind → float32 [n], how many; of spans that overlap the
    first, then longest, counts.
    """
    text = SEPARATOR.join(document.text for document in documents)
    lengths = np.fromiter((len(document.text) for document in documents), np.int64, len(documents))
    # Where each document ends in the joined text: a span's document is found by binary search.
    ends = np.cumsum(lengths + len(SEPARATOR)) - len(SEPARATOR)
    counts = {kind: np.zeros(len(documents), np.float32) for kind in kinds}
    edited = list(documents)
    for n, spans in itertools.groupby(
        without_overlaps(find(text)), key=lambda span: int(np.searchsorted(ends, span.start))
    ):
        pieces, position = [], int(ends[n] - lengths[n])
        for span in spans:
            pieces += [text[position : span.start], span.replacement]
            counts[span.kind][n] += 1
            position = span.end
        edited[n] = documents[n]._replace(text="".join([*pieces, text[position : ends[n]]]))
    return edited, counts


def without_overlaps(spans: Iterable[Span]) -> Iterator[Span]:
    """In order; a span that begins inside another is left out."""
    position = 0
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if span.start >= position:
            yield span
            position = span.end


def bytes_of(text: str) -> np.ndarray:
    """One byte a character, "?" for those outside ASCII, and eight zeros after the last, so that one may
    look ahead (or, at -1, back).
    """
    return np.frombuffer(text.encode("ascii", "replace") + bytes(8), np.uint8)


def positions_of(text: str, literal: str) -> np.ndarray:
    """Positions at which `literal` begins, int64 ascending."""
    return np.fromiter((match.start() for match in re.finditer(re.escape(literal), text)), np.int64)


def dense(positions: np.ndarray, n: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last of each `n` successive positions that lie within `width` characters."""
    first, last = positions[: max(len(positions) - n + 1, 0)], positions[n - 1 :]
    near = last - first < width
    return first[near], last[near]


def matches_near(
    text: str, pattern: re.Pattern, first: np.ndarray, last: np.ndarray, *, before: int, after: int
) -> Iterator[re.Match]:
    """Every match that begins in one of the stretches from `first - before` to `last + after`, both sorted;
    it may end anywhere.
    """
    # Neighbouring candidates share one search, so a dense table of numbers is not searched once a number.
    for start, end in zip(*merged(first - before, last + after), strict=True):
        position = max(start, 0)
        # Bounded by `end`: a search without a bound would run to the next match, perhaps megabytes on.
        while candidate := pattern.search(text, position, end):
            # Again without the bound, at which a longer number would look complete.
            match = pattern.match(text, candidate.start())
            position = match.end() if match else candidate.start() + 1
            if match:
                yield match


def merged(start: np.ndarray, end: np.ndarray) -> tuple[list[int], list[int]]:
    """The stretches `start:end`, both sorted, with those that touch made one."""
    # True between stretches that do not touch: there one merged stretch ends and the next begins.
    apart = start[1:] > end[:-1]
    # No stretch at all has no first or last one either.
    n = min(len(start), 1)
    return start[np.concatenate([np.ones(n, bool), apart])].tolist(), end[
        np.concatenate([apart, np.ones(n, bool)])
    ].tolist()


def line_before(match: re.Match, n_chars: int) -> str:
    """Up to `n_chars` that stand before the match on its line."""
    return match.string[max(0, match.start() - n_chars) : match.start()].rpartition("\n")[2]


def choice(value: str, n: int) -> int:
    """A number below `n` that depends on the value alone: equal values get equal replacements everywhere."""
    return (
        int.from_bytes(
            blake2b(
                value.encode("utf-8", "surrogatepass"), digest_size=8, key=b"meshwright"
            ).digest()
        )
        % n
    )
