"""Rollback: after a streak of bad steps, resume from the newest checkpoint before it and skip its rows.

The method of Chowdhery et al. 2022, §5.1.
"""

from collections import deque
from typing import Any

from trainer.batches.source import BatchSource
from trainer.ending import Diverged
from trainer.guard import Verdict, with_new_window
from trainer.phase import Phase
from trainer.state import TrainState


class Rollbacks:
    """Decides when to roll back, and does it; the phase resumed after step `first`.

    All processes see the same verdicts, so they decide the same without communicating.
    """

    def __init__(self, phase: Phase, source: BatchSource, *, first: int):
        self._guard = phase.run.guard
        self._checkpointer = phase.checkpointer
        self._source = source
        self._restore = phase.restore
        self._event = phase.event
        self._save_is_due = False
        # (step, rows consumed up to and with it) of the last steps: those of a streak (`patience`), the step
        # before it, and the one that is dispatched and has no verdict yet
        self._ends = deque([(first, source.position.rows)], maxlen=self._guard.patience + 2)

    def passed(self, number: int) -> None:
        """Call after step `number` has taken its rows from the source."""
        self._ends.append((number, self._source.position.rows))

    def due(self) -> bool:
        """Whether a save is wanted: once after each rollback, since only checkpoints record skipped rows."""
        was_due = self._save_is_due
        self._save_is_due = False
        return was_due

    def wanted(self, verdict: Verdict | None) -> bool:
        """Whether a streak is as long as `patience`."""
        return verdict is not None and verdict.streak >= self._guard.patience

    def go_back(self, state: TrainState, verdict: Verdict) -> TrainState:
        """The state to resume from; the source is moved to its position.

        Raises:
            Diverged: loss or gradient norm is NaN or infinite, and `max_rollbacks` are used up.
        """
        # the streak includes the step of the verdict
        last_good = verdict.number - verdict.streak
        stop = self._source.position.rows
        first = next((rows for step, rows in self._ends if step >= last_good), stop)
        # Each rollback skips one window of rows, so the windows count the rollbacks, also across restarts.
        n_left = self._guard.max_rollbacks - len(self._source.position.skipped)
        if verdict.finite and (n_left < 1 or self._follows_skipped_rows(first, stop)):
            self._event("new_level", verdict.number, rows=[first, stop])
            return state._replace(opt_state=with_new_window(state.opt_state))
        if n_left < 1:
            # NaN or infinity (finite spikes were accepted above): training cannot go on. A save that is being
            # written is completed first.
            self._checkpointer.wait()
            raise Diverged(self._sentence(verdict, first, stop))
        restored = self._restore(last_good)
        self._event(
            "rollback",
            verdict.number,
            to=restored[0] if restored else None,
            rows=[first, stop],
            finite=verdict.finite,
        )
        if restored:
            state = self._rewind(*restored)
        else:  # no checkpoint: the guard applied none of the streak's updates, so the state is as before it
            state = state._replace(opt_state=with_new_window(state.opt_state))
        # After `_rewind`, whose set_state would overwrite the new window.
        self._source.skip(first, stop)
        self._save_is_due = True
        self._ends.clear()
        self._ends.append((int(state.step), self._source.position.rows))
        return state

    def _follows_skipped_rows(self, first: int, stop: int) -> bool:
        """Whether the streak begins right after rows that a rollback skipped.

        Spikes that return there are not an accident of a few rows, but the level of the data from there on.
        """
        n_rows = stop - first
        return any(
            first - skipped_stop < n_rows for _, skipped_stop in self._source.position.skipped
        )

    def _sentence(self, verdict: Verdict, first: int, stop: int) -> str:
        steps = f"{verdict.streak} steps in a row, the last of them {verdict.number}"
        n_rollbacks = len(self._source.position.skipped)
        remedy = f"lower optimizer.peak_lr or look at rows {first} to {stop - 1} of the data"
        return f"{steps}, had a loss or gradient that is not finite, after {n_rollbacks} rollbacks; {remedy}"

    def _rewind(self, step: int, state: TrainState) -> TrainState:
        # The checkpoint is older than the newest windows, which must stay skipped.
        skipped = self._source.position.skipped
        self._checkpointer.drop_after(step)
        position: dict[str, Any] = self._checkpointer.read_json(step, "position")
        self._source.set_state({**position, "skipped": skipped})
        return state
