"""Which checkpoints of a phase there are, and which of them pass verification."""

from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.checkpoints.manifest import Level, problem
from trainer.checkpoints.stored import json_problem, steps_in
from trainer.checkpoints.tidying import remove, set_aside
from trainer.cluster.coordination import all_say, first_says, is_first


class Catalogue:
    """The checkpoints in `folders`: the durable folder first, then a local folder of copies, if any.

    Process 0 alone reads the disk and tells the others in a collective, so all processes must call all
    methods in the same order. `event(name, step, **fields)` is called for each damaged checkpoint.
    """

    def __init__(self, folders: Sequence[Path], verify: Level, event: Callable[..., None]):
        self._folders = folders
        self._verify = verify
        self._event = event
        self._verified: dict[int, Path] = {}
        # damaged checkpoints that could not be renamed, for example on a read-only disk
        self._refused: set[Path] = set()

    def verify_newest(self, limit: int | None = None) -> int | None:
        """The newest step, up to `limit`, whose checkpoint passes verification; None if there is none.

        Newer checkpoints that do not pass are set aside.
        """
        # process 0 searches while the others wait in this collective for its answer
        step, folder = first_says(*(self._search(limit) if is_first() else (-1, 0)))
        if step < 0:
            return None
        self._verified[step] = self._folders[folder] / str(step)
        return step

    def _search(self, limit: int | None) -> tuple[int, int]:
        """(step, index of its folder) of the newest that passes, preferring local copies; (-1, 0) if none."""
        candidates = []
        for i, folder in enumerate(self._folders):
            candidates += [(step, i) for step in steps_in(folder) if limit is None or step <= limit]
        # Newest first; of equal steps the higher index, that of the local folder, which reads faster.
        for step, i in sorted(candidates, reverse=True):
            path = self._folders[i] / str(step)
            if path in self._refused:
                continue
            if self._verified.get(step) == path:  # hashed already by an earlier call
                return step, i
            why = problem(path, self._verify) or json_problem(path)
            if why is None:
                return step, i
            self.set_aside(path, why)
        return -1, 0

    def set_aside(self, path: Path, why: str) -> None:
        """Rename a damaged checkpoint so that it is no longer listed; none of its files are deleted."""
        self._verified.pop(int(path.name), None)
        # Only process 0 renames, and only its `_refused` is read, since it alone searches.
        kept_as = set_aside(path) if is_first() else path
        if kept_as == path:
            self._refused.add(path)
        self._event("damaged", int(path.name), why=why, kept_as=str(kept_as))

    def path_of(self, step: int) -> Path:
        """The folder of a step: the one that was verified, else the first that exists."""
        if step in self._verified:
            return self._verified[step]
        paths = [folder / str(step) for folder in self._folders]
        return next((path for path in paths if path.exists()), paths[0])

    def remove_after(self, step: int) -> None:
        """Delete all later steps; returns in every process once they are deleted."""
        if is_first():
            for folder in self._folders:
                for later in steps_in(folder):
                    if later > step:
                        remove(folder / str(later))
        self._verified = {s: path for s, path in self._verified.items() if s <= step}
        all_say()  # a barrier: no process goes on before process 0 has deleted them
