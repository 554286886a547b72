"""Batches from shards: training batches of a row sequence, and one pass over the rows of a source."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import zip_longest
from typing import Any

import numpy as np

from data_pipeline.rows.bad_records import bad_records
from data_pipeline.rows.packed import PackedRows, Row
from data_pipeline.rows.sequence import RowSequence
from data_pipeline.rows.stream import stream
from model.api import Params
from trainer.batches.layout import Layout
from trainer.batches.position import Position, Ramp, batch_size_at


def ignore_event(name: str, step: int, /, **what: Any) -> None:
    """Drop an event, where there is no events.jsonl to append it to."""


class ShardSource:
    """Training batches from a row sequence.

    A thread reads and lays out the next batch while the devices work on the one before. The first steps may
    have smaller batches (`ramp`). `event(name, step, **what)` is called for records that are left out because
    they are damaged.
    """

    def __init__(
        self,
        rows: RowSequence,
        layout: Layout,
        *,
        processes: int = 0,
        ramp: Ramp = (),
        event: Callable[..., None] = ignore_event,
    ):
        self.rows = rows
        self._processes = processes
        self._ramp = tuple(ramp)
        self._event = event
        self._batch_size = layout.batch_size
        # A layout for each batch size of the ramp, made now so that sizes that do not divide are refused
        # before the first step.
        batch_sizes = {layout.batch_size, *(n for n, _ in self._ramp)}
        self._layouts = {n: layout.of_rows(n) for n in batch_sizes}
        # A single thread: batches come from one stream, in order.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: Future | None = None
        self._reported: set[str] = set()  # bad records
        self._go_to(Position())

    def _go_to(self, position: Position) -> None:
        if self._ahead:
            wait([self._ahead])  # the thread still reads the stream that is dropped below
        self.position = position
        self._ahead = None
        self._stream: tuple[int, Iterator[Row]] | None = (
            None  # (rows in a batch, host rows by batch)
        )

    def _size(self, step: int) -> int:
        return batch_size_at(step, self._batch_size, self._ramp)

    def _place(self, step: int) -> Any:
        """The batch of `step`, which follows the batch laid out last; None where the rows end."""
        n_rows = self._size(step)
        layout = self._layouts[n_rows]
        # A stream gives batches of one size. Where the ramp changes it, a new stream begins at the position,
        # which `next` has advanced already.
        if self._stream is None or self._stream[0] != n_rows:
            host_rows = stream(
                self.rows,
                self.position.rows,
                n_rows,
                layout.offsets,
                positions=layout.positions,
                processes=self._processes,
                skipped=self.position.skipped,
            )
            self._stream = n_rows, host_rows
        rows = next(self._stream[1], None)
        return None if rows is None else layout.place(rows)

    def next(self, policy: Callable[[], Params]) -> Any:
        """The next batch of the sequence; each host reads only what its own devices hold of it.

        Raises:
            ValueError: all sources have reached their max_epochs.
        """
        step = self.position.step + 1
        batch = self._ahead.result() if self._ahead else self._place(step)
        if batch is None:
            n_rows = self.rows.n_rows
            remedy = "lower steps or raise data.schedule.max_epochs"
            raise ValueError(f"the data ends after {n_rows} rows; {remedy}")
        self.position = self.position.after_step(self._size(step))
        # The batch after this one is read while the devices compute the step.
        self._ahead = self._thread.submit(self._place, step + 1)
        self._report_bad_records()
        return batch

    def _report_bad_records(self) -> None:
        """An event for each new bad record: its file, its document and what is wrong with it."""
        bad = bad_records(self.rows.sources)
        for name in bad.keys() - self._reported:
            self._event("bad_record", self.position.step, record=bad[name])
        self._reported |= bad.keys()

    def skip(self, first: int, stop: int) -> None:
        """Leave out rows [first, stop) from now on; the position records them."""
        self._go_to(self.position.without(first, stop))

    def numbers(self) -> dict[str, float]:
        """`tokens/source/NAME` (positions of its rows, padding included), `epochs/source/NAME`, and
        `data/bad_records`, the damaged records that this host left out.
        """
        progress = self.rows.progress(self.position.rows)
        numbers = {
            f"{what}/source/{name}": x
            for name, counts in progress.items()
            for what, x in counts.items()
        }
        return numbers | (
            {"data/bad_records": float(len(self._reported))} if self._reported else {}
        )

    def get_state(self) -> dict[str, Any]:
        """The position, and under "past" everything that the rows before it depended on."""
        return {**self.position._asdict(), "past": self.rows.past(self.position.rows)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Resume after the rows consumed. The mixture of the rows to come may have changed.

        Raises:
            ValueError: under the present data and seed the rows before the position would be others.
        """
        # Only the past is compared: the rows after the position may change.
        past = self.rows.past(state["rows"])
        if difference := _difference(state["past"], past):
            changed = f"the data of the {state['rows']} rows before the checkpoint has changed: {difference}"
            remedy = (
                "restore the data, its weights and the seed it was trained with "
                "(new segments and stages may only begin later), or start a new run folder"
            )
            if grown := _grown(state["past"], past):
                segments = ", ".join(f"{source}: {n}" for source, n in grown.items())
                remedy = (
                    f"text was appended since, so add --set PHASE.data.schedule.segments='{{{segments}}}' to "
                    "go on with what there was, and a stage in data.schedule.stages to read all from later on"
                )
            raise ValueError(f"{changed}; {remedy}")
        self._go_to(Position.of(state))


def _difference(saved: dict[str, Any], now: dict[str, Any]) -> str:
    """The first difference between two pasts, in words; "" if there is none."""
    if saved["seed"] != now["seed"]:
        return f"seed={saved['seed']} then, {now['seed']} now"
    for then, leg in zip_longest(saved["legs"], now["legs"]):
        if then != leg:
            return f"{_described(then)} then, {_described(leg)} now"
    return ""


def _grown(saved: dict[str, Any], now: dict[str, Any]) -> dict[str, int]:
    """Source → how many segments it had at first, of those to which segments were added since; none if that
    is not all that has changed.
    """
    before, after = _streams_at_first(saved), _streams_at_first(now)
    if saved["seed"] != now["seed"] or not before.items() <= after.items():
        return {}
    added = {name.rpartition("/")[0] for name in after.keys() - before.keys()}
    return {source: n for source in sorted(added) if (n := _n_segments(before, source))}


def _streams_at_first(past: dict[str, Any]) -> dict[str, str]:
    """SOURCE/SEGMENT → fingerprint of its rows."""
    return {name: fingerprint for _, name, fingerprint, _ in past["legs"][0]["streams"]}


def _n_segments(streams: dict[str, str], source: str) -> int:
    return sum(name.rpartition("/")[0] == source for name in streams)


def _described(leg: dict[str, Any] | None) -> str:
    if leg is None:
        return "no change of the mixture"
    streams = (f"{n} x {name} ({fingerprint})" for _, name, fingerprint, n in leg["streams"])
    return f"from row {leg['first']} on " + ", ".join(streams)


def spread(rows: PackedRows, limit: int | None) -> list[int]:
    """The numbers of all rows of a plan, or of `limit` rows spread evenly over it: the first rows alone would
    be no fair sample, since best-fit packing puts the longest documents first.
    """
    n = min(len(rows), limit or len(rows))
    return [i * len(rows) // n for i in range(n)]


def n_passes(rows: PackedRows, layout: Layout, limit: int | None = None) -> int:
    """How many batches `passes` gives."""
    return -(
        -len(spread(rows, limit)) // layout.batch_size
    )  # rounded up: the last one is filled up


def passes(
    rows: PackedRows, layout: Layout, limit: int | None = None
) -> Iterator[tuple[list[int], Any]]:
    """(row numbers, batch) once over the rows of `spread`; rows of weight 0 fill up the last batch."""
    batch_size = layout.batch_size
    numbers = spread(rows, limit)
    # Read only for the names, shapes and dtypes of the fields.
    (first_row,) = rows.read([rows.place(0)], layout.positions)
    empty = {name: np.zeros_like(x) for name, x in first_row.items()}
    for first in range(0, len(numbers), batch_size):
        offsets = [offset for offset in layout.offsets if first + offset < len(numbers)]
        places = [rows.place(numbers[first + offset]) for offset in offsets]
        row_at = dict(zip(offsets, rows.read(places, layout.positions), strict=True))
        # Every host yields every batch, even one without rows of its own: all hosts must run its computation.
        host_rows = [row_at.get(offset, empty) for offset in layout.offsets]
        stacked = {name: np.stack([row[name] for row in host_rows]) for name in empty}
        yield numbers[first : first + batch_size], layout.place(stacked)
