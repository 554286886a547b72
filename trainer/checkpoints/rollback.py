"""Going back after a streak of bad steps: to the newest checkpoint before it, and on without its rows.

The method of Chowdhery et al. 2022, §5.1.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from trainer.batches.source import BatchSource
from trainer.checkpoints.checkpointer import Checkpointer
from trainer.ending import Diverged
from trainer.guard import Guard, Verdict, with_new_window
from trainer.state import TrainState


class Rollbacks:
    """Decides when to go back, and does it; the phase resumed after step `first`.

    `restore` gives the newest checkpoint up to a step, and its state; `event` is called for what happens.
    Every process sees the same verdicts, so all of them decide the same without asking each other.
    """

    def __init__(
        self,
        guard: Guard,
        *,
        checkpointer: Checkpointer,
        source: BatchSource,
        restore: Callable[[int], tuple[int, TrainState] | None],
        event: Callable[..., None],
        first: int,
    ):
        self._guard = guard
        self._checkpointer = checkpointer
        self._source = source
        self._restore = restore
        self._event = event
        self._save_is_due = False
        # (step, rows consumed after it) of the steps of one streak, the step before it and the one under way
        self._ends = deque([(first, source.position.rows)], maxlen=guard.patience + 2)

    def passed(self, number: int) -> None:
        """Call when step `number` has been given its rows."""
        self._ends.append((number, self._source.position.rows))

    def due(self) -> bool:
        """Whether a save is wanted, once after a rollback: only checkpoints record the rows left out."""
        was_due = self._save_is_due
        self._save_is_due = False
        return was_due

    def wanted(self, verdict: Verdict | None) -> bool:
        """Whether a streak is as long as `patience`."""
        return verdict is not None and verdict.streak >= self._guard.patience

    def go_back(self, state: TrainState, verdict: Verdict) -> TrainState:
        """The state to resume from, with the source at its position.

        Raises:
            Diverged: the loss is not finite, and `max_rollbacks` are used up.
        """
        # a streak counts the step of the verdict itself
        last_good = verdict.number - verdict.streak
        stop = self._source.position.rows
        first = next((rows for step, rows in self._ends if step >= last_good), stop)
        # Each rollback has left out one window, so the windows count the rollbacks, across
        # restarts too.
        n_left = self._guard.max_rollbacks - len(self._source.position.skipped)
        if verdict.finite and (n_left < 1 or self._follows_skipped_rows(first, stop)):
            self._event("new_level", verdict.number, rows=[first, stop])
            return state._replace(opt_state=with_new_window(state.opt_state))
        # only a loss that is not finite gets here: no training is left to go on with
        if n_left < 1:
            self._checkpointer.wait()  # a save that is on its way is kept
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
        else:  # none of the streak's updates was applied, so the state is the one before it
            state = state._replace(opt_state=with_new_window(state.opt_state))
        # after the state is restored: set_state would overwrite it
        self._source.skip(first, stop)
        self._save_is_due = True
        self._ends.clear()
        self._ends.append((int(state.step), self._source.position.rows))
        return state

    def _follows_skipped_rows(self, first: int, stop: int) -> bool:
        """Whether the streak begins right behind rows that a rollback left out.

        Spikes that come back there are the level of the data from there on, and no accident.
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
        # the checkpoint does not know of the newest windows
        skipped = self._source.position.skipped
        self._checkpointer.drop_after(step)
        position: dict[str, Any] = self._checkpointer.read_json(step, "position")
        self._source.set_state({**position, "skipped": skipped})
        return state
