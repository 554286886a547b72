"""The rows of a source: its documents, packed by a plan, laid out as a batch has them."""

import os
import threading
from collections.abc import Sequence as Many
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.pack import BestFit, Plan, best_fit, whole
from data_pipeline.shards import Segment, Shards
from data_pipeline.streaming.fim import FillInTheMiddle
from data_pipeline.streaming.keyed import key_from, uniform
from data_pipeline.streaming.plan import plan_key, planned, stored_plan
from data_pipeline.streaming.provenance import Origin
from data_pipeline.streaming.record import Record, Sequence
from data_pipeline.tokenizer import Tokenizer

Row = dict[str, np.ndarray]  # fields of a batch without its B; of several rows, stacked
READ = 256  # documents read at a time to be measured
REPLAN = "a library encodes fill-in-the-middle otherwise now: install the one the plan was made with, or delete the folder's plans"


class Place(NamedTuple):
    """A row of a source: of segment `segment` the row `row` of the plan of epoch `epoch`."""

    segment: int
    epoch: int
    row: int


class Piece(NamedTuple):
    """Positions [start, start + n) of a sequence, laid from position `at` of a row on; the first `context` of them are no targets."""

    sequence: Sequence
    start: int
    n: int
    at: int
    segment: int
    context: int


class Packing(NamedTuple):
    """What the rows of a source depend on besides its documents.

    Attributes:
        seq_len: Positions a row.
        strategy: A component of `data_pipeline.pack`.
        pairs_per_row: At most so many preference pairs a row, each whole; None = documents.
        fim: How documents are turned around, if they are.
        tokenizer: What `fim` needs.
        dropout: Share of the documents that are left out of an epoch, other ones in each.
    """

    seq_len: int
    strategy: Any = BestFit()
    pairs_per_row: int | None = None
    fim: FillInTheMiddle | None = None
    tokenizer: Tokenizer | None = None
    dropout: float = 0.0

    @property
    def varies(self) -> bool:
        """Whether each epoch has a plan of its own; otherwise one plan serves all."""
        return self.fim is not None or self.dropout > 0

    def described(self) -> list[Any]:
        """The same as JSON."""
        fim = self.fim and [self.fim.rate, self.fim.spm_rate, self.tokenizer.fingerprint]
        return [self.seq_len, type(self.strategy).__name__, self.strategy.model_dump(mode="json"), self.pairs_per_row, fim, self.dropout]


class SegmentRows:
    """The rows of one immutable segment: a plan an epoch where documents change from epoch to epoch, else one for all.

    Plans are made when first asked for, and kept beside the shards.
    """

    def __init__(self, shards: Shards, segment: Segment, packing: Packing):
        self.shards, self.segment, self.packing = shards, segment, packing
        made_with = segment.manifest["lineage"].get("tokenizer")
        if packing.fim and made_with not in (None, packing.tokenizer.fingerprint):
            raise ValueError(f"fim.tokenizer={packing.fim.tokenizer} is not the one {segment.folder} was made with; name that one")
        self.fingerprint = plan_key(segment.manifest["content_hash"], *packing.described())
        self._plans: dict[int, Plan] = {}
        self._lock = threading.Lock()

    def plan(self, epoch: int) -> Plan:
        """The plan of an epoch; its documents are counted from the segment's first."""
        epoch = epoch if self.packing.varies else 0
        with self._lock:  # one thread makes it, the others wait
            if epoch not in self._plans:
                key = plan_key(self.fingerprint, epoch)
                blocks = planned(len(self.segment.index), lambda documents: self._plan_some(self._lengths(documents, epoch)))
                self._plans[epoch] = stored_plan(self.segment.folder, key, blocks)
            return self._plans[epoch]

    def n_rows(self, epochs: int | float) -> int:
        """Rows of the first `epochs` epochs together; of a broken one, the share rounded down."""
        if not self.packing.varies:
            return int(epochs * len(self.plan(0)))
        n_whole = int(epochs)
        rest = (epochs - n_whole) * len(self.plan(n_whole)) if epochs > n_whole else 0
        return sum(len(self.plan(epoch)) for epoch in range(n_whole)) + int(rest)

    def epoch_of(self, before: int) -> tuple[int, int]:
        """(epoch, position in it) of the row that has so many rows of this segment before it."""
        if not self.packing.varies:
            return divmod(before, len(self.plan(0)))
        epoch = 0
        while before >= (n := len(self.plan(epoch))):
            before, epoch = before - n, epoch + 1
        return epoch, before

    def ids(self, documents: Any = slice(None)) -> np.ndarray:
        """`id_key` of documents; uint64 [n]."""
        return np.ascontiguousarray(self.segment.index["id"][documents])

    def records(self, documents: np.ndarray, epoch: int) -> list[Record]:
        """Documents as they are in an epoch."""
        found, fim = self.shards.__getitems__(documents + self.segment.first), self.packing.fim
        return fim.rewrite(found, self.ids(documents), epoch, self.packing.tokenizer) if fim else found

    def _plan_some(self, lengths: np.ndarray) -> Plan:
        seq_len, n_pairs = self.packing.seq_len, self.packing.pairs_per_row
        return best_fit(whole(lengths, seq_len), seq_len, n_pairs) if n_pairs else self.packing.strategy.plan(lengths, seq_len)

    def _lengths(self, documents: slice, epoch: int) -> np.ndarray:
        """Positions of documents in an epoch: the first token of a sequence is never a target."""
        lengths = (self.segment.index["lengths"][documents] - 1).clip(min=0).sum(1, dtype=np.int64)
        ids = self.ids(documents)
        kept = uniform(key_from("dropout", epoch), ids) >= self.packing.dropout
        if self.packing.fim:
            turned = np.flatnonzero(self.packing.fim.chosen(ids, epoch) & kept)
            for some in np.split(turned, range(READ, len(turned), READ)):
                lengths[some] = [len(record.sequences[0].tokens) - 1 for record in self.records(some + documents.start, epoch)]
        return np.where(kept, lengths, 0)


class PackedRows:
    """The rows of a source: those of its segments behind one another, in the order of their plans for epoch 0.

    `columns` are further fields by row, such as a reference model's log-probabilities.

    Raises:
        ValueError: no document fits a row.
    """

    def __init__(self, folder: str | os.PathLike, **packing: Any):
        self.shards, self.packing = Shards(folder), Packing(**packing)
        self.segments = [SegmentRows(self.shards, segment, self.packing) for segment in self.shards.segments]
        self._ends = np.cumsum([len(rows.plan(0)) for rows in self.segments])
        if not len(self):
            raise ValueError(f"{folder} holds no document that fits seq_len={self.packing.seq_len}; raise seq_len or prepare more data")
        self.fingerprint = plan_key([rows.fingerprint for rows in self.segments])
        self.columns: dict[str, np.ndarray] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.shards.folder, self.packing._asdict(), self.columns)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Row:
        (row,) = self.read([self.place(index)], slice(0, self.packing.seq_len))
        return row

    def place(self, index: int) -> Place:
        """Where the row with a number among all rows of epoch 0 is."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {self.shards.folder}, which has {len(self)}")
        segment = int(np.searchsorted(self._ends, index, side="right"))
        return Place(segment, 0, index - self._first(segment))

    def _first(self, segment: int) -> int:
        return int(self._ends[segment - 1]) if segment else 0

    def read(self, places: Many[Place], positions: slice) -> list[Row]:
        """Many rows, of each the positions `positions`; only documents that reach into them are read, each file once."""
        pieces_of = {place: self._within(place, positions) for place in places}
        read: dict[tuple[int, int], dict[int, Record]] = {}
        for segment, epoch in {(place.segment, place.epoch) for place in places}:
            wanted = np.unique([d for p, pieces in pieces_of.items() if p[:2] == (segment, epoch) for d, *_ in pieces]).astype(np.int64)
            read[segment, epoch] = dict(zip(wanted.tolist(), self.segments[segment].records(wanted, epoch), strict=True))
        return [self._row(place, pieces_of[place], read[place.segment, place.epoch], positions) for place in places]

    def origins(self, source: str, place: Place) -> list[Origin]:
        """Which documents make a row, in its order."""
        rows = self.segments[place.segment]
        pieces = rows.plan(place.epoch).row(place.row)
        found = []
        for (_, start, n), record in zip(pieces.tolist(), rows.records(pieces[:, 0], place.epoch), strict=True):
            spans = [(start, start + n + 1)] if not self.packing.pairs_per_row else [(0, len(s.tokens)) for s in record.sequences]
            found += [Origin(source, record.id, i, *span, place.epoch) for i, span in enumerate(spans)]
        return found

    def _within(self, place: Place, positions: slice) -> list[tuple[int, int, int, int, int]]:
        """(document, first position, positions, where it is laid, number in the row) of the pieces that reach into `positions`."""
        pieces = self.segments[place.segment].plan(place.epoch).row(place.row)
        ends = np.cumsum(pieces[:, 2])
        at = ends - pieces[:, 2]
        inside = np.flatnonzero((at < positions.stop) & (ends > positions.start))
        return [(*pieces[i].tolist(), int(at[i]), i) for i in inside.tolist()]

    def _row(self, place: Place, pieces: list[tuple[int, int, int, int, int]], records: dict[int, Record], positions: slice) -> Row:
        pairs, overlap = self.packing.pairs_per_row, self.packing.strategy.overlap
        laid = []
        for document, start, n, at, i in pieces:
            if pairs:
                chosen, rejected = records[document].sequences
                middle = at + len(chosen.tokens) - 1
                laid.append(Piece(chosen, 0, middle - at, at, 2 * i + 1, 0))
                laid.append(Piece(rejected, 0, len(rejected.tokens) - 1, middle, 2 * i + 2, 0))
            else:
                sequence = records[document].sequences[0]
                if start + n >= len(sequence.tokens):
                    raise ValueError(f"{self.shards.folder}: document {records[document].id} is shorter than its plan says; {REPLAN}")
                laid.append(Piece(sequence, start, n, at, i + 1, overlap if start else 0))
        row = lay(laid, positions)
        if pairs:
            n_pairs = np.diff(self.segments[place.segment].plan(0).offsets[place.row : place.row + 2])
            row["pair_weight_P"] = (np.arange(pairs) < n_pairs).astype(np.float32)
        else:
            row["source_L"] = np.zeros_like(row["tokens_L"])
        return row | {name: column[self._first(place.segment) + place.row] for name, column in self.columns.items()}


def _reopened(folder: Path, packing: dict[str, Any], columns: dict[str, np.ndarray]) -> PackedRows:
    rows = PackedRows(folder, **packing)
    rows.columns = columns
    return rows


def lay(pieces: Many[Piece], positions: slice) -> Row:
    """Positions [start, stop) of a row of pieces; targets are the tokens one further on in the same sequence."""
    row = {name: np.zeros(positions.stop - positions.start, np.int32) for name in ("tokens_L", "targets_L", "positions_L", "segments_L")}
    row["weight_L"] = np.zeros(positions.stop - positions.start, np.float32)
    for sequence, start, n, at, segment, context in pieces:
        first, last = max(at, positions.start), min(at + n, positions.stop)  # of the row
        offset = start - at  # from a position of the row to one of the sequence
        if last <= first:
            continue
        here, there = slice(first - positions.start, last - positions.start), slice(first + offset + 1, last + offset + 1)
        row["tokens_L"][here] = sequence.tokens[first + offset : last + offset]
        row["targets_L"][here] = sequence.tokens[there]
        row["weight_L"][here] = sequence.weight[there] * (np.arange(first - at, last - at) >= context)
        row["positions_L"][here] = np.arange(first - at, last - at)
        row["segments_L"][here] = segment
    return row
