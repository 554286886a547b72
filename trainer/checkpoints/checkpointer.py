"""Checkpoints of a phase by Orbax: begun between two steps, written and hashed behind them, verified before
they are used.
"""

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import jax

from model.api import Params
from model.stages import in_memory_order, in_model_order
from trainer.checkpoints.manifest import problem
from trainer.checkpoints.retention import Checkpoints
from trainer.checkpoints.saving import (
    DISK_TROUBLE,
    Running,
    Writer,
    cause_of,
    free_bytes,
    log_event,
    output_error,
    said,
)
from trainer.checkpoints.stored import (
    Damaged,
    arrays_of,
    check_frozen,
    json_problem,
    read_arrays,
    read_item,
    sealed,
    state_of,
    steps_in,
)
from trainer.checkpoints.tidying import finish, local_folder, remove, remove_leftovers, set_aside
from trainer.cluster.coordination import all_say, first_says, is_first
from trainer.fingerprints import fingerprints
from trainer.state import TrainState

# a save that is due waits so long for the one before it, counted from its beginning; slower disks have it
# come later
RUNNING_S = 30.0
RETRY_S, LONGEST_RETRY_S = 1.0, 300.0  # doubled after each failure
LAST_PAUSES_S = (0.0, 1.0, 2.0, 4.0)  # before each further try at the end


class Asked(NamedTuple):
    """What `save` was last asked for; the next step takes the arrays of `state` away."""

    step: int
    state: TrainState
    jsons: dict[str, Any]

    @property
    def gone(self) -> bool:
        """Whether the next step has taken them."""
        return any(leaf.is_deleted() for leaf in jax.tree.leaves(self.state.trainable))


class Checkpointer:
    """The checkpoints of one phase, in `folder/checkpoints/<step>`, and for a while also where
    `settings.local` says.

    A step appears under its name when all of it is written; its manifest follows. Trouble with the disk
    ends no training: it is said as an event, counted, and tried again after a pause with the state of a
    later step, for which `due` asks. On the disk layers are in the order of the model, so that any mesh can
    go on; `rounds` is how often a pipeline's stages are passed here. All processes call all methods in the
    same order; `event(name, step, **what)` is told what happened.
    """

    def __init__(
        self, folder: Path, settings: Checkpoints, *, rounds: int = 1, event: Callable[..., None] = log_event
    ):
        self.folder, self.settings, self.rounds, self._event = folder / "checkpoints", settings, rounds, event
        with said(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._places = [
                self.folder,
                *([local_folder(self.folder, settings.local)] if settings.local else []),
            ]
        self._writer: Writer | None = None
        self._after = ThreadPoolExecutor(1, thread_name_prefix="manifest")
        self._finishing: list[tuple[int, dict[str, float], Future]] = []
        self._running: Running | None = None
        self._asked: Asked | None = None
        self._newest_written, self._stall_s = -1, 0.0
        self._n_failed, self._n_failed_in_a_row, self._trouble = 0, 0, None
        self._owed, self._retry_at, self._retry = False, 0.0, False
        self._whole: dict[int, Path] = {}
        self._refused: set[Path] = set()
        self._frozen_sums: dict[str, list[int]] | None = None

    def latest(self) -> int | None:
        """The newest whole step; what fails `settings.verify` on the way is set aside."""
        return self._newest(None)

    def before(self, step: int) -> int | None:
        """The newest whole step that is not behind `step`."""
        self._finish_running()
        return self._newest(step)

    def drop_after(self, step: int) -> None:
        """Forget the later ones: they belong to a branch that is given up."""
        self._finish_running()
        if is_first():
            for path in [
                place / str(later) for place in self._places for later in steps_in(place) if later > step
            ]:
                remove(path)
        self._asked, self._owed, self._newest_written = None, False, min(self._newest_written, step)
        self._whole = {s: path for s, path in self._whole.items() if s <= step}
        all_say()  # nobody goes on before they are gone

    def due(self, step: int) -> bool:
        """Whether the settings, or an earlier save that is owed, ask for a save after this step."""
        local = self.settings.local_every_steps
        return (
            step % self.settings.every_steps == 0
            or bool(local and step % local == 0)
            or self._owed
            and self._retry
        )

    def save(
        self,
        state: TrainState,
        position: dict[str, Any],
        run: dict[str, Any],
        *,
        numbers: Mapping[str, float] | None = None,
    ) -> None:
        """Begin to save the state after `state.step` steps; nothing happens if that step is saved already.

        At steps that only `local_every_steps` asks for it goes to the local folder; `wait` takes care of
        the durable one. `numbers` are what was measured last, for `settings.best`.
        """
        began, step, settings = time.perf_counter(), int(state.step), self.settings
        only_local = (
            settings.local_every_steps
            and step % settings.local_every_steps == 0
            and step % settings.every_steps
        )
        place = self._places[-1 if only_local else 0]
        if (
            self._running
            and self._running.folder == place / str(step)
            or first_says(os.path.exists(place / str(step)))[0]
        ):
            return
        jsons = {
            "position": position,
            "run": run,
            "numbers": {"time": time.time(), "metrics": dict(numbers or {})},
        }
        self._asked = Asked(step, state, jsons)
        self._begin(self._asked, place)
        self._stall_s = time.perf_counter() - began

    def poll(self, step: int) -> dict[str, float]:
        """After every step: notices the end of a save, good or bad. Numbers for the step's row, or none."""
        numbers = self._settle(0.0)
        self._report()
        return numbers

    def wait(self) -> None:
        """Until what was asked last is on the disk, in the durable folder.

        Raises:
            OutputError: it is not, after several tries.
        """
        self._settle(None)
        for pause_s in LAST_PAUSES_S:
            if self._is_safe() or self._asked.gone:
                break
            time.sleep(pause_s)
            self._begin(self._asked, self.folder)
            self._settle(None)
        self._finish_running()
        if self._owed and not self._is_safe():
            if is_first():
                remove_leftovers(self._places)
            raise output_error(self.folder, self._trouble) from self._trouble

    def close(self) -> None:
        """Wait, and give the resources back."""
        try:
            self.wait()
        finally:
            self._asked = None
            self._after.shutdown()
            if self._writer:
                self._writer.close()

    def read_json(self, step: int, item: str) -> dict[str, Any]:
        """`position`, `run` or `numbers` of a step. Raises Damaged."""
        return read_item(self._path(step), item)

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of a step, laid out as the shapes of `like` say, and bit for bit what was saved. Frozen
        parameters are no part of a checkpoint: `like` holds them as arrays.

        Raises:
            ValueError: an array has another shape or type than `like` wants, or the frozen parameters differ
            from those that the step was trained on. Damaged: it is not what was saved.
        """
        path = self._path(step)
        check_frozen(path, self._fingerprints_of(like.frozen))
        restored = state_of(read_arrays(path, arrays_of(like)), {})
        return in_memory_order(restored, rounds=self.rounds)._replace(frozen=like.frozen)

    def newest(self, like: TrainState, *, limit: int | None = None) -> tuple[int, TrainState] | None:
        """The newest step, not behind `limit`, that can be restored, and its state; what cannot be is set
        aside.
        """
        while (step := self.latest() if limit is None else self.before(limit)) is not None:
            try:
                return step, self.restore(step, like)
            except Damaged as error:
                self._set_aside(self._path(step), error.why)
        return None

    def _newest(self, limit: int | None) -> int | None:
        step, place = first_says(*(self._search(limit) if is_first() else (-1, 0)))
        if step < 0:
            return None
        self._whole[step] = self._places[place] / str(step)
        return step

    def _search(self, limit: int | None) -> tuple[int, int]:
        """Newest whole step and its place, the local one of two; (-1, 0) if there is none."""
        found = [
            (step, i)
            for i, place in enumerate(self._places)
            for step in steps_in(place)
            if limit is None or step <= limit
        ]
        for step, i in sorted(found, reverse=True):
            path = self._places[i] / str(step)
            if path in self._refused:
                continue
            why = (
                None
                if self._whole.get(step) == path
                else problem(path, self.settings.verify) or json_problem(path)
            )
            if why is None:
                return step, i
            self._set_aside(path, why)
        return -1, 0

    def _set_aside(self, path: Path, why: str) -> None:
        """Under another name it is found no more; nothing of it is lost."""
        self._whole.pop(int(path.name), None)
        kept_as = set_aside(path) if is_first() else path
        if kept_as == path:
            self._refused.add(path)
        self._event("damaged", int(path.name), why=why, kept_as=str(kept_as))

    def _path(self, step: int) -> Path:
        paths = [place / str(step) for place in self._places]
        return self._whole.get(step) or next((path for path in paths if path.exists()), paths[0])

    def _is_safe(self) -> bool:
        return self._asked is None or self._newest_written == self._asked.step

    def _begin(self, asked: Asked, place: Path) -> None:
        """Hand a state to the writer, unless it is still busy with the one before."""
        if self._running:
            self._settle(self._running.began + RUNNING_S - time.perf_counter())
        if self._running:
            self._event(
                "save_postponed",
                asked.step,
                why=f"the save of step {self._running.step} is still being written",
            )
            self._owed, self._retry_at = True, 0.0
            return
        if is_first():
            remove_leftovers(self._places)
        self._writer = self._writer or Writer(self.settings.host_gb)
        saved = asked.state._replace(frozen={})
        arrays = arrays_of(in_model_order(saved, rounds=self.rounds))
        self._warn_of_little_room(asked.step, place, sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)))
        frozen = self._fingerprints_of(asked.state.frozen)
        jsons = {**asked.jsons, "fingerprints": sealed(arrays, asked.jsons, frozen)}
        self._running = self._writer.begin(place / str(asked.step), arrays, jsons)
        if self.settings.host_gb:
            wait([self._running.watched])  # parts that are not copied yet must not be taken by the next step

    def _fingerprints_of(self, frozen: Params) -> dict[str, list[int]]:
        """They are the same at every step, and computed once."""
        if self._frozen_sums is None:
            self._frozen_sums = fingerprints(in_model_order(frozen, rounds=self.rounds))
        return self._frozen_sums

    def _warn_of_little_room(self, step: int, place: Path, needed: int) -> None:
        free = free_bytes(place)
        if is_first() and free is not None and free < 2 * needed:
            self._event("low_space", step, folder=str(place), free_bytes=free, checkpoint_bytes=needed)

    def _settle(self, limit_s: float | None) -> dict[str, float]:
        """Wait at most so long for the running save, then agree on what has come of it."""
        running = self._running
        if running is None and not self._owed:
            return {}
        if running:
            wait([running.watched], None if limit_s is None else max(limit_s, 0.0))
        done = running is not None and running.watched.done()
        flags = all_say(
            done, done and running.committed.exception() is not None, time.monotonic() >= self._retry_at
        )
        self._retry = bool(flags[0, 2])
        if running is None or not flags[:, 0].all():
            return {}
        self._running = None
        return self._failed(running) if flags[:, 1].any() else self._succeeded(running)

    def _succeeded(self, running: Running) -> dict[str, float]:
        save_s, peak_bytes = running.watched.result()
        numbers = {
            "save_s": save_s,
            "stall_s": self._stall_s,
            "peak_host_bytes": float(peak_bytes),
            "failed": float(self._n_failed),
        }
        if running.folder.parent == self.folder:
            self._newest_written, self._owed, self._n_failed_in_a_row = running.step, False, 0
        if is_first():
            self._finishing.append(
                (
                    running.step,
                    numbers,
                    self._after.submit(finish, running.folder, self.folder, self.settings),
                )
            )
        return {f"checkpoint/{name}": value for name, value in numbers.items()}

    def _failed(self, running: Running) -> dict[str, float]:
        error = running.committed.exception() or OSError("another process could not write its part")
        if not isinstance(error, DISK_TROUBLE):
            raise error
        self._n_failed += 1
        what = {"why": cause_of(error), "folder": str(running.folder), "failed": self._n_failed}
        if running.folder.parent == self.folder:
            pause_s = min(RETRY_S * 2**self._n_failed_in_a_row, LONGEST_RETRY_S)
            self._trouble, self._owed, self._retry_at = error, True, time.monotonic() + pause_s
            self._retry, self._n_failed_in_a_row = False, self._n_failed_in_a_row + 1
            what["retry_s"] = pause_s
        self._event("save_failed", running.step, **what)
        return {"checkpoint/failed": float(self._n_failed)}

    def _finish_running(self) -> None:
        """Until nothing is on its way any more."""
        self._settle(None)
        wait([future for *_, future in self._finishing])
        self._report()

    def _report(self) -> None:
        """Say which checkpoints have their manifest by now."""
        while self._finishing and self._finishing[0][2].done():
            step, numbers, future = self._finishing.pop(0)
            self._event("saved", step, **numbers, **future.result())
