"""Checkpoints of a phase: a save starts between two steps, and is written and hashed in the background."""

import math
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import jax

from model.api import Params
from model.stages import in_memory_order, in_model_order
from trainer.checkpoints.catalogue import Catalogue
from trainer.checkpoints.retention import Checkpoints
from trainer.checkpoints.saving import (
    DISK_TROUBLE,
    OTHER_FAILED,
    Running,
    Writer,
    cause_of,
    free_bytes,
    log_event,
    output_error,
    system_errors_as_output_error,
)
from trainer.checkpoints.stored import (
    Damaged,
    arrays_of,
    check_frozen,
    read_arrays,
    read_item,
    sealed,
    state_of,
)
from trainer.checkpoints.tidying import finish, local_folder, remove_leftovers
from trainer.cluster.coordination import all_say, first_says, is_first
from trainer.fingerprints import fingerprints
from trainer.state import TrainState

# A save that is due waits until the previous one has had this long, counted from its start; if the disk is
# slower, the new save is postponed.
RUNNING_S = 30.0
RETRY_S, LONGEST_RETRY_S = (
    1.0,
    300.0,
)  # first and longest pause before a retry; it doubles per failure
AGREE_S = 1.0  # how often processes that wait for a save ask one another whether it has failed
LAST_PAUSES_S = (
    0.0,
    1.0,
    2.0,
    4.0,
)  # pauses before the retries of `wait`, when no later step follows


class Asked(NamedTuple):
    """The save asked for last; its arrays are donated to the next step."""

    step: int
    state: TrainState
    jsons: dict[str, Any]

    @property
    def donated(self) -> bool:
        """Whether the arrays were donated, so that this state can no longer be saved."""
        return any(leaf.is_deleted() for leaf in jax.tree.leaves(self.state.trainable))


class Finishing(NamedTuple):
    """A checkpoint that is written and is being hashed; the result of `done` are fields of its event."""

    step: int
    numbers: dict[str, float]
    done: Future


class Checkpointer:
    """The checkpoints of one phase, in `folder/checkpoints/<step>`, and local copies by `settings.local`.

    A step's folder gets its name once everything is written; its manifest follows. Disk trouble does not end
    training: it is reported as an event and counted, and after a pause `due` asks for a save of a later
    step's state. On disk layers are in the order of the model, so that any mesh can resume; `rounds` is how
    often a microbatch passes the pipeline's stages. All processes must call all methods in the same order;
    `event(name, step, **fields)` is called for what happens.
    """

    def __init__(
        self,
        folder: Path,
        settings: Checkpoints,
        *,
        rounds: int = 1,
        event: Callable[..., None] = log_event,
    ):
        self.folder = folder / "checkpoints"
        self.settings = settings
        self.rounds = rounds
        self._event = event
        with system_errors_as_output_error(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._folders = [self.folder]
            if settings.local:
                self._folders.append(local_folder(self.folder, settings.local))
        self._catalogue = Catalogue(self._folders, settings.verify, event)
        self._writer: Writer | None = None
        # A single thread, so manifests are made and reported in the order of steps.
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="manifest")
        self._finishing: list[Finishing] = []
        self._running: Running | None = None
        self._asked: Asked | None = None
        self._newest_durable = -1  # step of the last save that succeeded in the durable folder
        self._frozen_sums: dict[str, list[int]] | None = None
        self._stall_s = 0.0  # for how long the last save stopped the loop
        self._n_failed = 0
        self._n_failed_in_a_row = 0
        self._error: BaseException | None = None  # of the last failure
        # A save that failed or was postponed is owed. `_retry`: whether process 0 had reached `_retry_at` at
        # the last step; each process's own clock could decide differently.
        self._owed = False
        self._postponed = False  # it is owed since an earlier one was still being written
        self._retry_at = 0.0
        self._retry = False

    def verify_latest(self) -> int | None:
        """The newest step that passes verification; newer damaged ones are set aside."""
        return self._catalogue.verify_newest()

    def verify_before(self, step: int) -> int | None:
        """The newest step up to `step` that passes verification, once the running saves are done."""
        # the save that is still running may be of the very step that is wanted
        self._finish_running()
        return self._catalogue.verify_newest(step)

    def restore_newest(
        self, like: TrainState, *, limit: int | None = None
    ) -> tuple[int, TrainState] | None:
        """(step, state) of the newest step up to `limit` that can be restored; damaged ones are set aside."""
        while True:
            step = self.verify_latest() if limit is None else self.verify_before(limit)
            if step is None:
                return None
            try:
                return step, self.restore(step, like)
            except Damaged as error:
                self._catalogue.set_aside(self._catalogue.path_of(step), error.why)

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of a step, bit for bit what was saved, laid out as the shapes of `like` say.

        Checkpoints do not hold frozen parameters: `like` has them as arrays.

        Raises:
            ValueError: an array has another shape or dtype than in `like`, or the frozen parameters differ
                from those that the step was trained on.
            Damaged: the checkpoint is not what was saved.
        """
        path = self._catalogue.path_of(step)
        # Before any array is read: an adapter on a wrong base is refused within seconds.
        check_frozen(path, self._fingerprints_of(like.frozen))
        restored = state_of(read_arrays(path, arrays_of(like)), {})
        return in_memory_order(restored, rounds=self.rounds)._replace(frozen=like.frozen)

    def read_json(self, step: int, item: str) -> dict[str, Any]:
        """Read `position`, `run` or `numbers` of a step.

        Raises:
            Damaged: it is not what was saved.
        """
        return read_item(self._catalogue.path_of(step), item)

    def drop_after(self, step: int) -> None:
        """Delete all later steps, which a rollback abandons."""
        self._finish_running()
        # A save that is still owed would be of the abandoned steps.
        self._asked = None
        self._owed = False
        self._postponed = False
        self._newest_durable = min(self._newest_durable, step)
        self._catalogue.remove_after(step)

    def due(self, step: int) -> bool:
        """Whether to save after this step: the settings ask for it, or an earlier save is owed."""
        # not while another save is written: it would be postponed again at every step
        retries = self._owed and self._retry and self._running is None
        return step % self.settings.every_steps == 0 or self._local_is_due(step) or retries

    def _local_is_due(self, step: int) -> bool:
        every = self.settings.local_every_steps
        return every is not None and step % every == 0

    def save(
        self,
        state: TrainState,
        position: dict[str, Any],
        run: dict[str, Any],
        *,
        numbers: Mapping[str, float] | None = None,
    ) -> None:
        """Start to save the state after `state.step` steps; does nothing if that step is saved already.

        At steps that only `local_every_steps` asks for, it goes to the local folder; if the run ends there,
        `wait` makes the durable save. `numbers` are the latest evaluation's, for `settings.best`.
        """
        began = time.perf_counter()
        step = int(state.step)
        # At steps of both intervals only the durable save is made: one copy of the state is enough.
        only_local = self._local_is_due(step) and step % self.settings.every_steps != 0
        folder = self._folders[-1 if only_local else 0]
        path = folder / str(step)
        if self._running and self._running.folder == path:
            return
        # (A rollback, after which a step comes again with another state, has deleted the step's folder.)
        if first_says(os.path.exists(path))[0]:
            return
        # The time is saved for `keep_every_s`: the files' own times change when a folder is copied.
        numbers_item = {"time": time.time(), "metrics": dict(numbers or {})}
        self._asked = Asked(
            step, state, {"position": position, "run": run, "numbers": numbers_item}
        )
        self._begin(self._asked, folder)
        self._stall_s = time.perf_counter() - began

    def poll(self, step: int) -> dict[str, float]:
        """Call after every step: notices whether the running save has ended or failed; returns numbers for
        the step's row.
        """
        numbers = self._settle(0.0)
        self._report_hashed()
        return numbers

    def wait(self) -> None:
        """Return when the state passed to the last `save` is in the durable folder.

        Raises:
            OutputError: it is not, after several tries.
        """
        self._settle(None)
        # Retried here with the same state: there is no later step whose state could be saved instead.
        for pause_s in LAST_PAUSES_S:
            if self._is_durable() or self._asked.donated:
                break
            time.sleep(pause_s)
            self._begin(self._asked, self.folder)
            self._settle(None)
        self._finish_running()
        if self._owed and not self._is_durable():
            if is_first():
                remove_leftovers(self._folders)
            raise output_error(self.folder, self._error) from self._error

    def close(self) -> None:
        """Wait for the last save, and end the threads.

        Raises:
            OutputError: it could not be written.
        """
        try:
            self.wait()
        finally:
            self._asked = None
            self._hasher.shutdown()
            if self._writer:
                self._writer.close()

    def _is_durable(self) -> bool:
        return self._asked is None or self._newest_durable == self._asked.step

    def _begin(self, asked: Asked, folder: Path) -> None:
        """Hand a state to the writer, or postpone the save if the writer is still busy."""
        if self._running:
            self._settle(self._running.began + RUNNING_S - time.perf_counter())
        if self._running:
            why = f"the save of step {self._running.step} is still being written"
            self._event("save_postponed", asked.step, why=why)
            self._owed = True
            self._postponed = True
            self._retry_at = 0.0
            return
        self._postponed = False
        if is_first():
            remove_leftovers(self._folders)
        # made on first use: a phase that only restores needs no threads
        if self._writer is None:
            self._writer = Writer(self.settings.host_gb)
        saved = asked.state._replace(frozen={})
        arrays = arrays_of(in_model_order(saved, rounds=self.rounds))
        self._warn_of_little_space(asked.step, folder, arrays)
        frozen = self._fingerprints_of(asked.state.frozen)
        jsons = {**asked.jsons, "fingerprints": sealed(arrays, asked.jsons, frozen)}
        self._running = self._writer.begin(folder / str(asked.step), arrays, jsons)
        if self.settings.host_gb:
            # With a limit on host memory Orbax copies shards piece by piece while it writes: the next step
            # must not donate them before that.
            wait([self._running.measured])

    def _fingerprints_of(self, frozen: Params) -> dict[str, list[int]]:
        """Fingerprints of the frozen parameters, computed once, since no step changes them."""
        if self._frozen_sums is None:
            self._frozen_sums = fingerprints(in_model_order(frozen, rounds=self.rounds))
        return self._frozen_sums

    def _warn_of_little_space(self, step: int, folder: Path, arrays: Mapping[str, Any]) -> None:
        if not is_first():
            return
        free = free_bytes(folder)
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
        if free is not None and free < 2 * needed:  # room for this save and the next
            self._event(
                "low_space", step, folder=str(folder), free_bytes=free, checkpoint_bytes=needed
            )

    def _settle(self, limit_s: float | None) -> dict[str, float]:
        """Wait at most `limit_s` (None: forever) for the running save, then agree with all processes on
        whether it has ended, and how; returns numbers for the step's row.
        """
        running = self._running
        if running is None and not self._owed:
            return {}
        ends_at = math.inf if limit_s is None else time.perf_counter() + limit_s
        while True:
            remaining_s = max(ends_at - time.perf_counter(), 0.0)
            if running:
                # `measured` ends after `committed`, so when it is done both are.
                wait([running.measured], min(remaining_s, AGREE_S))
            done = running is not None and running.measured.done()
            failed = done and running.committed.exception() is not None
            late = remaining_s <= AGREE_S
            # One collective for all answers, so that every process takes the same branch below.
            answers = all_say(done, failed, time.monotonic() >= self._retry_at, late)
            self._retry = bool(answers[0, 2])
            if running and answers[:, 1].any():
                # If any process failed, the checkpoint is incomplete; those that wait for it need not.
                self._writer.abandon(failed_here=failed)
            if running is None or answers[:, 0].all() or answers[0, 3]:
                break
        if running is None or not answers[:, 0].all():
            return {}
        self._running = None
        return self._failed(running) if answers[:, 1].any() else self._succeeded(running)

    def _succeeded(self, running: Running) -> dict[str, float]:
        save_s, peak_bytes = running.measured.result()
        numbers = {
            "save_s": save_s,
            "stall_s": self._stall_s,
            "peak_host_bytes": float(peak_bytes),
            "failed": float(self._n_failed),
        }
        if running.folder.parent == self.folder:
            self._newest_durable = running.step
            self._owed = self._postponed
            self._n_failed_in_a_row = 0
        if is_first():
            # in a thread: hashing reads back everything that was written, while the loop goes on
            done = self._hasher.submit(finish, running.folder, self.folder, self.settings)
            self._finishing.append(Finishing(running.step, numbers, done))
        return {f"checkpoint/{name}": value for name, value in numbers.items()}

    def _failed(self, running: Running) -> dict[str, float]:
        error = running.committed.exception() or OSError(OTHER_FAILED)
        # any other error is a bug, which a retry would not fix
        if not isinstance(error, DISK_TROUBLE):
            raise error
        self._n_failed += 1
        fields = {"why": cause_of(error), "folder": str(running.folder), "failed": self._n_failed}
        # A failed local copy is not retried: the next durable save makes up for it.
        if running.folder.parent == self.folder:
            pause_s = min(RETRY_S * 2**self._n_failed_in_a_row, LONGEST_RETRY_S)
            self._error = error
            self._owed = True
            self._retry = False
            self._retry_at = time.monotonic() + pause_s
            self._n_failed_in_a_row += 1
            fields["retry_s"] = pause_s
        self._event("save_failed", running.step, **fields)
        return {"checkpoint/failed": float(self._n_failed)}

    def _finish_running(self) -> None:
        """Wait until no save is being written or hashed."""
        self._settle(None)
        wait([finishing.done for finishing in self._finishing])
        self._report_hashed()

    def _report_hashed(self) -> None:
        """Report each checkpoint that is hashed by now as a "saved" event, in the order of steps."""
        while self._finishing and self._finishing[0].done.done():
            finished = self._finishing.pop(0)
            self._event("saved", finished.step, **finished.numbers, **finished.done.result())
