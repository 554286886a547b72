"""Where a source is: a function of the steps made, of the windows of rows left out, and of batch sizes."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from data_pipeline.rows.position import after

Ramp = Iterable[Sequence[int]]  # (rows, steps) of the first steps, whose batches are smaller


class Position(NamedTuple):
    """Steps made, rows consumed by them, and windows [first, stop) of rows to leave out, also later ones."""

    step: int = 0
    rows: int = 0
    skipped: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, state: dict[str, object]) -> "Position":
        """The position in a source's JSON state."""
        # JSON has no tuples, and a list would make equal positions differ.
        windows = tuple((first, stop) for first, stop in state["skipped"])
        return cls(state["step"], state["rows"], windows)

    def after_step(self, n_rows: int) -> "Position":
        """The position when a step has read the next `n_rows` rows that are not left out."""
        return Position(self.step + 1, after(self.rows, n_rows, self.skipped), self.skipped)

    def without(self, first: int, stop: int) -> "Position":
        """The same position, rows first to stop left out."""
        return self._replace(skipped=(*self.skipped, (first, stop)))


def batch_size_at(step: int, batch_size: int, ramp: Ramp) -> int:
    """Rows of step `step`, from 1."""
    last = 0
    # `last` is the last step of the ramp's entry, counted from the phase's beginning.
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
