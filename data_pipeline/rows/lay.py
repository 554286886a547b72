"""Laying pieces of documents out as the fields of a batch row."""

from collections.abc import Sequence as Many
from typing import NamedTuple

import numpy as np

from data_pipeline.shards.record import Sequence

Row = dict[str, np.ndarray]  # fields of a batch without its B; of several rows, stacked
INTEGERS = ("tokens_L", "targets_L", "positions_L", "segments_L")


class Piece(NamedTuple):
    """Positions [start, start + n) of a sequence, laid from position `at` of a row on.

    Attributes:
        sequence: The tokens, and which of them are targets.
        start: First position of the sequence.
        n: How many positions.
        at: First position of the row.
        segment: Its number in the row, from 1; attention stays inside a segment.
        context: How many of its first positions are no targets: another row has them as targets already.
    """

    sequence: Sequence
    start: int
    n: int
    at: int
    segment: int
    context: int


def lay(pieces: Many[Piece], positions: slice) -> Row:
    """Positions [start, stop) of the row that the pieces make; padding is 0 in every field.

    Targets are the tokens one further on in the same sequence, so a sequence of n + 1 tokens fills n
    positions.
    """
    length = positions.stop - positions.start
    row = {name: np.zeros(length, np.int32) for name in INTEGERS}
    row["weight_L"] = np.zeros(length, np.float32)
    for sequence, start, n, at, segment, context in pieces:
        # what this host holds of the piece, in positions of the row
        first = max(at, positions.start)
        last = min(at + n, positions.stop)
        if last <= first:
            continue
        here = slice(first - positions.start, last - positions.start)
        offset = start - at  # from a position of the row to one of the sequence
        inputs = slice(first + offset, last + offset)
        targets = slice(first + offset + 1, last + offset + 1)
        inside_L = np.arange(first - at, last - at)  # positions from the piece's own beginning
        row["tokens_L"][here] = sequence.tokens[inputs]
        row["targets_L"][here] = sequence.tokens[targets]
        # `weight` counts tokens as targets, so it is shifted as the targets are.
        row["weight_L"][here] = sequence.weight[targets] * (inside_L >= context)
        row["positions_L"][here] = inside_L
        row["segments_L"][here] = segment
    return row
