"""The writer of a phase's metrics: `metrics.jsonl`, for our own tools, and TensorBoard's event file."""

import json
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from trainer.events import has_step, is_number, json_lines, keep_lines, parse_line
from trainer.records.tensorboard import EventFile

METRICS_FILE, SAMPLES_FILE = "metrics.jsonl", "samples.jsonl"


class MetricsWriter:
    """Appends rows of numbers, texts and histograms; the phase resumes after `start_step` steps (0: new).

    Rows that an interrupted run wrote of later steps are removed first: cut off metrics.jsonl, hidden in
    TensorBoard. `evaluates_again` also removes the evaluation after `start_step`, which is to be repeated.
    Exactly one process of a run is `active`; the others write nothing. A thread writes, so that the step
    loop does not wait for the disk. A disk that fails later does not stop training: the failure is printed,
    and rows may be missing until a `flush` succeeds again.
    """

    def __init__(
        self, folder: Path, start_step: int, *, active: bool = True, evaluates_again: bool = False
    ):
        # A new phase also drops an old row of step 0, which an evaluation before training writes.
        first_step = start_step + 1 if start_step else 0
        if active and evaluates_again:
            _drop_evaluation(folder, start_step)
        self._sinks = (
            (_JsonLines(folder, first_step), EventFile(folder, first_step)) if active else ()
        )
        self._failing: set[type] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._pending = deque[Future]()

    def write(self, step: int, row: Mapping[str, float | int]) -> None:
        """Record numbers under stable names (`loss/train`, `eval/web/bits_per_byte`, …)."""
        now = time.time()
        numbers = {name: float(value) for name, value in row.items()}
        self._submit(lambda sink: sink.write(step, now, numbers))

    def text(self, step: int, name: str, text: str, *, prompt: str = "") -> None:
        """Record a text under a name, verbatim, and the prompt that it answers or continues."""
        self._submit(lambda sink: sink.text(step, name, text, prompt))

    def configuration(self, settings: Mapping[str, Any]) -> None:
        """Show the fields of a run in TensorBoard, as text and among the hyperparameters."""
        self._submit(lambda sink: sink.configuration(settings))

    def histogram(self, step: int, name: str, edges: np.ndarray, counts: np.ndarray) -> None:
        """Show in TensorBoard that counts[i] numbers lie between edges[i] and edges[i + 1]."""
        self._submit(lambda sink: sink.histogram(step, name, edges, counts))

    def back_to(self, step: int) -> None:
        """Remove all rows of later steps: cut off metrics.jsonl, hidden in TensorBoard."""
        # Waits, so that rows of the resumed steps come after the cut.
        self._submit(lambda sink: sink.back_to(step))
        self._wait()

    def flush(self) -> None:
        """Wait until all rows are with the operating system: a crash of this process then loses none."""
        self._submit(lambda sink: sink.flush())
        self._wait()

    def close(self) -> None:
        """Flush, close the files and end the thread."""
        self._submit(lambda sink: sink.close())
        self._wait()
        self._thread.shutdown()

    def _submit(self, action: Callable[[Any], None]) -> None:
        while self._pending and self._pending[0].done():
            # raises any error but the OSErrors that `_run` handles: it would be a bug of ours
            self._pending.popleft().result()
        # a single thread, so rows keep their order
        self._pending.append(self._thread.submit(self._run, action))

    def _wait(self) -> None:
        while self._pending:
            self._pending.popleft().result()

    def _run(self, action: Callable[[Any], None]) -> None:
        for sink in self._sinks:
            try:
                action(sink)
                self._failing.discard(type(sink))
            except OSError as error:
                # printed once until it succeeds again, not for each row
                if type(sink) not in self._failing:
                    why = f"metrics cannot be written ({error.strerror or error}); training goes on"
                    print(f"{sink.folder}: {why}", file=sys.stderr, flush=True)
                self._failing.add(type(sink))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a phase folder, oldest first; empty before anything is written.

    A number that was not finite is NaN; which of NaN and infinity it was is not recorded.
    """
    rows = []
    for row in json_lines(folder / METRICS_FILE):
        if has_step(row):
            numbers = {name: math.nan if value is None else value for name, value in row.items()}
            # What is neither a number nor null was damaged on the disk.
            rows.append({name: x for name, x in numbers.items() if is_number(x) or x != x})
    return rows


class _JsonLines:
    """metrics.jsonl with a line {"step", "time" (Unix seconds), **numbers} for each row, and samples.jsonl
    with the texts. NaN and infinity are written as null, since JSON has no word for them.
    """

    def __init__(self, folder: Path, first_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._paths = (folder / METRICS_FILE, folder / SAMPLES_FILE)
        for path in self._paths:
            if path.exists():
                _cut(path, first_step)
        self._open()

    def _open(self) -> None:
        # buffering=1: every row reaches the kernel with its newline, so a kill leaves complete rows
        self._rows, self._texts = (path.open("a", buffering=1) for path in self._paths)

    def write(self, step: int, now: float, row: dict[str, float]) -> None:
        numbers = {name: value if math.isfinite(value) else None for name, value in row.items()}
        # milliseconds are enough to order rows and to charge time
        self._rows.write(json.dumps({"step": step, "time": round(now, 3), **numbers}) + "\n")

    def text(self, step: int, name: str, text: str, prompt: str) -> None:
        row = {"step": step, "time": round(time.time(), 3), "name": name, "text": text}
        if prompt:
            row["prompt"] = prompt
        self._texts.write(json.dumps(row, ensure_ascii=False) + "\n")

    def histogram(self, step: int, name: str, edges: np.ndarray, counts: np.ndarray) -> None:
        """Do nothing: histograms go to TensorBoard alone."""

    def configuration(self, settings: Mapping[str, Any]) -> None:
        """Do nothing: job.yaml has it."""

    def back_to(self, step: int) -> None:
        self.close()
        try:
            for path in self._paths:
                _cut(path, step + 1)
        finally:
            self._open()

    def flush(self) -> None:
        for file in (self._rows, self._texts):
            file.flush()

    def close(self) -> None:
        for file in (self._rows, self._texts):
            file.close()


def _drop_evaluation(folder: Path, step: int) -> None:
    """Remove the numbers and texts of an evaluation after `step`; the row of the step itself stays."""

    def is_kept(line: bytes) -> bool:
        row = parse_line(line) or {}
        # every training step has a loss, and no evaluation calls a number of its own so
        return row.get("step") != step or "loss/train" in row

    keep_lines(folder / METRICS_FILE, is_kept)
    keep_lines(folder / SAMPLES_FILE, is_kept)


def _cut(path: Path, first_step: int) -> None:
    """Keep only the rows before `first_step`, by one rename: a crash leaves the old file or the new one."""

    def is_kept(line: bytes) -> bool:
        row = parse_line(line) or {}  # a torn line has no step and is dropped
        return has_step(row) and row["step"] < first_step

    keep_lines(path, is_kept)
