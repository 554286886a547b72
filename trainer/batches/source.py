"""Where batches come from."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from model.api import Params
from trainer.batches.position import Position


@runtime_checkable
class BatchSource[Batch](Protocol):
    """Gives one global batch after the other, each a pure function of content, seed and position: the same
    arrays for any number of hosts and any mesh, however often the run was interrupted.

    Shards ignore the policy, rollouts ask for it. All processes call all methods in the same order.
    """

    position: Position  # steps made, rows consumed, windows of rows left out

    def next(self, policy: Callable[[], Params]) -> Batch:
        """The next global batch, laid out on the mesh by its field names.

        `policy()` merges the present parameters; who calls it must be done with them when `next` returns,
        since the step that follows donates them.
        """

    def skip(self, first: int, stop: int) -> None:
        """Leave out rows first to stop, those of a loss spike say, which are not read yet."""

    def get_state(self) -> dict[str, Any]:
        """JSON with the fields of `position` and all that the rows so far depended on; for any mesh."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Resume from there.

        Raises:
            ValueError: the rows before that position would be others now.
        """

    def numbers(self) -> dict[str, float]:
        """Metrics that change slowly, such as the tokens and epochs read of each source of a mixture."""
