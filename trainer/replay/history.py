"""What a phase's folder records of its steps: the rows each has read or will read, its logged metrics, and
the Run at that time.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipeline.rows.position import after, rows_of
from trainer.batches.position import batch_size_at, rows_until
from trainer.checkpoints.stored import checkpoint_path, read_run, steps_in
from trainer.records.metrics import read_metrics
from trainer.run import Run


class RowHistory(NamedTuple):
    """How far a phase has come in its rows.

    Attributes:
        ends: Rows consumed after steps 0, 1, … up to the last one made.
        skipped: Windows [first, stop) of rows that are left out; some may still be ahead.
        batch_size: Rows of a future step after the ramp.
        ramp: (rows, steps) of the first steps, with smaller batches.
    """

    ends: Sequence[int]
    skipped: Sequence[Sequence[int]]
    batch_size: int
    ramp: Sequence[Sequence[int]]

    @property
    def step(self) -> int:
        """Steps made so far: `ends` has an entry for step 0 too."""
        return len(self.ends) - 1

    def rows_of(self, step: int) -> list[int]:
        """The rows of step `step` (from 1): of a past step as logged, of a future one by the run's present
        batch sizes.
        """
        if step <= self.step:
            # rows consumed before the step, and after it
            first, stop = self.ends[step - 1 : step + 1]
            return [row for row in range(first, stop) if not self._is_skipped(row)]
        rows_before = rows_until(step - 1, self.batch_size, self.ramp)
        rows_so_far = rows_until(self.step, self.batch_size, self.ramp)
        n = batch_size_at(step, self.batch_size, self.ramp)
        # A future step: `offset` rows, computed from the ramp, lie between the present position and its rows.
        return rows_of(self.ends[-1], n, self.skipped, offset=rows_before - rows_so_far)

    def _is_skipped(self, row: int) -> bool:
        return any(first <= row < stop for first, stop in self.skipped)


def history_of(folder: Path, run: Run) -> RowHistory:
    """Read the history of the phase in `folder` from metrics.jsonl and the newest checkpoint's position.
    Steps recorded in neither are taken to have had the run's present batch sizes.
    """
    checkpoint = max(steps_in(folder / "checkpoints"), default=0)
    position = {"rows": 0, "skipped": []}
    if checkpoint:
        # Orbax's file name for a JSON item
        saved = folder / "checkpoints" / str(checkpoint) / "position" / "metadata"
        position = json.loads(saved.read_bytes())
    logged = {
        row["step"]: int(row["data/rows"]) for row in read_metrics(folder) if "data/rows" in row
    }
    # The log has every step, a checkpoint only its own; where a line is torn or the log is lost, batch sizes
    # fill the gap.
    known = {checkpoint: position["rows"], **logged}
    ends = [0]
    for step in range(1, max(known) + 1):
        n = batch_size_at(step, run.data.batch_size, run.batch_ramp)
        ends.append(known[step] if step in known else after(ends[-1], n, position["skipped"]))
    return RowHistory(ends, position["skipped"], run.data.batch_size, run.batch_ramp)


def logged_row(folder: Path, step: int) -> dict[str, float]:
    """The row of a step in metrics.jsonl.

    Raises:
        ValueError: the step was not logged.
    """
    rows = {row["step"]: row for row in read_metrics(folder) if "loss/train" in row}
    if step not in rows:
        there = f"it has steps {min(rows)} to {max(rows)}" if rows else "it has no steps yet"
        raise ValueError(f"--step {step}: the log of {folder} has no such step; {there}")
    return rows[step]


def run_of_step(folder: Path, step: int, otherwise: Run) -> Run:
    """The Run with which the phase made a step; `otherwise` if no checkpoint tells.

    It is saved in the first checkpoint from that step on, by the process that made the step.
    """
    # steps are ascending, so the first match is the nearest
    later = next((saved for saved in steps_in(folder / "checkpoints") if saved >= step), None)
    if later is None:
        return otherwise
    return Run.model_validate_json(json.dumps(read_run(checkpoint_path(folder, later))))
