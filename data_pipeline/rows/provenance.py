"""Which documents made a row, and which rows a document is in: of any row, past or future."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from data_pipeline.rows.position import united


class Origin(NamedTuple):
    """Where a part of a row comes from: token positions [start, stop) of a document of a source.

    `sequence` is 1 for the rejected answer of a pair, else 0. In an epoch that turns the document around
    (fill-in-the-middle), positions are those of the turned one.
    """

    source: str
    document: str
    sequence: int
    start: int
    stop: int
    epoch: int


def steps_of(rows: Iterable[int], ends: Sequence[int], skipped: Iterable[Sequence[int]] = ()) -> list[int]:
    """The steps, from 1, that read such rows; `ends` are the rows gone through after each, and none read
    those in the windows `skipped`.
    """
    windows = united(skipped)
    read = [row for row in rows if row < ends[-1] and not any(first <= row < stop for first, stop in windows)]
    return sorted({bisect_right(ends, row) + 1 for row in read})
