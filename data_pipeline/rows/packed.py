"""The rows of a source: its documents, packed by a plan, laid out as a batch has them."""

from collections.abc import Iterator
from collections.abc import Sequence as Many
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.rows.lay import Piece, Row, lay
from data_pipeline.rows.packing import Packing
from data_pipeline.rows.plan import plan_key
from data_pipeline.rows.provenance import Origin
from data_pipeline.rows.segment_rows import SegmentRows
from data_pipeline.shards.record import Record
from data_pipeline.shards.segment import AGAIN
from data_pipeline.shards.shards import BadRecord, Shards, unharmed

# More bad records than this share, or than FEW in a small source, are no accident of a few bits.
MAX_BAD_FRAC = 1e-3
FEW = 10
REPLAN = (
    "a library encodes fill-in-the-middle otherwise now: install the one the plan was made with, "
    "or delete the folder's plans"
)


class Place(NamedTuple):
    """A row of a source: of segment `segment` the row `row` of the plan of epoch `epoch`."""

    segment: int
    epoch: int
    row: int


class PlannedPiece(NamedTuple):
    """A piece of a row, as its plan has it.

    Attributes:
        document: Number in the segment.
        start: First position of the document.
        n: How many positions.
        at: First position of the row.
        number: Of the piece in the row, from 0.
    """

    document: int
    start: int
    n: int
    at: int
    number: int


class PackedRows:
    """The rows of a source: those of its segments behind one another, in the order of their plans for epoch
    0.

    Attributes:
        packing: How documents become rows.
        shards: The documents.
        segments: The rows of each segment.
        fingerprint: Of all that the rows depend on.
        columns: Further fields by row, such as a reference model's log-probabilities.
        bad_records: Record of the source → what is wrong with it, of those met so far.

    Raises:
        ValueError: no document fits a row.
    """

    def __init__(self, folder: str | Path, **packing: Any):
        self.packing = Packing(**packing)
        self.shards = Shards(folder, whole=not self.packing.skip_bad_records)

        # making or mapping the plans of epoch 0 happens here, so that a length is known
        self.segments = [
            SegmentRows(self.shards, segment, self.packing) for segment in self.shards.segments
        ]
        self._ends = np.cumsum([len(rows.plan(0)) for rows in self.segments])
        if not len(self):
            raise ValueError(
                f"{folder} holds no document that fits seq_len={self.packing.seq_len}; "
                "raise seq_len or prepare more data"
            )
        # Of content and packing, not of paths: a copied data set resumes a run.
        self.fingerprint = plan_key([rows.fingerprint for rows in self.segments])
        self.columns: dict[str, np.ndarray] = {}
        self.bad_records: dict[int, str] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # a process that reads ahead opens the files itself: plans are mapped there, not sent
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

        # the first segment whose end is beyond the row
        segment = int(np.searchsorted(self._ends, index, side="right"))
        return Place(segment, 0, index - self._first_row(segment))

    def _first_row(self, segment: int) -> int:
        return int(self._ends[segment - 1]) if segment else 0

    def read(self, places: Many[Place], positions: slice) -> list[Row]:
        """Many rows; only documents that reach into `positions` are read, each file once.

        Args:
            places: Which rows.
            positions: Of each row: those that this host's devices hold.

        Raises:
            ValueError: a document is damaged, or with `skip_bad_records` too many are.
        """
        reach = positions
        if self.packing.pairs_per_row and self.packing.skip_bad_records:
            # A pair counts only if both of its answers are there, which may be outside of `positions`.
            reach = slice(0, self.packing.seq_len)
        pieces = {place: self._pieces(place, reach) for place in places}
        records = self._records(pieces)
        rows = []
        for place in places:
            rows.append(
                self._row(place, pieces[place], records[place.segment, place.epoch], positions)
            )
        return rows

    def _records(
        self, pieces: dict[Place, list[PlannedPiece]]
    ) -> dict[tuple[int, int], dict[int, Record | BadRecord]]:
        """(segment, epoch) → document → record, of all documents that the pieces are of."""
        wanted: dict[tuple[int, int], list[int]] = {}
        for place, of_row in pieces.items():
            documents = wanted.setdefault((place.segment, place.epoch), [])
            documents += [piece.document for piece in of_row]

        # a file is opened once for all rows of a batch that need it
        records = {}
        for (segment, epoch), numbers in wanted.items():
            rows = self.segments[segment]
            # a document may have pieces in several rows
            documents = np.unique(numbers).astype(np.int64)
            read = rows.read(documents, epoch)
            self._note(documents + rows.segment.first, read)
            records[segment, epoch] = dict(zip(documents.tolist(), read, strict=True))
        return records

    def _note(self, numbers: np.ndarray, records: list[Record | BadRecord]) -> None:
        """Remember bad records; raise the first one unless they are to be left out, and when they are too
        many.
        """
        if not self.packing.skip_bad_records:
            unharmed(records)
        read = zip(numbers.tolist(), records, strict=True)
        self.note_bad(
            {number: str(record) for number, record in read if isinstance(record, BadRecord)}
        )

    def note_bad(self, bad: dict[int, str]) -> None:
        """Add to `bad_records` those that were met here, or in another process that reads for this one.

        Raises:
            ValueError: they are more than `MAX_BAD_FRAC` of the source's records.
        """
        self.bad_records |= bad
        if len(self.bad_records) > max(FEW, MAX_BAD_FRAC * len(self.shards)):
            # Only the first one is named; the others are usually alike.
            n, first = len(self.bad_records), next(iter(self.bad_records.values()))
            limit = f"more than {MAX_BAD_FRAC:.1%} of the records or {FEW}"
            raise ValueError(
                f"{self.shards.folder}: {n} of {len(self.shards)} records are damaged, {limit}; {AGAIN} "
                f"(the first: {first})"
            )

    def origins(self, source: str, place: Place) -> list[Origin]:
        """Which documents make a row, in its order; of a damaged one what the index knows of its id."""
        rows = self.segments[place.segment]
        pieces = rows.plan(place.epoch).row(place.row)
        records = rows.read(pieces[:, 0], place.epoch)
        origins = []
        for (document, start, n), record in zip(pieces.tolist(), records, strict=True):
            indexed = rows.segment.index[document]
            name = record.id if isinstance(record, Record) else f"{indexed['id']:016x}"
            # n positions of a document have n + 1 tokens; a pair is always complete in its row.
            spans = [(start, start + n + 1)]
            if self.packing.pairs_per_row:
                spans = [(0, n_tokens) for n_tokens in indexed["lengths"].tolist()]
            for number, (first, stop) in enumerate(spans):
                origins.append(Origin(source, name, number, first, stop, place.epoch))
        return origins

    def _pieces(self, place: Place, positions: slice) -> list[PlannedPiece]:
        """The pieces of a row that reach into `positions`."""
        planned = self.segments[place.segment].plan(place.epoch).row(place.row)
        # Pieces follow one another from position 0; a plan has only their lengths.
        ends = np.cumsum(planned[:, 2])
        at = ends - planned[:, 2]
        inside = np.flatnonzero((at < positions.stop) & (ends > positions.start))
        return [PlannedPiece(*planned[i].tolist(), int(at[i]), i) for i in inside.tolist()]

    def _row(
        self,
        place: Place,
        pieces: list[PlannedPiece],
        records: dict[int, Record | BadRecord],
        positions: slice,
    ) -> Row:
        """Lay out one row.

        Args:
            place: Which row.
            pieces: Of its plan, those that are needed.
            records: Document → record.
            positions: Of the row.
        """
        # The positions of a damaged document become padding, so that no other piece moves.
        laid: list[Piece] = []
        bad_pieces = []
        for piece in pieces:
            record = records[piece.document]
            if isinstance(record, Record):
                laid += self._laid(record, piece)
            else:
                bad_pieces.append(piece.number)
        row = lay(laid, positions)
        if self.packing.pairs_per_row:
            row["pair_weight_P"] = self._pair_weight(place, bad_pieces)
        else:
            row["source_L"] = np.zeros_like(row["tokens_L"])  # filled in by the mixture

        # Columns are by row of epoch 0, because only data with one plan for all epochs has them.
        number = self._first_row(place.segment) + place.row
        return row | {name: column[number] for name, column in self.columns.items()}

    def _pair_weight(self, place: Place, bad_pieces: list[int]) -> np.ndarray:
        """1 for each pair of a row that is there and whole, float32 [P]."""
        offsets = self.segments[place.segment].plan(0).offsets

        # Rows are filled from the front, so slots after the planned pairs are padding.
        n_pairs = offsets[place.row + 1] - offsets[place.row]
        pair_P = np.arange(self.packing.pairs_per_row)
        return ((pair_P < n_pairs) & ~np.isin(pair_P, bad_pieces)).astype(np.float32)

    def _laid(self, record: Record, piece: PlannedPiece) -> Iterator[Piece]:
        """What of a record is laid into the row: a part of a document, or both answers of a pair."""
        if self.packing.pairs_per_row:
            chosen, rejected = record.sequences
            # n tokens fill n - 1 positions: the first is no target, the last no input.
            n_chosen, n_rejected = len(chosen.tokens) - 1, len(rejected.tokens) - 1
            # chosen answers have odd numbers, the rejected even ones
            segment = 2 * piece.number + 1
            yield Piece(chosen, 0, n_chosen, piece.at, segment, 0)
            yield Piece(rejected, 0, n_rejected, piece.at + n_chosen, segment + 1, 0)
            return
        sequence = record.sequences[0]
        if piece.start + piece.n >= len(sequence.tokens):
            raise ValueError(
                f"{self.shards.folder}: document {record.id} is shorter than its plan says; {REPLAN}"
            )

        # a window that is not a document's first repeats what the window before it has as targets
        context = self.packing.strategy.overlap if piece.start else 0
        yield Piece(sequence, piece.start, piece.n, piece.at, piece.number + 1, context)


def _reopened(folder: Path, packing: dict[str, Any], columns: dict[str, np.ndarray]) -> PackedRows:
    rows = PackedRows(folder, **packing)
    rows.columns = columns
    return rows
