"""Offline packing: which pieces of which documents make a row, planned from lengths alone (best-fit decreasing, Ding et al. 2024)."""

from typing import NamedTuple

import numpy as np


class Plan(NamedTuple):
    """Row r holds the pieces `offsets[r]:offsets[r + 1]`; a piece is (document, first position, number of positions)."""

    pieces: np.ndarray  # int64 [n_pieces, 3]
    offsets: np.ndarray  # int64 [n_rows + 1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> np.ndarray:
        """The pieces of one row."""
        return self.pieces[self.offsets[index] : self.offsets[index + 1]]


def cut(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Pieces of at most `capacity` positions that cover every document once; int64 [n, 3]."""
    pieces_a_document = -(-lengths // capacity)
    document = np.repeat(np.arange(len(lengths)), pieces_a_document)
    first_piece = np.repeat(np.cumsum(pieces_a_document) - pieces_a_document, pieces_a_document)
    start = (np.arange(len(document)) - first_piece) * capacity
    return np.stack([document, start, np.minimum(capacity, lengths[document] - start)], 1).astype(np.int64)


def best_fit(pieces: np.ndarray, capacity: int, max_pieces: int) -> Plan:
    """Rows of at most `capacity` positions and `max_pieces` pieces: the longest piece first, each into the fullest row that takes it.

    Depends on nothing but its arguments. Rows that a piece may join are kept in lists by free space, and the non-empty lists as bits
    of one integer, so that the fullest fitting row is its lowest bit from the piece's length on.
    """
    rows: list[list[int]] = []
    with_space: list[list[int]] = [[] for _ in range(capacity + 1)]
    spaces = 0
    for index in np.argsort(-pieces[:, 2], kind="stable"):
        length = int(pieces[index, 2])
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            row = with_space[space].pop()
            if not with_space[space]:
                spaces &= ~(1 << space)
        else:
            space, row = capacity, len(rows)
            rows.append([])
        rows[row].append(int(index))
        if space > length and len(rows[row]) < max_pieces:
            with_space[space - length].append(row)
            spaces |= 1 << (space - length)
    order = np.array([index for row in rows for index in row], dtype=np.int64)
    return Plan(pieces[order], np.cumsum([0, *map(len, rows)]).astype(np.int64))
