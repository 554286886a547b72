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
UNLIMITED = np.iinfo(np.int64).max  # the cap of a stream that has none


class Stage(BaseModel, frozen=True, extra="forbid", strict=True):
    """What rows are drawn from after `from_tokens` positions of the phase; fields as in the data component
    and its `Schedule`.
    """

    from_tokens: PositiveInt
    weights: FrozenMap[str, PositiveFloat]
    size_power: NonNegativeFloat = 0.0
    segments: FrozenMap[str, PositiveInt] = FrozenMap()


class Schedule(BaseModel, frozen=True, extra="forbid", strict=True):
    """How a mixture changes from the weights that it begins with. What comes after the trainer's position may
    be changed at any time.

    Attributes:
        size_power: A source's share is weight · tokens^size_power: 0 = the weights alone, 1 = as large as
        it is, 0.3 = small sources more often (the temperature of multilingual models).
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
    """A run of rows with constant shares.

    Attributes:
        first: Its first row.
        counts: Rows of each stream in a block of the leg; int64 [n_streams].
        before: Rows of each stream before the leg; int64 [n_streams].
    """

    first: int
    counts: np.ndarray
    before: np.ndarray


class BlockOrder(NamedTuple):
    """Which stream each row of one block is of.

    Attributes:
        stream: Of each row of the block, [BLOCK].
        before: Rows of the same stream before it in the block, [BLOCK].
        rows: Of each stream, its rows of the block in order.
    """

    stream: np.ndarray
    before: np.ndarray
    rows: list[np.ndarray]


class Mixture:
    """Random access to a sequence of (stream, how many rows of that stream came before): nothing is iterated.

    A stream is what has a cursor of its own. One that reaches its cap is left out from the next row on,
    where a new leg begins.

    Args:
        stages: (first row, weight of each stream), in order.
        caps: Rows of each stream at most; None = any number.
        names: Of the streams, for errors.
        seed: Of the orders inside blocks.

    Attributes:
        names: Of the streams.
        seed: Of the orders inside blocks.
        legs: In order.
        n_rows: How many rows there are; None = endless.

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
        self.names = list(names)
        self.seed = seed
        # neighbouring rows are asked for one after another, from a few blocks at a time
        self._order = lru_cache(maxsize=8)(self._draw)
        self.legs: list[Leg] = []
        self.n_rows: int | None = None
        self._caps = np.array([UNLIMITED if cap is None else cap for cap in caps])

        # a stage ends where the next one begins, the last one never
        ends = [first for first, _ in stages[1:]] + [None]
        for (first, weights), end in zip(stages, ends, strict=True):
            if self.n_rows is None:  # else all streams have reached their caps
                self._add_stage(first, np.array(weights, np.float64), end)

    def __getitem__(self, index: int) -> tuple[int, int]:
        ((stream, before),) = self.places([index])
        return stream, before

    def places(self, indices: Sequence[int]) -> list[tuple[int, int]]:
        """(stream, rows of it before) of each row."""
        return [self._place(index) for index in indices]

    def _place(self, index: int) -> tuple[int, int]:
        if self.n_rows is not None and index >= self.n_rows:
            raise IndexError(
                f"row {index} of {self.n_rows}: all sources have reached their max_epochs"
            )
        number = self._leg_at(index)
        leg = self.legs[number]
        block, slot = divmod(index - leg.first, BLOCK)
        order = self._order(number, block)
        stream = int(order.stream[slot])

        # before the leg, in its earlier blocks, and in this one
        before = leg.before[stream] + block * leg.counts[stream] + order.before[slot]
        return stream, int(before)

    def _leg_at(self, index: int) -> int:
        """The number of the leg that row `index` is in."""
        # A linear search: legs are few (stages and caps).
        return max(number for number, leg in enumerate(self.legs) if leg.first <= index)

    def cursors(self, index: int) -> np.ndarray:
        """Rows of each stream before row `index`; int64 [n_streams]."""
        number = self._leg_at(index)
        leg = self.legs[number]
        n_blocks, rest = divmod(index - leg.first, BLOCK)

        # of the block under way, the rows up to here are counted one by one
        begun = self._order(number, n_blocks).stream[:rest]
        return leg.before + n_blocks * leg.counts + np.bincount(begun, minlength=len(leg.counts))

    def row_of(self, stream: int, before: int) -> int | None:
        """The row that has `before` rows of its stream before it; None if it never comes."""
        ends = [leg.before[stream] for leg in self.legs[1:]] + [self._caps[stream]]
        number = next((number for number, end in enumerate(ends) if before < end), None)
        if number is None or not self.legs[number].counts[stream]:
            return None
        leg = self.legs[number]
        return leg.first + self._offset(number, stream, before - int(leg.before[stream]))

    def _offset(self, number: int, stream: int, k: int) -> int:
        """Where in a leg the row with `k` rows of its stream before it is."""
        block, k = divmod(k, int(self.legs[number].counts[stream]))
        order = self._order(number, block)
        return block * BLOCK + int(order.rows[stream][k])

    def _add_stage(self, first: int, weights: np.ndarray, end: int | None) -> None:
        """The legs of a stage: one, and one more for every stream that reaches its cap on the way."""
        before = self.cursors(first) if self.legs else np.zeros(len(weights), np.int64)
        while end is None or first < end:
            # Capped streams fall out here, and the others' shares grow in proportion.
            weights = np.where(before < self._caps, weights, 0)
            if not weights.any():
                self.n_rows = first
                return
            leg = Leg(first, self._counts(weights), before)
            self.legs.append(leg)

            # When a stream reaches its cap within the stage, a new leg divides its share.
            next_first = self._first_cap(leg)
            if next_first is None or (end is not None and next_first >= end):
                return
            first = next_first
            before = self.cursors(first)

    def _first_cap(self, leg: Leg) -> int | None:
        """The row behind which the first stream of the last leg has reached its cap; None = never."""
        number = len(self.legs) - 1
        rows = []
        for stream in np.flatnonzero(leg.counts).tolist():
            if self._caps[stream] < UNLIMITED:
                last = int(self._caps[stream] - leg.before[stream]) - 1  # of its rows in this leg
                rows.append(leg.first + self._offset(number, stream, last) + 1)
        return min(rows, default=None)

    def _counts(self, weights: np.ndarray) -> np.ndarray:
        """Rows of each stream in a block: shares rounded down, the remaining rows to those that lost most."""
        # shares in whole rows must sum to the block, whatever the rounding
        exact = weights / weights.sum() * BLOCK
        counts = np.floor(exact).astype(np.int64)
        n_remaining = BLOCK - counts.sum()
        counts[np.argsort(counts - exact, kind="stable")[:n_remaining]] += 1
        too_small = np.flatnonzero((weights > 0) & (counts == 0))
        if len(too_small):
            name, share = self.names[too_small[0]], weights[too_small[0]] / weights.sum()
            raise ValueError(
                f"{name} has a share of {share:.2g} of the rows, less than 1/{BLOCK}; raise its weight or "
                "leave it out"
            )
        return counts

    def _draw(self, number: int, block: int) -> BlockOrder:
        """The order inside one block of a leg.

        Each of a stream's n rows falls somewhere in its own n-th part of the block: every stretch of rows
        has the shares of the whole.
        """
        leg = self.legs[number]

        # The rows of the block stream by stream, before they are put in order.
        stream = np.repeat(np.arange(len(leg.counts), dtype=np.int32), leg.counts)
        ends = np.cumsum(leg.counts)
        starts = np.repeat(ends - leg.counts, leg.counts)
        nth = np.arange(BLOCK) - starts  # of the stream's rows in the block
        jitter = uniform(key_from("mixture", self.seed, leg.first, block), np.arange(BLOCK))
        # Row k of a stream's n has a time in [k/n, (k+1)/n): sorting by time mixes all streams
        # evenly.
        order = np.argsort((nth + jitter) / leg.counts[stream], kind="stable")
        row = np.empty(BLOCK, np.int32)  # the inverse of `order`
        row[order] = np.arange(BLOCK)
        return BlockOrder(stream[order], nth[order].astype(np.int32), np.split(row, ends[:-1]))
