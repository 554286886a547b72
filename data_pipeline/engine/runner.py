"""Where corpus work runs: daft's embedded runner on this machine, or the same plan on a Ray cluster."""

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

# Set before daft is imported, which would report its use to its makers.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")  # the launcher has its own
# Otherwise daft imports Ray, where that is installed, to look for a cluster.
os.environ.setdefault("DAFT_RUNNER", "native")

import daft  # noqa: E402
from daft.execution.udf import SharedMemoryTransport
from daft.pickle import dumps, loads
from pydantic import BaseModel, PositiveInt

from data_pipeline.temporary import SHARED_MEMORY, files_in_own_folder, own_folder

MAX_LOST = 3  # workers lost in a row without a task done in between
# how daft's embedded runner reports a dead worker: by a RuntimeError with one of these words
LOST = ("closed the connection unexpectedly", "process has terminated")


class WorkerLost(OSError):
    """Workers keep dying at the same work."""


class Engine(BaseModel, frozen=True, extra="forbid", strict=True):
    """Who does the work. What is written does not depend on it.

    Attributes:
        workers: Processes at work at a time; None = one a core. With 1, or one task, the work is done in
        this process.
        ray: Address of a Ray cluster ("auto": the one this machine belongs to); None = this machine alone.
        All its machines must see the run folder and the input under the same paths.
    """

    workers: PositiveInt | None = None
    ray: str | None = None

    def map[T, R](self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
        """(number of the task, what `function` made of it), in the order they finish; tasks of a worker
        that died are done again.

        `function` and the tasks travel by pickle: a module's function, or a `functools.partial` of one. It
        must be safe to call twice.

        Raises:
            WorkerLost: workers die again and again. Otherwise what `function` raises, the first time it does.
        """
        if self.ray is None and min(self.n_workers(), len(tasks)) <= 1:
            # Starting a process takes seconds, and errors are easier to read without one.
            yield from enumerate(map(function, tasks))
            return
        self.start()
        waiting = dict(enumerate(tasks))
        n_lost = 0  # workers in a row
        while waiting:
            try:
                # Sockets to workers, which nobody deletes after a kill.
                with files_in_own_folder():
                    for number, outcome in self._outcomes(function, waiting):
                        n_lost = 0
                        del waiting[number]
                        yield number, outcome
            except RuntimeError as error:
                # A dead worker ends daft's query; the remaining tasks go into a new one.
                n_lost += 1
                _require_lost(error, n_lost, waiting)

    def start(self) -> None:
        """Choose daft's runner, once a process."""
        if self.ray is not None:
            _join_ray(self.ray)
        name_segments(own_folder().name)
        # Results come in the order in which tasks finish, since their sizes differ.
        daft.set_execution_config(maintain_order=False)

    def n_workers(self) -> int:
        """Processes at work at a time."""
        if self.workers is not None:
            return self.workers
        if self.ray is None:
            return len(os.sched_getaffinity(0))  # of a container or a batch job, not of the machine
        import ray

        self.start()
        return max(1, math.floor(ray.cluster_resources().get("CPU", 1)))

    def _outcomes(self, function: Callable, waiting: dict[int, Any]) -> Iterator[tuple[int, Any]]:
        n_workers = min(self.n_workers(), len(waiting))
        worker = daft.cls(_Worker, use_process=True, max_concurrency=n_workers, max_retries=0)
        tasks = {"number": list(waiting), "task": [dumps(task) for task in waiting.values()]}
        work = worker(dumps(function), tuple(sys.path), own_folder().name)
        outcome = work.do(daft.col("task")).alias("outcome")
        # Batches of one task, or a worker would be given many at a time.
        frame = daft.from_pydict(tasks).into_batches(1).select("number", outcome)
        for row in frame.iter_rows():
            yield row["number"], opened(row["outcome"])


def _require_lost(error: RuntimeError, n_lost: int, waiting: dict[int, Any]) -> None:
    """Raises unless the error is a worker's death, and not one too many."""
    if not any(words in str(error) for words in LOST):
        raise error
    if n_lost == MAX_LOST:
        first = str(next(iter(waiting.values())))
        raise WorkerLost(
            f"workers died {MAX_LOST} times in a row, about at {first:.200}; give them more memory"
        ) from error


class _Worker:
    """One process: the function is unpickled once."""

    def __init__(self, function: bytes, path: tuple[str, ...], owner: str):
        # Its answers too are in shared memory.
        name_segments(owner)
        # The parent's sys.path, because `function` may be of a user's own module.
        sys.path += [entry for entry in path if entry not in sys.path]
        self.function = loads(function)

    @daft.method(return_dtype=daft.DataType.binary())
    def do(self, task: bytes) -> bytes:
        """The sealed outcome of a task."""
        return sealed(self.function, loads(task))


@cache
def name_segments(owner: str) -> None:
    """Name the shared memory by which daft sends tasks and outcomes after `owner`, the folder of
    `own_folder`.

    One process makes a segment and another one deletes it, so after a kill nobody does, and daft's own names
    do not tell whose they are.
    """
    if not SHARED_MEMORY.is_dir():
        return
    write = SharedMemoryTransport.write_and_close

    def named(transport: SharedMemoryTransport, data: bytes) -> tuple[str, int]:
        name, size = write(transport, data)
        # A segment is a file there; it is not open between the two processes.
        os.rename(SHARED_MEMORY / name, SHARED_MEMORY / f"{owner}-{name}")
        return f"{owner}-{name}", size

    SharedMemoryTransport.write_and_close = named


def sealed(function: Callable, argument: Any) -> bytes:
    """What `function` returns or raises, pickled: so that the user sees its sentence and not the engine's
    traceback.
    """
    try:
        return dumps((True, function(argument)))
    except Exception as error:  # any error is raised again by `opened`
        return dumps((False, error))


def opened(outcome: bytes) -> Any:
    """What a sealed function returned; what it raised is raised here."""
    worked, result = loads(outcome)
    if not worked:
        raise result
    return result


@cache
def _join_ray(address: str) -> None:
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            'engine.ray needs Ray, which is not installed: pip install "meshwright[ray]"'
        ) from error
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"engine.ray={address!r}: no Ray cluster answers there ({error}); start one, or leave it out"
            ) from error
    daft.set_runner_ray(address=None if address == "auto" else address, noop_if_initialized=True)
