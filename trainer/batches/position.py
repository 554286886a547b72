"""The position of a source in its rows: a function of steps made, skipped windows and batch sizes."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from data_pipeline.rows.position import after

Ramp = Iterable[
    Sequence[int]
]  # (rows, steps) pairs: the first steps' smaller batch sizes, in order


class Position(NamedTuple):
    """Steps made, rows consumed by them, and windows [first, stop) of rows to leave out, past or ahead."""

    step: int = 0
    rows: int = 0
    skipped: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, state: dict[str, object]) -> "Position":
        """The position in a source's JSON state."""
        # JSON turns tuples into lists, and a list never equals a tuple.
        windows = tuple((first, stop) for first, stop in state["skipped"])
        return cls(state["step"], state["rows"], windows)

    def after_step(self, n_rows: int) -> "Position":
        """The position after one more step, which reads the next `n_rows` rows that are not left out."""
        return Position(self.step + 1, after(self.rows, n_rows, self.skipped), self.skipped)

    def without(self, first: int, stop: int) -> "Position":
        """The same position, with rows [first, stop) left out too."""
        return self._replace(skipped=(*self.skipped, (first, stop)))


def batch_size_at(step: int, batch_size: int, ramp: Ramp) -> int:
    """Rows in the batch of step `step`, counted from 1."""
    last = 0  # last step of the ramp's entry, counted from the phase's first step
    for rows, steps in ramp:
        last += steps
        if step <= last:
            return rows
    return batch_size


def rows_until(steps: int, batch_size: int, ramp: Ramp) -> int:
    """Rows that the first `steps` steps read."""
    n_rows = 0
    left = steps
    for rows, n in ramp:
        n_here = min(n, left)
        n_rows += rows * n_here
        left -= n_here
    return n_rows + left * batch_size
