"""A single save: started by the step loop, written by Orbax in the background."""

import errno
import itertools
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from data_pipeline.files import OutputError
from trainer.cluster.coordination import client_of_several, first_says, is_first
from trainer.memory import host_bytes

# what TensorStore, Orbax and the system raise when a disk is full or missing
DISK_TROUBLE = (OSError, RuntimeError, ValueError)
COMMIT_S = (
    600  # how long processes wait for one that could not write its shards; Orbax's default is 1,200
)
SAVES = itertools.count(1)  # of this process, over all phases
OTHER_FAILED = "another process could not write its part"
SAMPLE_S = 0.02  # between two samples of the process's memory
ARRAY_ITEMS = ("params", "optimizer")
JSON_ITEMS = ("position", "run", "numbers", "fingerprints")


class Running(NamedTuple):
    """A save that is being written."""

    step: int
    folder: Path
    began: float  # value of time.perf_counter()
    committed: Future  # done when all processes have written; raises what went wrong
    measured: Future  # (seconds, most bytes by which the process grew), also after a failure


class Writer:
    """Writes one checkpoint after another; for `host_gb` see `Checkpoints`.

    Arrays are written as they are: compressing floats costs several times the time of writing them and saves
    a tenth of the space.
    """

    def __init__(self, host_gb: int | None):
        handlers: dict[str, Any] = {}
        for name in ARRAY_ITEMS:
            handlers[name] = ocp.PyTreeCheckpointHandler(
                use_compression=False, save_device_host_concurrent_gb=host_gb
            )
        for name in JSON_ITEMS:
            handlers[name] = ocp.JsonCheckpointHandler()
        self._save = 0  # number of the running save
        self._n_waits = 0  # of that save, for the other processes
        self._has_come = False  # whether the others need not wait for this process
        self._abandoned = Event()
        self._barriers = ThreadPoolExecutor(2, thread_name_prefix="checkpoint barrier")
        options = ocp.options.AsyncOptions(
            timeout_secs=COMMIT_S, barrier_sync_fn=self._wait_for_all
        )
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(**handlers), async_options=options
        )
        # Two threads: one waits for Orbax, the other samples the memory meanwhile.
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="checkpoint")

    def begin(self, folder: Path, arrays: Mapping[str, Any], jsons: Mapping[str, Any]) -> Running:
        """Copy the arrays to the host and return; what goes wrong is raised by the result's `committed`.

        All processes call it together, when no other save runs.
        """
        began = time.perf_counter()
        bytes_before = host_bytes()
        self._save = next(SAVES)
        self._n_waits = 0
        self._has_come = False
        self._abandoned.clear()
        items = {name: ocp.args.PyTreeSave(tree) for name, tree in arrays.items()}
        items |= {name: ocp.args.JsonSave(value) for name, value in jsons.items()}
        try:
            _check_disk(folder.parent, jax.tree.leaves(arrays))
            self._orbax.save(folder.resolve(), args=ocp.args.Composite(**items))
            committed = self._pool.submit(self._orbax.wait_until_finished)
        except DISK_TROUBLE as error:
            # Reported like a failure during the save, so that callers handle a single kind.
            committed = Future()
            committed.set_exception(error)
        measured = self._pool.submit(_measure, committed, began, bytes_before)
        return Running(int(folder.name), folder, began, committed, measured)

    def abandon(self, *, failed_here: bool) -> None:
        """Let the running save fail in every process, since one has said that it could not write its part.

        Call it again as long as the save runs: another process may fail later.
        """
        self._abandoned.set()
        client = client_of_several()
        if client and failed_here and not self._has_come:
            # It comes to where the others wait: a thread that waited on would abort the process at its end.
            self._has_come = True
            client.key_value_set(f"{self._failures()}{jax.process_index()}", "")
            self._come(COMMIT_S * 1000)

    def _wait_for_all(self, *, key: str, timeout_ms: int) -> None:
        """Wait until all processes have written; ends early if the save is abandoned.

        Orbax's own wait would last `COMMIT_S` although the process that failed never comes.
        """
        client = client_of_several()
        if client is None:
            return
        self._has_come = True
        everybody = self._come(timeout_ms)
        while not wait([everybody], SAMPLE_S).done:
            if self._abandoned.is_set():
                raise OSError(OTHER_FAILED)
        everybody.result()
        # One that has failed has said so before it came.
        if client.key_value_dir_get(self._failures()):
            raise OSError(OTHER_FAILED)
        self._has_come = False

    def _failures(self) -> str:
        return f"save {self._save} failed in/"

    def _come(self, timeout_ms: int) -> Future:
        # Named by numbers that all processes count alike, as a name is good for one wait alone.
        name = f"save {self._save}, wait {self._n_waits}"
        self._n_waits += 1
        return self._barriers.submit(client_of_several().wait_at_barrier, name, timeout_ms)

    def close(self) -> None:
        """Wait for the threads and end them."""
        self._orbax.close()
        self._pool.shutdown()
        self._barriers.shutdown()


def _measure(committed: Future, began: float, bytes_before: int) -> tuple[float, int]:
    # The growth is the host memory that a save needs beside the run; it tells whether to set `host_gb`.
    peak_bytes = bytes_before
    while not wait([committed], SAMPLE_S).done:
        peak_bytes = max(peak_bytes, host_bytes())
    return time.perf_counter() - began, peak_bytes - bytes_before


def free_bytes(folder: Path) -> int | None:
    """Free space on the disk of a folder; None where it cannot be asked."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _check_disk(folder: Path, leaves: list[Any]) -> None:
    """Raise in all processes if process 0 cannot write: else the others would start, and wait for it."""
    failure = None
    if is_first():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(folder).free < sum(leaf.nbytes for leaf in leaves):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
            probe = (
                folder / ".probe"
            )  # a missing write permission shows only when something is written
            probe.touch()
            probe.unlink()
        except OSError as error:
            failure = error
    if first_says(failure is not None)[0]:
        raise failure or OSError("process 0 could not begin it")


CAUSES = {  # part of an error text of Orbax or the system -> cause in our words
    "No space left": "no space left on the device",
    "RESOURCE_EXHAUSTED": "no space left on the device",
    "File too large": "it is larger than a file may be there",
    "quota": "the disk quota is used up",
    "ermission": "permission denied",
    "Read-only": "read-only file system",
    "Not a directory": "a file has that name",
    "File exists": "a file has that name",
}


def cause_of(error: BaseException) -> str:
    """Why a save failed: one of CAUSES, else type and first line of the error."""
    text = str(error)
    for piece, cause in CAUSES.items():
        if piece in text:
            return cause
    first_line = (text.splitlines() or [""])[0][:160]
    return f"{type(error).__name__}: {first_line}"


def output_error(folder: Path, error: BaseException) -> OutputError:
    """The error to raise when checkpoints cannot be written in `folder`."""
    remedy = "free space or choose another run folder, then run the same command"
    return OutputError(f"cannot save a checkpoint in {folder}: {cause_of(error)}; {remedy}")


@contextmanager
def system_errors_as_output_error(folder: Path) -> Iterator[None]:
    """Turn an OSError raised inside the block into an OutputError about `folder`."""
    try:
        yield
    except OSError as error:
        raise output_error(folder, error) from error


def log_event(name: str, step: int, **fields: Any) -> None:
    """The default for events, where no phase records them: a warning in the log."""
    shown = ", ".join(f"{key}={value}" for key, value in fields.items())
    logging.getLogger(__name__).warning("%s at step %d: %s", name, step, shown)
