"""Which rows a step reads: a function of how far the phase has come, of the windows it leaves out, and of
its batch sizes.
"""

from collections.abc import Iterable, Sequence

from data_pipeline.rows.position import after, rows_of, united

__all__ = ["after", "batch_size_at", "rows_of", "rows_until", "united"]

Ramp = Iterable[Sequence[int]]  # (rows, steps) of the first steps, whose batches are smaller


def batch_size_at(step: int, batch_size: int, ramp: Ramp) -> int:
    """Rows of step `step`, from 1."""
    last = 0
    for rows, steps in ramp:
        last += steps
        if step <= last:
            return rows
    return batch_size


def rows_until(steps: int, batch_size: int, ramp: Ramp) -> int:
    """Rows that the first `steps` steps read."""
    found, left = 0, steps
    for rows, n in ramp:
        found, left = found + rows * min(n, left), left - min(n, left)
    return found + left * batch_size
