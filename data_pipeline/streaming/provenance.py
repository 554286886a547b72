"""Which documents made a row, and which rows a document is in: of any row, past or future."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Origin(NamedTuple):
    """Where a part of a row comes from: token positions [start, stop) of a document of a source.

    `sequence` is 1 for the rejected answer of a pair, else 0. In an epoch that turns the document around (fill-in-the-middle),
    positions are those of the turned one.
    """

    source: str
    document: str
    sequence: int
    start: int
    stop: int
    epoch: int


def steps_of(rows: Iterable[int], batch_size: int, skipped: Sequence[tuple[int, int]] = ()) -> list[int]:
    """The steps, from 1, that read such rows with a constant batch size; rows in the windows `skipped` were read by none."""
    steps = set()
    for row in rows:
        if not any(first <= row < stop for first, stop in skipped):
            steps.add((row - sum(stop - first for first, stop in skipped if stop <= row)) // batch_size + 1)
    return sorted(steps)
