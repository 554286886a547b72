"""Which documents made a row, and which rows a document is in: of any row, past or future."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from data_pipeline.rows.position import united


class Origin(NamedTuple):
    """Where a part of a row comes from: token positions [start, stop) of a document of a source.

    In an epoch that rearranges the document (fill-in-the-middle), positions are those of the rearranged
    one.

    Attributes:
        source: Name of the source.
        document: Id of the document.
        sequence: 1 for the rejected answer of a pair, else 0.
        start: First token.
        stop: Behind the last one.
        epoch: Of the source, from 0.
    """

    source: str
    document: str
    sequence: int
    start: int
    stop: int
    epoch: int


def steps_of(
    rows: Iterable[int], ends: Sequence[int], skipped: Iterable[Sequence[int]] = ()
) -> list[int]:
    """The steps, from 1, that read such rows.

    Args:
        rows: Numbers of rows.
        ends: Rows consumed after each step, from step 1 on.
        skipped: Windows of rows that no step has read.
    """
    windows = united(skipped)

    def is_read(row: int) -> bool:
        # Rows after the last step are not read yet.
        return row < ends[-1] and not any(first <= row < stop for first, stop in windows)

    # Step s has read the rows below ends[s - 1], so a row's step is that of the first end beyond it.
    return sorted({bisect_right(ends, row) + 1 for row in rows if is_read(row)})
