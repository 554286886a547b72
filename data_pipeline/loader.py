"""From shards to batches: the data components, and the stream of rows that a host reads ahead."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import grain
import numpy as np
from absl import flags
from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, model_validator

from data_pipeline.batch import PreferenceBatch, TokenBatch
from data_pipeline.component import FrozenMap, one_of
from data_pipeline.mix import Schedule
from data_pipeline.pack import BestFit
from data_pipeline.streaming.fim import FillInTheMiddle
from data_pipeline.streaming.rows import PackedRows, Row
from data_pipeline.streaming.sequence import RowSequence
from data_pipeline.tokenizer import Tokenizer

AHEAD = 4  # batches


class _HostBatches:
    """The part of the sequence that one host reads: of every batch of `batch_size` rows those at `offsets`, of them `positions`."""

    def __init__(self, rows: RowSequence, first: int, batch_size: int, offsets: tuple[int, ...], positions: slice | None):
        self.rows, self.first, self.batch_size, self.offsets, self.positions = rows, first, batch_size, offsets, positions

    def __len__(self) -> int:
        return 2**31 - 1 if self.rows.n_rows is None else max(self.rows.n_rows - self.first, 0) // self.batch_size

    def __getitem__(self, index: int) -> Row:
        first = self.first + index * self.batch_size
        rows = self.rows.read([first + offset for offset in self.offsets], self.positions)
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def stream(
    rows: RowSequence, first: int, batch_size: int, offsets: tuple[int, ...], *, positions: slice | None = None, processes: int = 0
) -> Iterator[Row]:
    """This host's rows of one global batch after another from row `first` on, stacked [len(offsets), …]; ends where the rows do.

    Read ahead in threads, or in as many processes as `processes` says: Python's share of the work is little, unless documents are
    turned around (fill-in-the-middle).
    """
    source: Any = _HostBatches(rows, first, batch_size, offsets, positions)
    if not len(source):
        return iter(())
    batches = grain.MapDataset.source(source)
    if processes:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's processes read its flags, which only an absl program parses
        reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        workers = grain.MultiprocessingOptions(num_workers=processes, per_worker_buffer_size=AHEAD)
        return iter(batches.to_iter_dataset(reading).mp_prefetch(workers))
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=AHEAD)))


Frac = Annotated[float, Field(gt=0, lt=1)]


class PackedShards(BaseModel, frozen=True, extra="forbid", strict=True):
    """Rows of `seq_len` positions packed from the shard folders `folder/<source>`, mixed by weight (of rows).

    Attributes:
        folder: Relative to the run folder.
        weights: Of the sources that rows are drawn from at first.
        seq_len: Positions a row.
        batch_size: Rows of a global batch.
        packing: How documents become rows.
        schedule: How the mixture goes on: shares by size, stages, caps.
        fim: Source → how its documents are turned around for fill-in-the-middle. Every epoch has a plan of its own, for which the documents
            turned around are encoded once; it is made when the first row of the epoch is read.
        dropout: Source → share of its documents left out of each epoch, other ones in each; a plan an epoch too.
        processes: That read ahead on each host; 0 = threads.
    """

    folder: str
    weights: FrozenMap[str, PositiveFloat]
    seq_len: PositiveInt
    batch_size: PositiveInt
    packing: one_of("data_pipeline.pack") = BestFit()
    schedule: Schedule = Schedule()
    fim: FrozenMap[str, FillInTheMiddle] = FrozenMap()
    dropout: FrozenMap[str, Frac] = FrozenMap()
    processes: int = Field(default=0, ge=0)

    batch_type: ClassVar[type] = TokenBatch

    @model_validator(mode="after")
    def _rules(self) -> "PackedShards":
        if self.packing.overlap >= self.seq_len:
            raise ValueError(f"packing.overlap={self.packing.overlap} must be less than seq_len={self.seq_len}; lower it")
        _check_names(self)
        return self

    def sources(self, root: Path) -> dict[str, PackedRows]:
        """The rows of each source by name, in plan order."""
        return {name: PackedRows(root / self.folder / name, **self._packing(root, name)) for name in source_names(self)}

    def _packing(self, root: Path, name: str) -> dict[str, Any]:
        fim = self.fim.get(name)
        tokenizer = Tokenizer(root / fim.tokenizer) if fim else None
        settings = {"seq_len": self.seq_len, "strategy": self.packing, "dropout": self.dropout.get(name, 0.0)}
        return {**settings, "fim": fim, "tokenizer": tokenizer}

    def fields(self) -> dict[str, tuple[int, ...]]:
        """Shape of every batch field."""
        return dict.fromkeys(TokenBatch._fields, (self.batch_size, self.seq_len))


class PackedPairs(BaseModel, frozen=True, extra="forbid", strict=True):
    """Preference pairs packed into rows of `seq_len` positions, at most `pairs_per_row` each; longer pairs are left out.

    The other fields are those of `PackedShards`.
    """

    folder: str
    weights: FrozenMap[str, PositiveFloat]
    seq_len: PositiveInt
    batch_size: PositiveInt
    pairs_per_row: PositiveInt
    schedule: Schedule = Schedule()
    processes: int = Field(default=0, ge=0)

    batch_type: ClassVar[type] = PreferenceBatch

    @model_validator(mode="after")
    def _rules(self) -> "PackedPairs":
        _check_names(self)
        return self

    def sources(self, root: Path) -> dict[str, PackedRows]:
        """The rows of each source by name, in plan order."""
        sizes = {"seq_len": self.seq_len, "pairs_per_row": self.pairs_per_row}
        return {name: PackedRows(root / self.folder / name, **sizes) for name in source_names(self)}

    def fields(self) -> dict[str, tuple[int, ...]]:
        """Shape of every batch field."""
        sizes = {"L": self.seq_len, "P": self.pairs_per_row}
        return {name: (self.batch_size, sizes[name[-1]]) for name in PreferenceBatch._fields}


def source_names(data: PackedShards | PackedPairs) -> list[str]:
    """Every source that a stage names, in the order of their first stages: the numbers they have in batches."""
    return list(dict.fromkeys([*data.weights, *(name for stage in data.schedule.stages for name in stage.weights)]))


def _check_names(data: PackedShards | PackedPairs) -> None:
    """Refuse settings for sources that no stage draws from."""
    known, schedule = source_names(data), data.schedule
    named: dict[str, Mapping[str, Any]] = {"schedule.segments": schedule.segments, "schedule.max_epochs": schedule.max_epochs}
    named |= {f"schedule.stages.{i}.segments": stage.segments for i, stage in enumerate(schedule.stages)}
    named |= {field: getattr(data, field, {}) for field in ("fim", "dropout")}
    for field, names in named.items():
        for name in names:
            if name not in known:
                raise ValueError(f"{field}.{name} is no source of the mixture; choose of {', '.join(known)}")
