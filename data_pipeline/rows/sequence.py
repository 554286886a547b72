"""The sequence of training rows: sources, mixed and ordered, as a function of their contents, the schedule,
the seed and a number.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.rows.keyed import Permutation, key_from
from data_pipeline.rows.lay import Row
from data_pipeline.rows.mix import Mixture, Schedule
from data_pipeline.rows.packed import PackedRows, Place
from data_pipeline.rows.plan import plan_key
from data_pipeline.rows.provenance import Origin
from data_pipeline.rows.segment_rows import SegmentRows


class Stream(NamedTuple):
    """What has a cursor of its own: a segment of a source.

    Attributes:
        source: Its source.
        segment: Number of the segment.
        rows: Its rows, by epoch.
    """

    source: str
    segment: int
    rows: SegmentRows

    def __str__(self) -> str:
        return f"{self.source}, segment {self.segment}," if self.segment else self.source


class RowSequence:
    """Random access to the training rows of a mixture, endless unless all sources have a cap.

    Each epoch of each segment is in an order of its own, by a keyed permutation.

    Attributes:
        sources: Those of all stages; the number of a source in a batch is its place here.
        weights: Of the sources at first.
        seed: Of all orders.
        schedule: How the mixture goes on.
        streams: The segments of all sources, in order.
        mixture: Which stream gives which row.
        fingerprint: Of all that the rows depend on.

    Raises:
        ValueError: the schedule asks for what the sources have not.
    """

    def __init__(
        self,
        sources: Mapping[str, PackedRows],
        weights: Mapping[str, float],
        seed: int,
        schedule: Schedule | None = None,
    ):
        self.sources = dict(sources)
        self.weights = dict(weights)
        self.seed = seed
        self.schedule = schedule or Schedule()

        # The order of streams changes every draw, so it is fixed: the segments of a source together.
        self.streams: list[Stream] = []
        for name, source in self.sources.items():
            self.streams += [
                Stream(name, number, rows) for number, rows in enumerate(source.segments)
            ]
        caps = [self._cap(stream) for stream in self.streams]
        self.mixture = Mixture(self._stages(), caps, [str(stream) for stream in self.streams], seed)
        self.fingerprint = plan_key(self.past(None))

    def __reduce__(self) -> tuple[Any, ...]:
        return RowSequence, (self.sources, self.weights, self.seed, self.schedule)

    @property
    def n_rows(self) -> int | None:
        """How many rows there are; None = as many as are asked for."""
        return self.mixture.n_rows

    def _cap(self, stream: Stream) -> int | None:
        """How many rows of a stream are read at most; None = any number."""
        epochs = self.schedule.max_epochs.get(stream.source)
        return None if epochs is None else stream.rows.n_rows(epochs)

    def _stages(self) -> list[tuple[int, list[float]]]:
        """(first row, weight of each stream)."""
        schedule = self.schedule
        seq_len = next(iter(self.sources.values())).packing.seq_len
        stages = [(0, self._stream_weights(self.weights, schedule.size_power, schedule.segments))]
        for stage in schedule.stages:
            # A stage begins at the beginning of a row.
            first = math.ceil(stage.from_tokens / seq_len)
            if first <= stages[-1][0]:
                raise ValueError(
                    f"data.schedule.stages: from_tokens={stage.from_tokens} is no row later than the stage "
                    "before; raise it"
                )
            stages.append(
                (first, self._stream_weights(stage.weights, stage.size_power, stage.segments))
            )
        return stages

    def _stream_weights(
        self, weights: Mapping[str, float], size_power: float, segments: Mapping[str, int]
    ) -> list[float]:
        """The weight of each stream. A source's share is divided among its segments by their rows, so that
        all of them end an epoch together.

        Args:
            weights: Source → weight; 0 for one that is not named.
            size_power: See `Schedule`.
            segments: Source → how many of its segments take part; all where it is not named.
        """
        stream_weights: list[float] = []
        for name, source in self.sources.items():
            n_taken = segments.get(name, len(source.segments))
            n_missing = n_taken - len(source.segments)
            if n_missing > 0:
                raise ValueError(
                    f"data.schedule: segments.{name}={n_taken}, but {source.shards.folder} has "
                    f"{len(source.segments)}; append them or lower it"
                )

            # segments are appended, so the first n are those that were there before
            taken = source.segments[:n_taken]
            n_tokens = sum(rows.segment.manifest["tokens"] for rows in taken)
            # 0.0 ** 0.0 is 1: an empty source with size_power 0 keeps its weight.
            share = weights.get(name, 0.0) * float(n_tokens) ** size_power
            n_rows = [rows.n_rows(1) for rows in taken]
            n_all = max(sum(n_rows), 1)  # dropout may leave a small source without a row
            stream_weights += [share * n / n_all for n in n_rows]
            stream_weights += [0.0] * -n_missing  # segments that take no part yet
        return stream_weights

    def past(self, n_rows: int | None) -> dict[str, Any]:
        """As JSON, all that the first `n_rows` rows depend on (None = all rows); equal pasts have equal
        rows.
        """
        legs = []
        for leg in self.mixture.legs:
            # max(…, 1): the first leg counts even when no row was read.
            if n_rows is None or leg.first < max(n_rows, 1):
                legs.append({"first": leg.first, "streams": self._described(leg.counts)})
        return {"seed": self.seed, "legs": legs}

    def _described(self, counts: np.ndarray) -> list[list[Any]]:
        """[number of the source, SOURCE/SEGMENT, fingerprint, rows in a block] of the streams of a leg."""
        names = list(self.sources)
        described = []
        for (source, segment, rows), n in zip(self.streams, counts.tolist(), strict=True):
            if n:
                described.append([names.index(source), f"{source}/{segment}", rows.fingerprint, n])
        return described

    def progress(self, n_rows: int) -> dict[str, dict[str, float]]:
        """Of each source, how many tokens and epochs the first `n_rows` rows hold; a row counts as full."""
        progress = {name: {"tokens": 0.0, "epochs": 0.0} for name in self.sources}
        for stream, n in zip(self.streams, self.mixture.cursors(n_rows).tolist(), strict=True):
            epoch, rest = stream.rows.epoch_of(n)
            # a stream without rows (all dropped out) has no part of an epoch
            epochs = epoch + rest / max(len(stream.rows.plan(epoch)), 1)
            of_source = progress[stream.source]
            of_source["tokens"] += float(n * stream.rows.packing.seq_len)
            # segments of a source end their epochs together; where one has come in later, the first speaks
            # for it
            of_source["epochs"] = max(of_source["epochs"], epochs)
        return progress

    def place(self, index: int) -> tuple[str, Place]:
        """(source, where the row is in it) of row `index`."""
        return self.places([index])[0]

    def places(self, indices: Sequence[int]) -> list[tuple[str, Place]]:
        """The same of many rows."""
        wanted = []  # (stream, epoch, position in the epoch's order)
        positions: dict[tuple[int, int], list[int]] = {}
        for stream, before in self.mixture.places(indices):
            epoch, position = self.streams[stream].rows.epoch_of(before)
            wanted.append((stream, epoch, position))
            positions.setdefault((stream, epoch), []).append(position)

        # One call for all positions of a permutation, which works on arrays.
        rows: dict[tuple[int, int, int], int] = {}
        for (stream, epoch), numbers in positions.items():
            # The order maps positions to rows of the plan.
            planned = self._order(stream, epoch)(np.array(numbers)).tolist()
            rows |= {
                (stream, epoch, position): row
                for position, row in zip(numbers, planned, strict=True)
            }
        places = []
        for stream, epoch, position in wanted:
            source, segment, _ = self.streams[stream]
            places.append((source, Place(segment, epoch, rows[stream, epoch, position])))
        return places

    def _order(self, stream: int, epoch: int) -> Permutation:
        """The order in which an epoch of a stream is read."""
        # By source and segment, and not by the stream's number, which an added source would change.
        source, segment, rows = self.streams[stream]
        return Permutation(
            len(rows.plan(epoch)), key_from("order", self.seed, source, segment, epoch)
        )

    def __getitem__(self, index: int) -> Row:
        return self.read([index])[0]

    def read(self, indices: Sequence[int], positions: slice | None = None) -> list[Row]:
        """Many rows, of each the positions `positions` (None = all); every file is asked once."""
        places = self.places(indices)
        rows: list[Any] = [None] * len(places)
        for number, (name, source) in enumerate(self.sources.items()):
            of_source = [i for i, (row_source, _) in enumerate(places) if row_source == name]
            whole_row = slice(0, source.packing.seq_len)
            read = source.read([places[i][1] for i in of_source], positions or whole_row)
            for i, row in zip(of_source, read, strict=True):
                if "source_L" in row:
                    # The source's place among all, which `source_BL` of a batch counts.
                    row["source_L"][:] = number
                rows[i] = row
        return rows

    def origins(self, index: int) -> list[Origin]:
        """Which documents make row `index`, in its order."""
        name, place = self.place(index)
        return self.sources[name].origins(name, place)

    def rows_of(self, source: str, document: str, stop: int) -> list[int]:
        """The rows before row `stop` that hold something of a document, in order.

        Args:
            source: Its source.
            document: Its id.
            stop: For example the rows that training has consumed.
        """
        rows: set[int] = set()

        # Rows of a stream from its cursor on are after `stop`.
        cursors = self.mixture.cursors(stop).tolist()
        for record in self.sources[source].shards.find(document):
            for number, stream in enumerate(self.streams):
                in_segment = record - stream.rows.segment.first
                if stream.source == source and 0 <= in_segment < len(stream.rows.segment.index):
                    rows.update(self._rows_of(number, in_segment, cursors[number]))
        return sorted(rows)

    def _rows_of(self, number: int, document: int, cursor: int) -> list[int]:
        """The rows of a document among the first `cursor` rows of its stream."""
        segment_rows = self.streams[number].rows
        rows: list[int] = []
        epoch = 0
        while (n_before := segment_rows.n_rows(epoch)) < cursor:
            plan = segment_rows.plan(epoch)
            # A document may be cut into pieces, which are in different rows.
            pieces = np.flatnonzero(plan.pieces[:, 0] == document)
            planned = np.unique(np.searchsorted(plan.offsets, pieces, side="right") - 1)
            # The inverse order: from a row of the plan to when it is read.
            befores = n_before + self._order(number, epoch).inverse(planned)
            rows += [
                self.mixture.row_of(number, before)
                for before in befores.tolist()
                if before < cursor
            ]
            epoch += 1
        return rows
