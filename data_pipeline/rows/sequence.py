"""The sequence of training rows: sources, mixed and ordered, as a function of their contents, the schedule,
the seed and a number.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.rows.keyed import Permutation, key_from
from data_pipeline.rows.mix import Mixture, Schedule
from data_pipeline.rows.packed import PackedRows, Place, Row, SegmentRows
from data_pipeline.rows.plan import plan_key
from data_pipeline.rows.provenance import Origin


class Stream(NamedTuple):
    """What has a cursor of its own: a segment of a source."""

    source: str
    segment: int
    rows: SegmentRows


class RowSequence:
    """Random access to the training rows of a mixture, endless unless all sources have a cap.

    Each epoch of each segment is in an order of its own, by a keyed permutation. `sources` holds those of
    all stages; the index of a source in a batch is its place there.

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
        self.sources, self.weights, self.seed = dict(sources), dict(weights), seed
        self.schedule = schedule or Schedule()
        self._names = list(self.sources)
        self.streams = [
            Stream(name, i, rows)
            for name, source in self.sources.items()
            for i, rows in enumerate(source.segments)
        ]
        caps = [self._cap(stream) for stream in self.streams]
        names = [
            f"{stream.source}, segment {stream.segment}," if stream.segment else stream.source
            for stream in self.streams
        ]
        self.mixture = Mixture(self._stages(), caps, names, seed)
        self.fingerprint = plan_key(self.past(None))

    def __reduce__(self) -> tuple[Any, ...]:
        return RowSequence, (self.sources, self.weights, self.seed, self.schedule)

    @property
    def n_rows(self) -> int | None:
        """How many rows there are; None = as many as are asked for."""
        return self.mixture.n_rows

    def _cap(self, stream: Stream) -> int | None:
        epochs = self.schedule.max_epochs.get(stream.source)
        return None if epochs is None else stream.rows.n_rows(epochs)

    def _stages(self) -> list[tuple[int, list[float]]]:
        """(first row, weight of each stream)."""
        schedule, seq_len = self.schedule, next(iter(self.sources.values())).packing.seq_len
        stages = [(0, self._stream_weights(self.weights, schedule.size_power, schedule.segments))]
        for stage in schedule.stages:
            first = math.ceil(stage.from_tokens / seq_len)
            if first <= stages[-1][0]:
                raise ValueError(
                    f"data.schedule.stages: from_tokens={stage.from_tokens} is no row later than the stage before; raise it"
                )
            stages.append((first, self._stream_weights(stage.weights, stage.size_power, stage.segments)))
        return stages

    def _stream_weights(
        self, weights: Mapping[str, float], size_power: float, segments: Mapping[str, int]
    ) -> list[float]:
        """A source's share is divided among its segments by their rows, so that all of them end an epoch
        together.
        """
        found: dict[str, list[float]] = {}
        for name, rows in self.sources.items():
            n = segments.get(name, len(rows.segments))
            if n > len(rows.segments):
                there = f"{rows.shards.folder} has {len(rows.segments)}"
                raise ValueError(f"data.schedule: segments.{name}={n}, but {there}; append them or lower it")
            taking_part = rows.segments[:n]
            n_tokens = sum(part.segment.manifest["tokens"] for part in taking_part)
            share = weights.get(name, 0.0) * float(n_tokens) ** size_power
            n_rows = [part.n_rows(1) for part in taking_part]
            found[name] = [share * n / max(sum(n_rows), 1) for n in n_rows] + [0.0] * (len(rows.segments) - n)
        return [weight for source in found.values() for weight in source]

    def past(self, n_rows: int | None) -> dict[str, Any]:
        """As JSON, all that the first `n_rows` rows depend on (None = all rows); equal pasts have equal
        rows.
        """
        legs = [leg for leg in self.mixture.legs if n_rows is None or leg.first < max(n_rows, 1)]
        return {
            "seed": self.seed,
            "legs": [{"first": leg.first, "streams": self._described(leg.counts)} for leg in legs],
        }

    def _described(self, counts: np.ndarray) -> list[list[Any]]:
        streams = zip(self.streams, counts.tolist(), strict=True)
        return [
            [self._names.index(s.source), f"{s.source}/{s.segment}", s.rows.fingerprint, n]
            for s, n in streams
            if n
        ]

    def progress(self, n_rows: int) -> dict[str, dict[str, float]]:
        """Of each source, how many tokens and epochs the first `n_rows` rows hold; a row counts as full."""
        found = {name: {"tokens": 0.0, "epochs": 0.0} for name in self._names}
        for stream, n in zip(self.streams, self.mixture.cursors(n_rows).tolist(), strict=True):
            epoch, rest = stream.rows.epoch_of(n)
            mine = found[stream.source]
            mine["tokens"] += float(n * stream.rows.packing.seq_len)
            # segments of a source end their epochs together; where one has come in later, the first speaks
            # for it
            mine["epochs"] = max(mine["epochs"], epoch + rest / max(len(stream.rows.plan(epoch)), 1))
        return found

    def place(self, index: int) -> tuple[str, Place]:
        """The source of row `index`, and where the row is in it."""
        return self.places([index])[0]

    def places(self, indices: Sequence[int]) -> list[tuple[str, Place]]:
        """The same of many rows."""
        wanted = [
            (stream, *self.streams[stream].rows.epoch_of(before))
            for stream, before in self.mixture.places(indices)
        ]
        rows: dict[tuple[int, int], dict[int, int]] = {}
        for stream, epoch in {(stream, epoch) for stream, epoch, _ in wanted}:
            positions = [position for *of, position in wanted if of == [stream, epoch]]
            rows[stream, epoch] = dict(
                zip(positions, self._order(stream, epoch)(np.array(positions)).tolist(), strict=True)
            )
        streams = self.streams
        return [
            (streams[s].source, Place(streams[s].segment, epoch, rows[s, epoch][position]))
            for s, epoch, position in wanted
        ]

    def _order(self, stream: int, epoch: int) -> Permutation:
        source, segment, rows = self.streams[stream]
        return Permutation(len(rows.plan(epoch)), key_from("order", self.seed, source, segment, epoch))

    def __getitem__(self, index: int) -> Row:
        return self.read([index])[0]

    def read(self, indices: Sequence[int], positions: slice | None = None) -> list[Row]:
        """Many rows, of each the positions `positions`; every file is asked once."""
        places = self.places(indices)
        rows: list[Any] = [None] * len(places)
        for number, (name, source) in enumerate(self.sources.items()):
            mine = [i for i, (of, _) in enumerate(places) if of == name]
            whole = slice(0, source.packing.seq_len)
            for i, row in zip(
                mine, source.read([places[i][1] for i in mine], positions or whole), strict=True
            ):
                rows[i] = row
                if "source_L" in row:
                    row["source_L"][:] = number
        return rows

    def origins(self, index: int) -> list[Origin]:
        """Which documents make row `index`, in its order."""
        name, place = self.place(index)
        return self.sources[name].origins(name, place)

    def rows_of(self, source: str, document: str, stop: int) -> list[int]:
        """The rows before row `stop` that hold something of a document, in order."""
        found: set[int] = set()
        cursors = self.mixture.cursors(stop)
        for i in self.sources[source].shards.find(document):
            for number, stream in enumerate(self.streams):
                inside = 0 <= i - stream.rows.segment.first < len(stream.rows.segment.index)
                if stream.source == source and inside:
                    found.update(self._rows_of(number, i - stream.rows.segment.first, int(cursors[number])))
        return sorted(found)

    def _rows_of(self, number: int, document: int, cursor: int) -> list[int]:
        """The rows of a document among the first `cursor` rows of its stream."""
        rows, found, epoch = self.streams[number].rows, [], 0
        while (first := rows.n_rows(epoch)) < cursor:
            plan = rows.plan(epoch)
            pieces = np.flatnonzero(plan.pieces[:, 0] == document)
            planned = np.unique(np.searchsorted(plan.offsets, pieces, side="right") - 1)
            befores = first + self._order(number, epoch).inverse(planned)
            found += [self.mixture.row_of(number, before) for before in befores.tolist() if before < cursor]
            epoch += 1
        return found
