"""One save: begun by the step loop, written by Orbax in the background."""

import errno
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from data_pipeline.files import OutputError
from trainer.cluster.coordination import first_says, is_first
from trainer.records.memory import host_bytes

DISK_TROUBLE = (
    OSError,
    RuntimeError,
    ValueError,
)  # in what TensorStore, Orbax and the system say that a disk is full or gone
COMMIT_S = 600  # a process that could not write keeps the others waiting so long for its part
LOOK_S = 0.02  # between two looks at the memory
ARRAYS = ("params", "optimizer")


class Running(NamedTuple):
    """A save on its way; `watched` gives its seconds and the most bytes by which the process grew, whether
    it went well or not.
    """

    step: int
    folder: Path
    began: float  # of time.perf_counter()
    committed: Future
    watched: Future


class Writer:
    """Writes one checkpoint after another; `host_gb` see `Checkpoints`.

    Arrays are written as they are: compressing floats costs several times the time of writing them and
    saves a tenth of the room.
    """

    def __init__(self, host_gb: int | None):
        arrays = {
            name: ocp.PyTreeCheckpointHandler(use_compression=False, save_device_host_concurrent_gb=host_gb)
            for name in ARRAYS
        }
        jsons = {name: ocp.JsonCheckpointHandler() for name in ("position", "run", "numbers", "fingerprints")}
        options = ocp.options.AsyncOptions(timeout_secs=COMMIT_S)
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(**arrays, **jsons), async_options=options
        )
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="checkpoint")

    def begin(self, folder: Path, arrays: Mapping[str, Any], jsons: Mapping[str, Any]) -> Running:
        """Copy the arrays and return; trouble is found in the result. All processes call it together, when
        no other save runs.
        """
        began, before = time.perf_counter(), host_bytes()
        items = {name: ocp.args.PyTreeSave(tree) for name, tree in arrays.items()}
        items |= {name: ocp.args.JsonSave(value) for name, value in jsons.items()}
        try:
            _check_room(folder.parent, jax.tree.leaves(arrays))
            self._orbax.save(folder.resolve(), args=ocp.args.Composite(**items))
            committed = self._pool.submit(self._orbax.wait_until_finished)
        except DISK_TROUBLE as error:
            committed = Future()
            committed.set_exception(error)
        return Running(
            int(folder.name), folder, began, committed, self._pool.submit(_watch, committed, began, before)
        )

    def close(self) -> None:
        """Give the threads back."""
        self._orbax.close()
        self._pool.shutdown()


def _watch(committed: Future, began: float, before: int) -> tuple[float, int]:
    peak = before
    while not wait([committed], LOOK_S).done:
        peak = max(peak, host_bytes())
    return time.perf_counter() - began, peak - before


def free_bytes(folder: Path) -> int | None:
    """Of the disk of a folder; None where it does not say."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _check_room(folder: Path, leaves: list[Any]) -> None:
    """Refuse in all processes what cannot go well: some would begin, and wait for those that could not."""
    trouble = None
    if is_first():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(folder).free < sum(leaf.nbytes for leaf in leaves):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
            probe = folder / ".probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            trouble = error
    if first_says(trouble is not None)[0]:
        raise trouble or OSError("process 0 could not begin it")


CAUSES = {  # in the text of an error, from Orbax or the system -> what we say
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
    """In a few words, why a save failed."""
    known = next((said for part, said in CAUSES.items() if part in str(error)), None)
    return known or f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"


def output_error(folder: Path, error: BaseException) -> OutputError:
    """The error of a full or read-only disk, in one sentence."""
    remedy = "free space or choose another run folder, then run the same command"
    return OutputError(f"cannot save a checkpoint in {folder}: {cause_of(error)}; {remedy}")


@contextmanager
def said(folder: Path) -> Iterator[None]:
    """Errors of the system, in one sentence."""
    try:
        yield
    except OSError as error:
        raise output_error(folder, error) from error


def log_event(name: str, step: int, **what: Any) -> None:
    """Where nobody listens to events."""
    logging.getLogger(__name__).warning(
        "%s at step %d: %s", name, step, ", ".join(f"{key}={value}" for key, value in what.items())
    )
