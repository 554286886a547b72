"""Offline packing: which pieces of which documents make a row, planned from lengths alone."""

from typing import ClassVar, NamedTuple

import numpy as np
from pydantic import BaseModel, NonNegativeInt


class Plan(NamedTuple):
    """Row r holds the pieces `offsets[r]:offsets[r + 1]`; a piece is (document, first position, number of
    positions).
    """

    pieces: np.ndarray  # int64 [n_pieces, 3]
    offsets: np.ndarray  # int64 [n_rows + 1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> np.ndarray:
        """The pieces of one row."""
        return self.pieces[self.offsets[index] : self.offsets[index + 1]]


class BestFit(BaseModel, frozen=True, extra="forbid", strict=True):
    """Rows of whole documents, the longest first, each into the fullest row that takes it (Ding et al. 2024).

    A document longer than a row is cut into windows; each but the first repeats the `overlap` positions
    before it, as context that is no target.
    """

    VERSION: ClassVar[int] = 1

    overlap: NonNegativeInt = 0

    def plan(self, lengths: np.ndarray, seq_len: int) -> Plan:
        """Rows of documents with so many positions."""
        # a piece has one position at least, so a row never holds more than seq_len of them
        return best_fit(cut_documents(lengths, seq_len, self.overlap), seq_len, seq_len)


class OnePerRow(BaseModel, frozen=True, extra="forbid", strict=True):
    """A row a document, or a window of one that is longer; `overlap` as in `BestFit`."""

    VERSION: ClassVar[int] = 1

    overlap: NonNegativeInt = 0

    def plan(self, lengths: np.ndarray, seq_len: int) -> Plan:
        """Rows of documents with so many positions."""
        pieces = cut_documents(lengths, seq_len, self.overlap)
        return Plan(pieces, np.arange(len(pieces) + 1))


class ConcatenateAndSplit(BaseModel, frozen=True, extra="forbid", strict=True):
    """Documents behind one another in the order of the shards, cut wherever a row is full (GPT-2's way):
    padding in the last row alone.
    """

    VERSION: ClassVar[int] = 1

    @property
    def overlap(self) -> int:
        """Always 0: no position is read twice."""
        return 0

    def plan(self, lengths: np.ndarray, seq_len: int) -> Plan:
        """Rows of documents with so many positions."""
        ends = np.cumsum(lengths)  # of the documents, in one long line of positions
        total = int(ends[-1]) if len(ends) else 0
        row_starts = np.arange(0, total, seq_len)

        # A piece begins where a document or a row begins; empty documents have none.
        starts = np.unique(np.concatenate([(ends - lengths)[lengths > 0], row_starts]))
        document = np.searchsorted(ends, starts, side="right")
        inside = starts - (ends - lengths)[document]  # first position of the document
        pieces = np.stack([document, inside, np.diff(starts, append=total)], 1).astype(np.int64)
        offsets = np.append(np.searchsorted(starts, row_starts), len(pieces))
        return Plan(pieces, offsets.astype(np.int64))


def cut_documents(lengths: np.ndarray, capacity: int, overlap: int = 0) -> np.ndarray:
    """Pieces that cover every document; int64 [n, 3].

    Args:
        lengths: Positions of each document, int64 [n_documents].
        capacity: Positions of a piece at most.
        overlap: How far each piece after a document's first reaches back into the one before.
    """
    stride = capacity - overlap  # from the start of a piece to that of the next
    n_behind_first = -(-(lengths - capacity).clip(min=0) // stride)  # rounded up
    n_pieces = np.where(lengths > 0, 1 + n_behind_first, 0)
    document = np.repeat(np.arange(len(lengths)), n_pieces)
    first_piece = np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)
    start = (np.arange(len(document)) - first_piece) * stride
    size = np.minimum(capacity, lengths[document] - start)
    return np.stack([document, start, size], 1).astype(np.int64)


def whole_documents(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """One piece a document; those that do not fit whole are left out; int64 [n, 3]."""
    fits = np.flatnonzero((lengths <= capacity) & (lengths > 0))
    return np.stack([fits, np.zeros_like(fits), lengths[fits]], 1).astype(np.int64)


def best_fit(pieces: np.ndarray, capacity: int, max_pieces: int) -> Plan:
    """Rows of at most `capacity` positions and `max_pieces` pieces: the longest piece first, each into the
    fullest row that takes it.

    Args:
        pieces: As in a `Plan`, in any order.
        capacity: Positions a row; no piece is longer.
        max_pieces: A row.

    Depends on nothing but its arguments. Pieces of one length are placed together: the fullest row that
    takes one takes as many more as fit, since it stays the fullest.
    """
    # Stable: pieces of one length keep their order, so that a plan is the same everywhere.
    order = np.argsort(-pieces[:, 2], kind="stable")
    lengths, counts = np.unique(pieces[:, 2], return_counts=True)  # ascending
    rows = _Rows(capacity, max_pieces, len(pieces))
    row_of = [np.zeros(0, np.int64)]
    for length, n in zip(lengths[::-1].tolist(), counts[::-1].tolist(), strict=True):
        row_of.append(rows.place(length, n))
    row = np.concatenate(row_of)  # of each piece, in `order`
    by_row = np.argsort(row, kind="stable")
    sizes = np.bincount(row, minlength=rows.n)
    return Plan(pieces[order[by_row]], np.append(0, np.cumsum(sizes)).astype(np.int64))


class _Rows:
    """Rows on stacks by free space, the least space that fits found in a few machine words.

    Bit s of `_spaces` is set while some row has exactly s free positions. Rows that are full, of positions
    or of pieces, are on no stack.
    """

    def __init__(self, capacity: int, max_pieces: int, n_at_most: int):
        self.capacity = capacity
        self.max_pieces = max_pieces
        self.n = 0  # rows so far
        self._stacks: dict[int, list[np.ndarray]] = {}  # free space → runs of row numbers
        self._spaces = 0
        self._n_pieces = np.zeros(n_at_most, np.int64)  # of each row

    def place(self, length: int, n: int) -> np.ndarray:
        """The rows that `n` pieces of a length go to; int64 [n]."""
        placed = []
        while n:
            space, rows = self._take(length, n)
            room = np.minimum(space // length, self.max_pieces - self._n_pieces[rows])
            # the rows in their order are filled up until the pieces run out
            n_before = np.cumsum(room) - room
            taken = (n - n_before).clip(0, room)
            placed.append(np.repeat(rows, taken))
            self._n_pieces[rows] += taken
            self._give_back(rows, space - taken * length)
            n -= int(taken.sum())
        return np.concatenate(placed)

    def _take(self, length: int, n: int) -> tuple[int, np.ndarray]:
        """(free space, rows): at most `n` rows with the least space that fits, new ones if there are none."""
        # Bit s of the shifted number stands for s positions left over: the lowest set bit is the
        # best fit.
        fitting = self._spaces >> length
        if not fitting:
            pieces_a_row = min(self.capacity // length, self.max_pieces)
            n_new = -(-n // pieces_a_row)  # rounded up
            self.n += n_new
            return self.capacity, np.arange(self.n - n_new, self.n)
        # x & -x keeps the lowest set bit of x alone.
        lowest_bit = (fitting & -fitting).bit_length() - 1
        space = length + lowest_bit
        stack = self._stacks[space]
        rows = stack.pop()
        if len(rows) > n:
            stack.append(rows[n:])
            rows = rows[:n]
        if not stack:
            self._spaces &= ~(1 << space)
        return space, rows

    def _give_back(self, rows: np.ndarray, spaces: np.ndarray) -> None:
        """Put rows, which have so much free space now, back on their stacks."""
        has_room = (spaces > 0) & (self._n_pieces[rows] < self.max_pieces)
        rows, spaces = rows[has_room], spaces[has_room]
        for space in np.unique(spaces).tolist():
            self._stacks.setdefault(space, []).append(rows[spaces == space])
            self._spaces |= 1 << space
