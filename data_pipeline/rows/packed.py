"""The rows of a source: its documents, packed by a plan, laid out as a batch has them."""

import threading
from collections.abc import Iterator
from collections.abc import Sequence as Many
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.rows.fim import FillInTheMiddle
from data_pipeline.rows.keyed import key_from, uniform
from data_pipeline.rows.pack import BestFit, Plan, best_fit, whole
from data_pipeline.rows.plan import plan_key, planned, stored_plan
from data_pipeline.rows.provenance import Origin
from data_pipeline.settings import described
from data_pipeline.shards.record import Record, Sequence
from data_pipeline.shards.segment import AGAIN, Segment
from data_pipeline.shards.shards import BadRecord, Shards, unharmed
from data_pipeline.tokenizers.tokenizer import Tokenizer

Row = dict[str, np.ndarray]  # fields of a batch without its B; of several rows, stacked
READ = 256  # documents read at a time to be measured
MAX_BAD_FRAC, FEW = (
    1e-3,
    10,
)  # of a source's records may be bad, or so many where it is small: more is no accident of single bits
REPLAN = "a library encodes fill-in-the-middle otherwise now: install the one the plan was made with, or delete the folder's plans"


class Place(NamedTuple):
    """A row of a source: of segment `segment` the row `row` of the plan of epoch `epoch`."""

    segment: int
    epoch: int
    row: int


class Piece(NamedTuple):
    """Positions [start, start + n) of a sequence, laid from position `at` of a row on; the first `context`
    of them are no targets.
    """

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
        strategy: A component of `data_pipeline.rows.pack`.
        pairs_per_row: At most so many preference pairs a row, each whole; None = documents.
        fim: How documents are turned around, if they are.
        tokenizer: What `fim` needs.
        dropout: Share of the documents that are left out of an epoch, other ones in each.
        skip_bad_records: What would be pieces of a damaged document is padding instead of an error. No
        other row depends on it.
    """

    seq_len: int
    strategy: Any = BestFit()
    pairs_per_row: int | None = None
    fim: FillInTheMiddle | None = None
    tokenizer: Tokenizer | None = None
    dropout: float = 0.0
    skip_bad_records: bool = False

    @property
    def varies(self) -> bool:
        """Whether each epoch has a plan of its own; otherwise one plan serves all."""
        return self.fim is not None or self.dropout > 0

    def described(self) -> list[Any]:
        """The same as JSON, for the fingerprint: without what changes no plan."""
        # the tokenizer's path may change from machine to machine, its content may not
        fim = self.fim and [described(self.fim, without=("tokenizer",)), self.tokenizer.fingerprint]
        return [
            self.seq_len,
            described(self.strategy),
            self.pairs_per_row,
            fim,
            self.dropout,
        ]


class SegmentRows:
    """The rows of one immutable segment: a plan an epoch where documents change from epoch to epoch, else
    one for all.

    Plans are made when first asked for, and kept beside the shards.
    """

    def __init__(self, shards: Shards, segment: Segment, packing: Packing):
        self.shards, self.segment, self.packing = shards, segment, packing
        made_with = segment.manifest["lineage"].get("tokenizer")
        if packing.fim and made_with not in (None, packing.tokenizer.fingerprint):
            raise ValueError(
                f"fim.tokenizer={packing.fim.tokenizer} is not the one {segment.folder} was made with; name that one"
            )
        self.fingerprint = plan_key(segment.manifest["content_hash"], *packing.described())
        self._plans: dict[int, Plan] = {}
        self._lock = threading.Lock()

    def plan(self, epoch: int) -> Plan:
        """The plan of an epoch; its documents are counted from the segment's first."""
        epoch = epoch if self.packing.varies else 0
        with self._lock:  # one thread makes it, the others wait
            if epoch not in self._plans:
                self._plans[epoch] = stored_plan(
                    self.segment.folder, plan_key(self.fingerprint, epoch), self._blocks(epoch)
                )
            return self._plans[epoch]

    def _blocks(self, epoch: int) -> Iterator[Plan]:
        """A new plan, in blocks."""
        self.segment.check_index()  # a plan stays: it shall not come from wrong lengths
        yield from planned(
            len(self.segment.index), lambda documents: self._plan_some(self._lengths(documents, epoch))
        )

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

    def read(self, documents: np.ndarray, epoch: int) -> list[Record | BadRecord]:
        """Documents as they are in an epoch; in place of one that is damaged what is wrong with it."""
        found, fim = self.shards.read(documents + self.segment.first), self.packing.fim
        if fim:
            good = [i for i, record in enumerate(found) if isinstance(record, Record)]
            turned = fim.rewrite(
                [found[i] for i in good], self.ids(documents[good]), epoch, self.packing.tokenizer
            )
            for i, record in zip(good, turned, strict=True):
                found[i] = record
        return found

    def _plan_some(self, lengths: np.ndarray) -> Plan:
        seq_len, n_pairs = self.packing.seq_len, self.packing.pairs_per_row
        return (
            best_fit(whole(lengths, seq_len), seq_len, n_pairs)
            if n_pairs
            else self.packing.strategy.plan(lengths, seq_len)
        )

    def _lengths(self, documents: slice, epoch: int) -> np.ndarray:
        """Positions of documents in an epoch: the first token of a sequence is never a target."""
        lengths = (self.segment.index["lengths"][documents] - 1).clip(min=0).sum(1, dtype=np.int64)
        ids = self.ids(documents)
        kept = uniform(key_from("dropout", epoch), ids) >= self.packing.dropout
        if self.packing.fim:
            turned = np.flatnonzero(self.packing.fim.chosen(ids, epoch) & kept)
            for some in np.split(turned, range(READ, len(turned), READ)):
                lengths[some] = [
                    len(record.sequences[0].tokens) - 1
                    for record in unharmed(self.read(some + documents.start, epoch))
                ]
        return np.where(kept, lengths, 0)


class PackedRows:
    """The rows of a source: those of its segments behind one another, in the order of their plans for epoch
    0.

    `columns` are further fields by row, such as a reference model's log-probabilities.

    Raises:
        ValueError: no document fits a row.
    """

    def __init__(self, folder: str | Path, **packing: Any):
        self.packing = Packing(**packing)
        self.shards = Shards(folder, whole=not self.packing.skip_bad_records)
        self.segments = [SegmentRows(self.shards, segment, self.packing) for segment in self.shards.segments]
        self._ends = np.cumsum([len(rows.plan(0)) for rows in self.segments])
        if not len(self):
            raise ValueError(
                f"{folder} holds no document that fits seq_len={self.packing.seq_len}; raise seq_len or prepare more data"
            )
        self.fingerprint = plan_key([rows.fingerprint for rows in self.segments])
        self.columns: dict[str, np.ndarray] = {}
        self.bad_records: dict[
            int, str
        ] = {}  # record of the source → what is wrong with it, of those met so far

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
        """Many rows, of each the positions `positions`; only documents that reach into them are read, each
        file once.

        Raises:
            ValueError: a document is damaged, or with `skip_bad_records` too many are.
        """
        # the weight of a pair says whether both answers are there, wherever in the row they lie
        reach = (
            slice(0, self.packing.seq_len)
            if self.packing.pairs_per_row and self.packing.skip_bad_records
            else positions
        )
        pieces_of = {place: self._within(place, reach) for place in places}
        read: dict[tuple[int, int], dict[int, Record | BadRecord]] = {}
        for segment, epoch in {(place.segment, place.epoch) for place in places}:
            wanted = np.unique(
                [d for p, pieces in pieces_of.items() if p[:2] == (segment, epoch) for d, *_ in pieces]
            ).astype(np.int64)
            found = self.segments[segment].read(wanted, epoch)
            self._note(wanted + self.segments[segment].segment.first, found)
            read[segment, epoch] = dict(zip(wanted.tolist(), found, strict=True))
        return [
            self._row(place, pieces_of[place], read[place.segment, place.epoch], positions)
            for place in places
        ]

    def _note(self, numbers: np.ndarray, found: list[Record | BadRecord]) -> None:
        """Remember bad records; raise the first one unless they are to be left out, and when they are too
        many.
        """
        if not self.packing.skip_bad_records:
            unharmed(found)
        read = zip(numbers.tolist(), found, strict=True)
        self.note_bad({number: str(record) for number, record in read if isinstance(record, BadRecord)})

    def note_bad(self, bad: dict[int, str]) -> None:
        """Add to `bad_records` what was met here, or in another process that reads for this one.

        Raises:
            ValueError: they are more than `MAX_BAD_FRAC` of the source's records.
        """
        self.bad_records |= bad
        if len(self.bad_records) > max(FEW, MAX_BAD_FRAC * len(self.shards)):
            n, first = len(self.bad_records), next(iter(self.bad_records.values()))
            limit = f"more than {MAX_BAD_FRAC:.1%} of the records or {FEW}"
            raise ValueError(
                f"{self.shards.folder}: {n} of {len(self.shards)} records are damaged, {limit}; {AGAIN} (the first: {first})"
            )

    def origins(self, source: str, place: Place) -> list[Origin]:
        """Which documents make a row, in its order; of a damaged one what the index knows of its id."""
        rows = self.segments[place.segment]
        pieces = rows.plan(place.epoch).row(place.row)
        found = []
        for (document, start, n), record in zip(
            pieces.tolist(), rows.read(pieces[:, 0], place.epoch), strict=True
        ):
            indexed = rows.segment.index[document]
            name = record.id if isinstance(record, Record) else f"{indexed['id']:016x}"
            lengths = indexed["lengths"].tolist()
            spans = (
                [(start, start + n + 1)]
                if not self.packing.pairs_per_row
                else [(0, length) for length in lengths]
            )
            found += [Origin(source, name, i, *span, place.epoch) for i, span in enumerate(spans)]
        return found

    def _within(self, place: Place, positions: slice) -> list[tuple[int, int, int, int, int]]:
        """(document, first position, positions, where it is laid, number in the row) of the pieces that
        reach into `positions`.
        """
        pieces = self.segments[place.segment].plan(place.epoch).row(place.row)
        ends = np.cumsum(pieces[:, 2])
        at = ends - pieces[:, 2]
        inside = np.flatnonzero((at < positions.stop) & (ends > positions.start))
        return [(*pieces[i].tolist(), int(at[i]), i) for i in inside.tolist()]

    def _row(
        self,
        place: Place,
        pieces: list[tuple[int, int, int, int, int]],
        records: dict[int, Record | BadRecord],
        positions: slice,
    ) -> Row:
        good = [piece for piece in pieces if isinstance(records[piece[0]], Record)]
        row = lay([laid for piece in good for laid in self._laid(records[piece[0]], *piece[1:])], positions)
        if pairs := self.packing.pairs_per_row:
            n_pairs = np.diff(self.segments[place.segment].plan(0).offsets[place.row : place.row + 2])
            bad = {piece[-1] for piece in pieces} - {piece[-1] for piece in good}
            row["pair_weight_P"] = (
                (np.arange(pairs) < n_pairs) & ~np.isin(np.arange(pairs), list(bad))
            ).astype(np.float32)
        else:
            row["source_L"] = np.zeros_like(row["tokens_L"])
        return row | {
            name: column[self._first(place.segment) + place.row] for name, column in self.columns.items()
        }

    def _laid(self, record: Record, start: int, n: int, at: int, i: int) -> list[Piece]:
        """Piece i of a row: a part of a document, or a pair."""
        if self.packing.pairs_per_row:
            chosen, rejected = record.sequences
            middle = at + len(chosen.tokens) - 1
            after = Piece(rejected, 0, len(rejected.tokens) - 1, middle, 2 * i + 2, 0)
            return [Piece(chosen, 0, middle - at, at, 2 * i + 1, 0), after]
        if start + n >= len(record.sequences[0].tokens):
            raise ValueError(
                f"{self.shards.folder}: document {record.id} is shorter than its plan says; {REPLAN}"
            )
        return [
            Piece(record.sequences[0], start, n, at, i + 1, self.packing.strategy.overlap if start else 0)
        ]


def _reopened(folder: Path, packing: dict[str, Any], columns: dict[str, np.ndarray]) -> PackedRows:
    rows = PackedRows(folder, **packing)
    rows.columns = columns
    return rows


def lay(pieces: Many[Piece], positions: slice) -> Row:
    """Positions [start, stop) of a row of pieces; targets are the tokens one further on in the same
    sequence.
    """
    row = {
        name: np.zeros(positions.stop - positions.start, np.int32)
        for name in ("tokens_L", "targets_L", "positions_L", "segments_L")
    }
    row["weight_L"] = np.zeros(positions.stop - positions.start, np.float32)
    for sequence, start, n, at, segment, context in pieces:
        first, last = max(at, positions.start), min(at + n, positions.stop)  # of the row
        offset = start - at  # from a position of the row to one of the sequence
        if last <= first:
            continue
        here, there = (
            slice(first - positions.start, last - positions.start),
            slice(first + offset + 1, last + offset + 1),
        )
        row["tokens_L"][here] = sequence.tokens[first + offset : last + offset]
        row["targets_L"][here] = sequence.tokens[there]
        row["weight_L"][here] = sequence.weight[there] * (np.arange(first - at, last - at) >= context)
        row["positions_L"][here] = np.arange(first - at, last - at)
        row["segments_L"][here] = segment
    return row
