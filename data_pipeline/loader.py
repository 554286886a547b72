"""From shards to rows of a batch: random access by position, so that position is all there is to save."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import grain
import numpy as np
from pydantic import BaseModel, PositiveFloat, PositiveInt

from data_pipeline.batch import PreferenceBatch, TokenBatch
from data_pipeline.component import FrozenMap
from data_pipeline.mix import Mixture
from data_pipeline.pack import best_fit, cut
from data_pipeline.shards import Sequence, Shards

Row = dict[str, np.ndarray]  # fields of a batch without its B


class Origin(NamedTuple):
    """Where a part of a row comes from: token positions [start, stop) of a document of a source."""

    source: str
    document: str
    start: int
    stop: int


class PackedRows:
    """The rows of one shard folder, in plan order."""

    def __init__(self, folder: Path, *, seq_len: int, pairs_per_row: int | None = None):
        self.shards, self.seq_len, self.pairs_per_row = Shards(folder), seq_len, pairs_per_row
        lengths = (self.shards.lengths - 1).clip(min=0)  # the first token of a document is never a target
        if pairs_per_row:
            self.plan = best_fit(_whole(lengths.sum(1), seq_len), seq_len, pairs_per_row)
        else:
            self.plan = best_fit(cut(lengths[:, 0], seq_len), seq_len, seq_len)
        if not len(self.plan):
            raise ValueError(f"{folder} holds no document that fits seq_len={seq_len}; raise seq_len or prepare more data")
        rule = json.dumps([self.shards.manifest["content_hash"], seq_len, pairs_per_row])
        self.fingerprint = hashlib.sha256(rule.encode()).hexdigest()[:16]
        self.columns: dict[str, np.ndarray] = {}  # further fields by row, such as a reference model's log-probabilities

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Row:
        pieces = self.plan.row(index)
        records = self.shards.__getitems__([int(document) for document in pieces[:, 0]])
        if self.pairs_per_row:
            row = _lay([(s, 0, len(s.tokens) - 1) for record in records for s in record.sequences], self.seq_len)
            del row["source_L"]
            row["pair_weight_P"] = (np.arange(self.pairs_per_row) < len(records)).astype(np.float32)
        else:
            row = _lay([(r.sequences[0], start, n) for r, (_, start, n) in zip(records, pieces.tolist(), strict=True)], self.seq_len)
        return row | {name: column[index] for name, column in self.columns.items()}

    def origins(self, source: str, index: int) -> list[Origin]:
        """Which documents make a row, in its order."""
        pieces = self.plan.row(index).tolist()
        return [Origin(source, self.shards[document].id, start, start + n + 1) for document, start, n in pieces]


def _whole(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """One piece a document; those that do not fit whole are left out."""
    fits = np.flatnonzero(lengths <= capacity)
    return np.stack([fits, np.zeros_like(fits), lengths[fits]], 1).astype(np.int64)


def _lay(parts: list[tuple[Sequence, int, int]], seq_len: int) -> Row:
    """Put (sequence, first position, number of positions) behind one another; targets are the tokens one further on."""
    row = {name: np.zeros(seq_len, np.int32) for name in ("tokens_L", "targets_L", "positions_L", "segments_L", "source_L")}
    row["weight_L"] = np.zeros(seq_len, np.float32)
    at = 0
    for segment, (sequence, start, n) in enumerate(parts, 1):
        here, there = slice(at, at + n), slice(start + 1, start + n + 1)
        row["tokens_L"][here] = sequence.tokens[start : start + n]
        row["targets_L"][here] = sequence.tokens[there]
        row["weight_L"][here] = sequence.weight[there]
        row["positions_L"][here] = np.arange(n)
        row["segments_L"][here] = segment
        at += n
    return row


class RowSequence:
    """The endless sequence of training rows of a mixture: row i is a function of (contents, weights, seed, i).

    Every source is reordered anew in each of its epochs by Grain's keyed permutation.
    """

    def __init__(self, sources: Mapping[str, PackedRows], weights: Mapping[str, float], seed: int):
        self.sources, self.mixture = dict(sources), Mixture(weights, seed)
        self._orders = [grain.MapDataset.range(len(rows)).seed(seed).shuffle().repeat() for rows in self.sources.values()]
        rule = json.dumps([{name: rows.fingerprint for name, rows in self.sources.items()}, self.mixture.counts.tolist(), seed])
        self.fingerprint = hashlib.sha256(rule.encode()).hexdigest()[:16]

    def place(self, index: int) -> tuple[int, int]:
        """(source index, row of its plan)."""
        source, before = self.mixture[index]
        return source, int(self._orders[source][before])

    def __getitem__(self, index: int) -> Row:
        source, row_index = self.place(index)
        row = list(self.sources.values())[source][row_index]
        if "source_L" in row:
            row["source_L"] = np.full_like(row["source_L"], source)
        return row

    def origins(self, index: int) -> list[Origin]:
        """Which documents make row i, past or future."""
        source, row_index = self.place(index)
        name = list(self.sources)[source]
        return self.sources[name].origins(name, row_index)


class _HostRows:
    """The part of the sequence that one host reads: of every batch of `batch_size` rows those at `offsets`."""

    def __init__(self, rows: RowSequence, first: int, batch_size: int, offsets: tuple[int, ...]):
        self.rows, self.first, self.batch_size, self.offsets = rows, first, batch_size, offsets

    def __len__(self) -> int:
        return 2**31 - 1

    def __getitem__(self, index: int) -> Row:
        batch, i = divmod(index, len(self.offsets))
        return self.rows[self.first + batch * self.batch_size + self.offsets[i]]


def stream(rows: RowSequence, first: int, batch_size: int, offsets: tuple[int, ...]) -> Iterator[Row]:
    """This host's rows of one global batch after another from row `first` on, stacked [len(offsets), …]; read ahead in threads."""
    source: Any = _HostRows(rows, first, batch_size, offsets)
    reading = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)  # counted in batches
    return iter(grain.MapDataset.source(source).batch(len(offsets)).to_iter_dataset(reading))


class PackedShards(BaseModel, frozen=True, extra="forbid", strict=True):
    """Rows of `seq_len` positions packed from the shard folders `folder/<source>`, mixed by weight (of rows)."""

    folder: str  # relative to the run folder
    weights: FrozenMap[str, PositiveFloat]
    seq_len: PositiveInt
    batch_size: PositiveInt  # rows of a global batch

    batch_type: ClassVar[type] = TokenBatch

    def sources(self, root: Path) -> dict[str, PackedRows]:
        """The rows of each source by name, in plan order."""
        return {name: PackedRows(root / self.folder / name, seq_len=self.seq_len) for name in self.weights}

    def fields(self) -> dict[str, tuple[int, ...]]:
        """Shape of every batch field."""
        return dict.fromkeys(TokenBatch._fields, (self.batch_size, self.seq_len))


class PackedPairs(BaseModel, frozen=True, extra="forbid", strict=True):
    """Preference pairs packed into rows of `seq_len` positions, at most `pairs_per_row` each; longer pairs are left out."""

    folder: str
    weights: FrozenMap[str, PositiveFloat]
    seq_len: PositiveInt
    batch_size: PositiveInt
    pairs_per_row: PositiveInt

    batch_type: ClassVar[type] = PreferenceBatch

    def sources(self, root: Path) -> dict[str, PackedRows]:
        """The rows of each source by name, in plan order."""
        sizes = {"seq_len": self.seq_len, "pairs_per_row": self.pairs_per_row}
        return {name: PackedRows(root / self.folder / name, **sizes) for name in self.weights}

    def fields(self) -> dict[str, tuple[int, ...]]:
        """Shape of every batch field."""
        sizes = {"L": self.seq_len, "P": self.pairs_per_row}
        return {name: (self.batch_size, sizes[name[-1]]) for name in PreferenceBatch._fields}
