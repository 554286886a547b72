"""Where batches come from: a source gives global arrays laid out by their field names, and can say in JSON where it stands."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from data_pipeline.loader import PackedRows, Row, RowSequence, stream
from model.api import Params
from model.sharding import letters_of, named


@runtime_checkable
class BatchSource[Batch](Protocol):
    """Data ignores the policy; rollouts use it."""

    def next(self, policy: Params) -> Batch:
        """The next global batch."""
        ...

    def get_state(self) -> dict[str, Any]:
        """JSON, independent of the number of hosts and of the mesh."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        ...


class Layout(NamedTuple):
    """How the rows of a batch lie on a mesh, and which of them this host reads."""

    batch_type: type
    shapes: dict[str, tuple[int, ...]]
    shardings: dict[str, NamedSharding]
    offsets: tuple[int, ...]

    @classmethod
    def of(cls, batch_type: type, shapes: dict[str, tuple[int, ...]], mesh: Mesh, *, micro_batches: int = 1) -> "Layout":
        """The layout by field names.

        Raises:
            ValueError: the number of rows does not divide over the mesh.
        """
        shardings = {name: named(mesh, letters_of(name)) for name in shapes}
        n_rows = next(iter(shapes.values()))[0]
        rows = named(mesh, "B")
        parts = mesh.shape["data"] * mesh.shape["fsdp"]
        if n_rows % (parts * micro_batches):
            over = f"data · fsdp = {parts} devices" + (f" in {micro_batches} micro-batches" if micro_batches > 1 else "")
            raise ValueError(f"data.batch_size={n_rows} does not divide over {over}; choose a multiple of {parts * micro_batches}")
        if (length := next(iter(shapes.values()))[1]) % mesh.shape["context"]:
            raise ValueError(f"data.seq_len={length} does not divide over mesh context={mesh.shape['context']}; choose a multiple of it")
        slices = {index[0].indices(n_rows)[:2] for index in rows.addressable_devices_indices_map((n_rows,)).values()}
        return cls(batch_type, shapes, shardings, tuple(sorted(i for start, stop in slices for i in range(start, stop))))

    def place(self, host_rows: Row) -> Any:
        """The global batch, from this host's rows stacked in the order of `offsets`."""
        at = {offset: i for i, offset in enumerate(self.offsets)}

        def field(name: str) -> jax.Array:
            values = host_rows[name.replace("_B", "_")]

            def block(index: tuple[slice, ...]) -> np.ndarray:
                start, stop, _ = index[0].indices(self.shapes[name][0])
                return values[at[start] : at[stop - 1] + 1][(slice(None), *index[1:])]

            return jax.make_array_from_callback(self.shapes[name], self.shardings[name], block, dtype=values.dtype)

        return self.batch_type(**{name: field(name) for name in self.batch_type._fields})


class ShardSource:
    """Training batches from a row sequence. The position is one number: how many rows were consumed."""

    def __init__(self, rows: RowSequence, layout: Layout):
        self.rows, self.layout, self.consumed = rows, layout, 0
        self._stream: Iterator[Row] | None = None

    def next(self, policy: Params) -> Any:
        """The next rows of the sequence; each host reads only those that its own devices hold."""
        batch_size = next(iter(self.layout.shapes.values()))[0]
        if self._stream is None:
            self._stream = stream(self.rows, self.consumed, batch_size, self.layout.offsets)
        batch = self.layout.place(next(self._stream))
        self.consumed += batch_size
        return batch

    def get_state(self) -> dict[str, Any]:
        """Rows consumed, and what they were consumed of."""
        return {"rows": self.consumed, "fingerprint": self.rows.fingerprint}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on behind the rows consumed.

        Raises:
            ValueError: the position belongs to other data.
        """
        if state["fingerprint"] != self.rows.fingerprint:
            raise ValueError(
                f"data fingerprint {self.rows.fingerprint} differs from the checkpoint's {state['fingerprint']}; "
                "restore the data, its weights and the seed it was trained with, or start a new run folder"
            )
        self.consumed, self._stream = state["rows"], None


def passes(rows: PackedRows, layout: Layout, limit: int | None = None) -> Iterator[tuple[range, Any]]:
    """Every row of a plan once, in batches; (row numbers, batch), the last batch filled up with rows of weight 0."""
    batch_size = next(iter(layout.shapes.values()))[0]
    n = min(len(rows), limit or len(rows))
    for first in range(0, n, batch_size):
        numbers = range(first, min(first + batch_size, n))
        read = {offset: rows[first + offset] for offset in layout.offsets if first + offset < n}
        empty = {name: np.zeros_like(x) for name, x in (next(iter(read.values())) if read else rows[0]).items()}
        mine = [read.get(offset, empty) for offset in layout.offsets]
        yield numbers, layout.place({name: np.stack([row[name] for row in mine]) for name in empty})
