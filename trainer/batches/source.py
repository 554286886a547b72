"""Where batches come from: a source gives global arrays laid out by their field names, and can say in JSON
where it stands.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import zip_longest
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from data_pipeline.rows.bad_records import bad_records
from data_pipeline.rows.packed import PackedRows, Row
from data_pipeline.rows.sequence import RowSequence
from data_pipeline.rows.stream import stream
from model.api import Params
from model.sharding import axes_of, letters_of, n_parts, named
from trainer.batches.position import Ramp, after, batch_size_at


@runtime_checkable
class BatchSource[Batch](Protocol):
    """Data ignores the policy; rollouts use it. `consumed` counts the rows gone through, `skipped` are the
    windows of rows left out.
    """

    consumed: int
    skipped: list[list[int]]

    def next(self, policy: Params) -> Batch:
        """The next global batch."""
        ...

    def get_state(self) -> dict[str, Any]:
        """JSON, independent of the number of hosts and of the mesh."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        ...

    def skip(self, first: int, stop: int) -> None:
        """Leave out rows first to stop, which are not read yet; the state remembers them."""
        ...

    def progress(self) -> dict[str, float]:
        """Numbers for the metrics: what of each source was read."""
        ...

    def bad_records(self) -> dict[str, str]:
        """Records that this host left out because they are damaged, each with a sentence."""
        ...


class Layout(NamedTuple):
    """How the rows of a batch lie on a mesh, and what of them this host reads: of the rows at `offsets` the
    positions `positions`.
    """

    batch_type: type
    shapes: dict[str, tuple[int, ...]]
    shardings: dict[str, NamedSharding]
    offsets: tuple[int, ...]
    positions: slice

    @classmethod
    def of(
        cls, batch_type: type, shapes: dict[str, tuple[int, ...]], mesh: Mesh, *, micro_batches: int = 1
    ) -> "Layout":
        """The layout by field names.

        Raises:
            ValueError: the number of rows does not divide over the mesh.
        """
        shardings = {name: named(mesh, letters_of(name)) for name in shapes}
        n_rows = _n_rows(shapes)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            parts, parts_of_length, axes = n_parts("B"), n_parts("L"), " · ".join(axes_of("B"))
        if n_rows % (parts * micro_batches):
            over = f"{axes} = {parts} devices" + (
                f" in {micro_batches} micro-batches" if micro_batches > 1 else ""
            )
            raise ValueError(
                f"data.batch_size={n_rows} does not divide over {over}; choose a multiple of {parts * micro_batches}"
            )
        if (length := next(iter(shapes.values()))[1]) % parts_of_length:
            raise ValueError(
                f"data.seq_len={length} does not divide over mesh context={parts_of_length}; choose a multiple of it"
            )
        blocks = named(mesh, "BL").addressable_devices_indices_map((n_rows, length)).values()
        rows, positions = (
            [index[axis].indices(size)[:2] for index in blocks] for axis, size in enumerate((n_rows, length))
        )
        offsets = sorted({i for start, stop in rows for i in range(start, stop)})
        mine = slice(min(start for start, _ in positions), max(stop for _, stop in positions))
        return cls(batch_type, shapes, shardings, tuple(offsets), mine)

    @property
    def batch_size(self) -> int:
        """Rows of the global batch."""
        return _n_rows(self.shapes)

    def of_rows(self, n_rows: int) -> "Layout":
        """The same for batches of another number of rows, which divides as well."""
        mesh = next(iter(self.shardings.values())).mesh
        return Layout.of(
            self.batch_type, {name: (n_rows, *rest) for name, (_, *rest) in self.shapes.items()}, mesh
        )

    def place(self, host_rows: Row) -> Any:
        """The global batch, from this host's part of its rows, stacked in the order of `offsets`."""
        at = {offset: i for i, offset in enumerate(self.offsets)}

        def field(name: str) -> jax.Array:
            values = host_rows[name.replace("_B", "_")]

            def block(index: tuple[slice, ...]) -> np.ndarray:
                (start, stop, _), *others = (
                    part.indices(size) for part, size in zip(index, self.shapes[name], strict=True)
                )
                skipped = self.positions.start if letters_of(name)[1] == "L" else 0
                return values[
                    at[start] : at[stop - 1] + 1,
                    *(slice(first - skipped, last - skipped) for first, last, _ in others),
                ]

            return jax.make_array_from_callback(
                self.shapes[name], self.shardings[name], block, dtype=values.dtype
            )

        return self.batch_type(**{name: field(name) for name in self.batch_type._fields})


def _n_rows(shapes: dict[str, tuple[int, ...]]) -> int:
    return next(iter(shapes.values()))[0]


class ShardSource:
    """Training batches from a row sequence. The position is how many rows were gone through, and which
    windows of them are skipped.

    The next batch is read and laid out by a thread while the devices work on the one before. The first
    steps may have smaller batches (`ramp`).
    """

    def __init__(self, rows: RowSequence, layout: Layout, *, processes: int = 0, ramp: Ramp = ()):
        self.rows, self._processes, self._ramp = rows, processes, tuple(ramp)
        self._batch_size = layout.batch_size
        self._layouts = {n: layout.of_rows(n) for n in {layout.batch_size, *(n for n, _ in self._ramp)}}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: Future | None = None
        self._go_to(0, 0, [])

    def _go_to(self, step: int, row: int, skipped: list[list[int]]) -> None:
        if self._ahead:
            wait([self._ahead])
        self.step, self.consumed, self.skipped, self._ahead = step, row, skipped, None
        self._stream: tuple[int, Iterator[Row]] | None = None  # with the rows of its batches

    def _size(self, step: int) -> int:
        return batch_size_at(step, self._batch_size, self._ramp)

    def _place(self, step: int) -> Any:
        """The batch of a step behind the last one that was laid out; None where the rows end."""
        n_rows = self._size(step)
        layout = self._layouts[n_rows]
        if self._stream is None or self._stream[0] != n_rows:
            part = {"positions": layout.positions, "processes": self._processes, "skipped": self.skipped}
            self._stream = n_rows, stream(self.rows, self.consumed, n_rows, layout.offsets, **part)
        host_rows = next(self._stream[1], None)
        return None if host_rows is None else layout.place(host_rows)

    def next(self, policy: Params) -> Any:
        """The next rows of the sequence; each host reads only what its own devices hold of them.

        Raises:
            ValueError: all sources have reached their max_epochs.
        """
        batch = self._ahead.result() if self._ahead else self._place(self.step + 1)
        if batch is None:
            raise ValueError(
                f"the data ends after {self.rows.n_rows} rows; lower steps or raise data.schedule.max_epochs"
            )
        self.step += 1
        self.consumed = after(self.consumed, self._size(self.step), self.skipped)
        self._ahead = self._thread.submit(self._place, self.step + 1)
        return batch

    def skip(self, first: int, stop: int) -> None:
        """Leave out rows first to stop, those of a loss spike say; the position remembers them."""
        self._go_to(self.step, self.consumed, [*self.skipped, [first, stop]])

    def progress(self) -> dict[str, float]:
        """`tokens/source/NAME` (positions of its rows, padding included) and `epochs/source/NAME`."""
        return {
            f"{what}/source/{name}": x
            for name, found in self.rows.progress(self.consumed).items()
            for what, x in found.items()
        }

    def bad_records(self) -> dict[str, str]:
        """SOURCE/NUMBER -> file, record, document and what is wrong with it."""
        return bad_records(self.rows.sources)

    def get_state(self) -> dict[str, Any]:
        """Steps made, rows gone through, windows skipped (some may lie ahead), and all that these rows
        depended on.
        """
        return {
            "step": self.step,
            "rows": self.consumed,
            "skipped": self.skipped,
            "past": self.rows.past(self.consumed),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on behind the rows gone through. What comes then may be another mixture than it was to be.

        Raises:
            ValueError: the rows before the position would be others now.
        """
        if difference := _difference(state["past"], self.rows.past(state["rows"])):
            raise ValueError(
                f"the data of the {state['rows']} rows before the checkpoint has changed: {difference}; restore the data, its weights and "
                "the seed it was trained with (new segments and stages may only begin later), or start a new run folder"
            )
        self._go_to(state["step"], state["rows"], state["skipped"])


def _difference(saved: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs first between two pasts; "" if nothing does."""
    if saved["seed"] != now["seed"]:
        return f"seed={saved['seed']} then, {now['seed']} now"
    for then, leg in zip_longest(saved["legs"], now["legs"]):
        if then != leg:
            return f"{_told(then)} then, {_told(leg)} now"
    return ""


def _told(leg: dict[str, Any] | None) -> str:
    if leg is None:
        return "no change of the mixture"
    return f"from row {leg['first']} on " + ", ".join(
        f"{n} x {name} ({fingerprint})" for _, name, fingerprint, n in leg["streams"]
    )


def spread(rows: PackedRows, limit: int | None) -> list[int]:
    """The numbers of all rows of a plan, or of `limit` of them spread evenly over it: a plan begins with
    its longest documents.
    """
    n = min(len(rows), limit or len(rows))
    return [i * len(rows) // n for i in range(n)]


def passes(rows: PackedRows, layout: Layout, limit: int | None = None) -> Iterator[tuple[list[int], Any]]:
    """The rows of `spread` once, in batches; (row numbers, batch), the last batch filled up with rows of
    weight 0.
    """
    batch_size = layout.batch_size
    chosen = spread(rows, limit)
    n = len(chosen)
    (first_row,) = rows.read([rows.place(0)], layout.positions)
    empty = {name: np.zeros_like(x) for name, x in first_row.items()}
    for first in range(0, n, batch_size):
        there = [offset for offset in layout.offsets if first + offset < n]
        places = [rows.place(chosen[first + offset]) for offset in there]
        read = dict(zip(there, rows.read(places, layout.positions), strict=True))
        mine = [read.get(offset, empty) for offset in layout.offsets]
        yield (
            chosen[first : first + batch_size],
            layout.place({name: np.stack([row[name] for row in mine]) for name in empty}),
        )
