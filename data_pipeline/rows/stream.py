"""The stream of rows that a host reads ahead, through Grain."""

from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from data_pipeline.rows.bad_records import pack_bad_records, take_bad_records
from data_pipeline.rows.lay import Row
from data_pipeline.rows.position import rows_of, united
from data_pipeline.rows.sequence import RowSequence

AHEAD = 4  # batches
GROUP_POSITIONS = 1 << 15  # of a group of small batches; larger groups save no more work
ENDLESS = 2**62  # batches
MAX_LEN = 2**31 - 1  # Grain's indices are 32 bits


class _HostBatches:
    """The part of the sequence that one host reads: of every batch of `batch_size` rows those at `offsets`,
    of them `positions`.

    Batches that are small are read in groups, of AHEAD at most and about GROUP_POSITIONS: most of the work
    for few rows is done once a group. So an error may come some steps before the batch that it is about.
    """

    def __init__(
        self,
        rows: RowSequence,
        first: int,
        batch_size: int,
        offsets: tuple[int, ...],
        positions: slice | None,
        skipped: Sequence[Sequence[int]],
    ):
        self.rows = rows
        self.first = first
        self.batch_size = batch_size
        self.offsets = offsets
        self.positions = positions
        self.skipped = skipped
        seq_len = next(iter(rows.sources.values())).packing.seq_len
        # Counted for this host alone: hosts may group differently, and read the same rows.
        fitting = GROUP_POSITIONS // (len(offsets) * seq_len)
        self.group = min(max(fitting, 1), AHEAD)  # batches

    def __len__(self) -> int:
        # Rounded up: the last group may be smaller.
        return min(-(-self._n_batches // self.group), MAX_LEN)

    @property
    def _n_batches(self) -> int:
        n_rows = self.rows.n_rows
        if n_rows is None:
            return ENDLESS
        n_skipped = 0
        for start, stop in united(self.skipped):
            n_skipped += max(min(stop, n_rows) - max(start, self.first), 0)
        return max(n_rows - self.first - n_skipped, 0) // self.batch_size

    def __getitem__(self, index: int) -> Row:
        """A group, [batches of it, len(offsets), …]."""
        first = index * self.group  # batch
        n = min(self.group, self._n_batches - first)
        size = self.batch_size
        numbers = rows_of(self.first, n * size, self.skipped, offset=first * size)
        wanted = [numbers[i * size + offset] for i in range(n) for offset in self.offsets]
        rows = self.rows.read(wanted, self.positions)
        group = {}
        for name in rows[0]:
            stacked = np.stack([row[name] for row in rows])
            group[name] = stacked.reshape(n, len(self.offsets), *stacked.shape[1:])
        return group | pack_bad_records(self.rows.sources)


def stream(
    rows: RowSequence,
    first: int,
    batch_size: int,
    offsets: tuple[int, ...],
    *,
    positions: slice | None = None,
    processes: int = 0,
    skipped: Sequence[Sequence[int]] = (),
) -> Iterator[Row]:
    """This host's rows of one global batch after another from row `first` on, stacked [len(offsets), …];
    ends where the rows do.

    Rows in the windows `skipped` are left out.

    Read ahead in threads, or in as many processes as `processes` says: Python's share of the work is
    little, unless documents are rearranged (fill-in-the-middle).
    """
    source = _HostBatches(rows, first, batch_size, offsets, positions, skipped)
    if not len(source):
        return iter(())
    groups: Any = grain.MapDataset.source(source)
    n_ahead = AHEAD // source.group
    if processes:
        if not flags.FLAGS.is_parsed():
            # Grain's processes read its flags, which only an absl program parses
            flags.FLAGS.mark_as_parsed()
        # One thread in each process: the processes themselves are what runs in parallel.
        reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        workers = grain.MultiprocessingOptions(
            num_workers=processes, per_worker_buffer_size=n_ahead
        )
        ahead = groups.to_iter_dataset(reading).mp_prefetch(workers)
    else:
        ahead = groups.to_iter_dataset(
            grain.ReadOptions(num_threads=2, prefetch_buffer_size=n_ahead)
        )
    return (batch for group in ahead for batch in _batches(take_bad_records(group, rows.sources)))


def _batches(group: Row) -> list[Row]:
    """The batches of a group, one after another."""
    return [dict(zip(group, batch, strict=True)) for batch in zip(*group.values(), strict=True)]
