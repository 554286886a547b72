"""Going back after a streak of bad steps: to the newest checkpoint before it, and on without its rows
(Chowdhery et al. 2022, §5.1).
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from trainer.batches.source import BatchSource
from trainer.checkpoints.checkpointer import Checkpointer
from trainer.ending import Diverged
from trainer.guard import Guard, Verdict, forgotten
from trainer.state import TrainState


class Rollbacks:
    """Decides when to go back, and does it.

    `restore` gives the newest checkpoint up to a step, and its state; `event` is told. Every process sees
    the same verdicts, so all of them do the same.
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
        self._guard, self._checkpointer, self._source, self._restore, self._event = (
            guard,
            checkpointer,
            source,
            restore,
            event,
        )
        self._saved_soon = False
        self._ends = deque(
            [(first, source.position.rows)], maxlen=guard.patience + 2
        )  # (step, rows gone through after it)

    def passed(self, number: int) -> None:
        """Step `number` has been given its rows."""
        self._ends.append((number, self._source.position.rows))

    def due(self) -> bool:
        """Whether a save is wanted, once: the windows of rows left out are known to checkpoints alone."""
        asked, self._saved_soon = self._saved_soon, False
        return asked

    def wanted(self, verdict: Verdict | None) -> bool:
        """Whether a streak is as long as patience."""
        return verdict is not None and verdict.streak >= self._guard.patience

    def go_back(self, state: TrainState, verdict: Verdict) -> TrainState:
        """The state to go on from; the source stands where it goes on.

        Raises:
            Diverged: the loss is no number, and `max_rollbacks` are used up.
        """
        begun = verdict.number - verdict.streak  # the last step before the streak
        first, stop = (
            next((rows for step, rows in self._ends if step >= begun), self._source.position.rows),
            self._source.position.rows,
        )
        behind = [end for _, end in self._source.position.skipped]
        left = self._guard.max_rollbacks - len(behind)
        # spikes that come back right behind rows that were left out are the level of the data there, and no
        # accident
        if verdict.finite and (left < 1 or any(first - end < stop - first for end in behind)):
            self._event("new_level", verdict.number, rows=[first, stop])
            return state._replace(opt_state=forgotten(state.opt_state))
        if left < 1:
            what = f"{verdict.streak} steps in a row, the last of them {verdict.number}, had a loss or gradient that is no number"
            remedy = f"lower optimizer.peak_lr or look at rows {first} to {stop - 1} of the data"
            self._checkpointer.wait()  # what is on its way to the disk is kept
            raise Diverged(f"{what}, after {len(behind)} rollbacks; {remedy}")
        found = self._restore(begun)
        self._event(
            "rollback",
            verdict.number,
            to=found[0] if found else None,
            rows=[first, stop],
            finite=verdict.finite,
        )
        if found:
            state = self._gone_back(*found)
        else:  # none of the streak's updates was made, so the state is the one before it
            state = state._replace(opt_state=forgotten(state.opt_state))
        self._source.skip(first, stop)
        self._saved_soon = True
        self._ends.clear()
        self._ends.append((int(state.step), self._source.position.rows))
        return state

    def _gone_back(self, step: int, state: TrainState) -> TrainState:
        skipped = self._source.position.skipped
        self._checkpointer.drop_after(step)
        position: dict[str, Any] = self._checkpointer.read_json(step, "position")
        self._source.set_state({**position, "skipped": skipped})
        return state
