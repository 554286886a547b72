"""The stream of rows that a host reads ahead, through Grain."""

from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from data_pipeline.rows.bad_records import heard, told
from data_pipeline.rows.packed import Row
from data_pipeline.rows.position import rows_of, united
from data_pipeline.rows.sequence import RowSequence

AHEAD = 4  # batches
GROUP_POSITIONS = 1 << 15


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
        self.rows, self.first, self.batch_size, self.offsets, self.positions = (
            rows,
            first,
            batch_size,
            offsets,
            positions,
        )
        self.skipped = skipped
        seq_len = next(iter(rows.sources.values())).packing.seq_len
        self.group = min(max(GROUP_POSITIONS // (len(offsets) * seq_len), 1), AHEAD)  # batches

    def __len__(self) -> int:
        return min(-(-self._n_batches // self.group), 2**31 - 1)

    @property
    def _n_batches(self) -> int:
        if self.rows.n_rows is None:
            return 2**62
        windows = (
            (max(start, self.first), min(stop, self.rows.n_rows)) for start, stop in united(self.skipped)
        )
        ahead = sum(max(stop - start, 0) for start, stop in windows)
        return max(self.rows.n_rows - self.first - ahead, 0) // self.batch_size

    def __getitem__(self, index: int) -> Row:
        """A group, [batches of it, len(offsets), …]."""
        first = index * self.group
        n, size = min(self.group, self._n_batches - first), self.batch_size
        numbers = rows_of(self.first, n * size, self.skipped, offset=first * size)
        rows = self.rows.read(
            [numbers[i * size + offset] for i in range(n) for offset in self.offsets], self.positions
        )
        stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return {name: x.reshape(n, len(self.offsets), *x.shape[1:]) for name, x in stacked.items()} | told(
            self.rows.sources
        )


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
    little, unless documents are turned around (fill-in-the-middle).
    """
    source = _HostBatches(rows, first, batch_size, offsets, positions, skipped)
    if not len(source):
        return iter(())
    groups: Any = grain.MapDataset.source(source)
    if processes:
        if not flags.FLAGS.is_parsed():
            # Grain's processes read its flags, which only an absl program parses
            flags.FLAGS.mark_as_parsed()
        reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        workers = grain.MultiprocessingOptions(
            num_workers=processes, per_worker_buffer_size=AHEAD // source.group
        )
        ahead = groups.to_iter_dataset(reading).mp_prefetch(workers)
    else:
        ahead = groups.to_iter_dataset(
            grain.ReadOptions(num_threads=2, prefetch_buffer_size=AHEAD // source.group)
        )
    return (batch for group in ahead for batch in _batches(heard(group, rows.sources)))


def _batches(group: Row) -> list[Row]:
    return [dict(zip(group, batch, strict=True)) for batch in zip(*group.values(), strict=True)]
