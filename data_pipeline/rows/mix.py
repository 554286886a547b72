"""Which source gives the next row: exact shares in every block of rows, in stages, as a function of (seed,
index) alone.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, NonNegativeFloat, PositiveFloat, PositiveInt

from data_pipeline.component import FrozenMap
from data_pipeline.rows.keyed import key_from, uniform

BLOCK = 1 << 16  # rows after which every stream has had its exact share; also the finest share


class Stage(BaseModel, frozen=True, extra="forbid", strict=True):
    """What rows are drawn from after `from_tokens` positions of the phase; fields as in the data component
    and its `Schedule`.
    """

    from_tokens: PositiveInt
    weights: FrozenMap[str, PositiveFloat]
    size_power: NonNegativeFloat = 0.0
    segments: FrozenMap[str, PositiveInt] = FrozenMap()


class Schedule(BaseModel, frozen=True, extra="forbid", strict=True):
    """How a mixture goes on, beyond the weights that it begins with. What lies behind the trainer's
    position may be changed at any time.

    Attributes:
        size_power: A source's share is weight · tokens^size_power: 0 = the weights alone, 1 = as large as
        it is, 0.3 = small sources
            more often (the temperature of multilingual models).
        segments: Source → how many of its segments take part; all of a source that is not named.
        stages: What takes the place of weights, `size_power` and `segments` later on; sources keep their
        place in their epochs.
        max_epochs: Source → how often its rows are read at most, a broken number too. Its share goes to the
        others from that row on.
    """

    size_power: NonNegativeFloat = 0.0
    segments: FrozenMap[str, PositiveInt] = FrozenMap()
    stages: tuple[Stage, ...] = ()
    max_epochs: FrozenMap[str, PositiveFloat] = FrozenMap()


class Leg(NamedTuple):
    """A run of rows with constant shares: from row `first` on, `counts[s]` rows of stream s in a block,
    which had `before[s]` before.
    """

    first: int
    counts: np.ndarray
    before: np.ndarray


class Mixture:
    """Random access to a sequence of (stream, how many rows of that stream came before): nothing is iterated.

    A stream is what has a cursor of its own. `stages` are (first row, weight of each stream); `caps` rows
    of each stream at most (None = any number). A stream that reaches its cap is left out from the next row
    on, where a new leg begins.

    Raises:
        ValueError: a share is too small to be kept.
    """

    def __init__(
        self,
        stages: Sequence[tuple[int, Sequence[float]]],
        caps: Sequence[int | None],
        names: Sequence[str],
        seed: int,
    ):
        self.names, self.seed = list(names), seed
        self._order = lru_cache(maxsize=8)(self._draw)
        self.legs: list[Leg] = []
        self.n_rows: int | None = None  # None = endless
        self._caps = np.array([np.iinfo(np.int64).max if cap is None else cap for cap in caps])
        starts = [first for first, _ in stages]
        for (first, weights), end in zip(stages, [*starts[1:], None], strict=True):
            if self.n_rows is None:
                self._add_stage(first, np.array(weights, np.float64), end)

    def __getitem__(self, index: int) -> tuple[int, int]:
        ((stream, before),) = self.places([index])
        return stream, before

    def places(self, indices: Sequence[int]) -> list[tuple[int, int]]:
        """(stream, rows of it before) of each row."""
        return [self._place(index) for index in indices]

    def _place(self, index: int) -> tuple[int, int]:
        if self.n_rows is not None and index >= self.n_rows:
            raise IndexError(f"row {index} of {self.n_rows}: all sources have reached their max_epochs")
        number = self._leg_at(index)
        leg = self.legs[number]
        block, slot = divmod(index - leg.first, BLOCK)
        stream, before = (x[slot] for x in self._order(number, block)[:2])
        return int(stream), int(leg.before[stream] + block * leg.counts[stream] + before)

    def _leg_at(self, index: int) -> int:
        return max(number for number, leg in enumerate(self.legs) if leg.first <= index)

    def cursors(self, index: int) -> np.ndarray:
        """Rows of each stream before row `index`; int64 [n_streams]."""
        number = self._leg_at(index)
        return self.legs[number].before + self._within(number, index - self.legs[number].first)

    def _within(self, number: int, n_rows: int) -> np.ndarray:
        """Rows of each stream among the first so many rows of a leg."""
        counts = self.legs[number].counts
        blocks, rest = divmod(n_rows, BLOCK)
        return blocks * counts + np.bincount(self._order(number, blocks)[0][:rest], minlength=len(counts))

    def row_of(self, stream: int, before: int) -> int | None:
        """The row that has so many rows of its stream before it; None if it never comes."""
        ends = [leg.before[stream] for leg in self.legs[1:]] + [self._caps[stream]]
        number = next((number for number, end in enumerate(ends) if before < end), None)
        if number is None or not self.legs[number].counts[stream]:
            return None
        return self.legs[number].first + self._offset(
            number, stream, before - int(self.legs[number].before[stream])
        )

    def _offset(self, number: int, stream: int, k: int) -> int:
        """Where in a leg the row with `k` rows of its stream before it is."""
        block, k = divmod(k, int(self.legs[number].counts[stream]))
        _, _, rows = self._order(number, block)
        return block * BLOCK + int(rows[stream][k])

    def _add_stage(self, first: int, weights: np.ndarray, end: int | None) -> None:
        """The legs of a stage: one, and one more for every stream that reaches its cap on the way."""
        before = self.cursors(first) if self.legs else np.zeros(len(weights), np.int64)
        while end is None or first < end:
            weights = np.where(before < self._caps, weights, 0)
            if not weights.any():
                self.n_rows = first
                return
            self.legs.append(Leg(first, self._counts(weights), before))
            last, leg = len(self.legs) - 1, self.legs[-1]
            capped = [
                s for s in np.flatnonzero(leg.counts).tolist() if self._caps[s] < np.iinfo(np.int64).max
            ]
            used_up = [first + self._offset(last, s, int(self._caps[s] - before[s]) - 1) + 1 for s in capped]
            if not used_up or (end is not None and min(used_up) >= end):
                return
            first = min(used_up)
            before = self.cursors(first)

    def _counts(self, weights: np.ndarray) -> np.ndarray:
        """Rows of each stream in a block: shares rounded down, the remaining rows to those that lost most."""
        exact = weights / weights.sum() * BLOCK
        counts = np.floor(exact).astype(np.int64)
        counts[np.argsort(counts - exact, kind="stable")[: BLOCK - counts.sum()]] += 1
        if len(small := np.flatnonzero((weights > 0) & (counts == 0))):
            name, share = self.names[small[0]], weights[small[0]] / weights.sum()
            raise ValueError(
                f"{name} has a share of {share:.2g} of the rows, less than 1/{BLOCK}; raise its weight or leave it out"
            )
        return counts

    def _draw(self, number: int, block: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """One block: the stream of each row, how many rows of it came before in the block, and the rows of
        each stream.

        Each of a stream's n rows falls somewhere in its own n-th part of the block: every stretch of rows
        has the shares of the whole.
        """
        counts = self.legs[number].counts
        stream = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        nth = np.arange(BLOCK) - np.repeat(np.cumsum(counts) - counts, counts)
        at = (
            nth + uniform(key_from("mixture", self.seed, self.legs[number].first, block), np.arange(BLOCK))
        ) / counts[stream]
        order = np.argsort(at, kind="stable")
        row = np.empty(BLOCK, np.int32)
        row[order] = np.arange(BLOCK)
        return stream[order], nth[order].astype(np.int32), np.split(row, np.cumsum(counts)[:-1])
