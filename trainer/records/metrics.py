"""Where a phase's numbers go: `metrics.jsonl`, which everything of ours reads, and TensorBoard's own event
file.
"""

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

from data_pipeline.files import write_bytes
from trainer.records.tensorboard import EventFile

METRICS_FILE, SAMPLES_FILE = "metrics.jsonl", "samples.jsonl"


class MetricsWriter:
    """Appends rows of numbers, and texts, of a phase that goes on after `start_step` steps (0: from the
    beginning).

    What an interrupted run wrote after `start_step` is taken back first: cut off metrics.jsonl, hidden in
    TensorBoard. Exactly one process of a run is `active`; the others write nothing. A disk that is full
    later on stops nobody: it is said, and what is written until the first `flush` with room again may be
    missing. A thread writes, so that the step loop does not wait for it.
    """

    def __init__(self, folder: Path, start_step: int, *, active: bool = True):
        first_step = start_step + 1 if start_step else 0
        self._sinks = (_JsonLines(folder, first_step), EventFile(folder, first_step)) if active else ()
        self._failing: set[type] = set()
        self._thread, self._under_way = ThreadPoolExecutor(1, thread_name_prefix="metrics"), deque[Future]()

    def write(self, step: int, row: Mapping[str, float | int]) -> None:
        """Record numbers under stable names (`loss/train`, `eval/web/bits_per_byte`, …)."""
        now = time.time()
        self._each(lambda sink: sink.write(step, now, {name: float(value) for name, value in row.items()}))

    def text(self, step: int, name: str, text: str) -> None:
        """Show a text in TensorBoard, character for character."""
        self._each(lambda sink: sink.text(step, name, text))

    def histogram(self, step: int, name: str, edges: np.ndarray, counts: np.ndarray) -> None:
        """Show how many numbers lie between two neighbours of `edges`, which are one more than `counts`, in
        TensorBoard.
        """
        self._each(lambda sink: sink.histogram(step, name, edges, counts))

    def back_to(self, step: int) -> None:
        """Take back all that was written of later steps: cut off metrics.jsonl, hidden in TensorBoard."""
        self._each(lambda sink: sink.back_to(step))
        self._wait()

    def flush(self) -> None:
        """Hand everything written so far to the operating system: from here on a crash of this process
        loses none of it.
        """
        self._each(lambda sink: sink.flush())
        self._wait()

    def close(self) -> None:
        """Flush and close the files."""
        self._each(lambda sink: sink.close())
        self._wait()
        self._thread.shutdown()

    def _each(self, do: Callable[[Any], None]) -> None:
        while self._under_way and self._under_way[0].done():
            self._under_way.popleft().result()  # raises what was no trouble with the disk
        self._under_way.append(self._thread.submit(self._do, do))

    def _wait(self) -> None:
        while self._under_way:
            self._under_way.popleft().result()

    def _do(self, do: Callable[[Any], None]) -> None:
        for sink in self._sinks:
            try:
                do(sink)
                self._failing.discard(type(sink))
            except OSError as error:
                if type(sink) not in self._failing:
                    why = f"metrics cannot be written ({error.strerror or error}); training goes on"
                    print(f"{sink.folder}: {why}", file=sys.stderr, flush=True)
                self._failing.add(type(sink))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a phase folder, oldest first; a number that was not finite is NaN. Empty when nothing is
    written yet.
    """
    rows = read_rows(folder / METRICS_FILE)
    return [{name: math.nan if value is None else value for name, value in row.items()} for row in rows]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file of ours, each with a "step"; without those that a killed process left
    torn.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    return [row for row in map(_parsed, lines) if row]


def _parsed(line: str) -> dict[str, Any]:
    """A torn line is read as empty."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return row if isinstance(row, dict) and "step" in row else {}


class _JsonLines:
    """One line a row: {"step", "time" (Unix seconds), **numbers}; null stands for a number that is not
    finite, which JSON cannot say.

    Texts go to a file of their own, {"step", "time", "name", "text"}.
    """

    def __init__(self, folder: Path, first_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._paths = folder, (folder / METRICS_FILE, folder / SAMPLES_FILE)
        for path in self._paths:
            if path.exists():
                _cut(path, first_step)
        self._open()

    def _open(self) -> None:
        """A line reaches the kernel at its end, so that a kill leaves whole rows."""
        self._rows, self._texts = (path.open("a", buffering=1) for path in self._paths)

    def write(self, step: int, now: float, row: dict[str, float]) -> None:
        numbers = {name: value if math.isfinite(value) else None for name, value in row.items()}
        self._rows.write(json.dumps({"step": step, "time": round(now, 3), **numbers}) + "\n")

    def text(self, step: int, name: str, text: str) -> None:
        self._texts.write(
            json.dumps(
                {"step": step, "time": round(time.time(), 3), "name": name, "text": text}, ensure_ascii=False
            )
            + "\n"
        )

    def histogram(self, step: int, name: str, edges: np.ndarray, counts: np.ndarray) -> None:
        """Histograms are for TensorBoard alone."""

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


def _cut(path: Path, first_step: int) -> None:
    """Keep the rows before `first_step`, in one rename: a crash leaves the old file or the new one."""
    kept = [
        line for line in path.read_text().splitlines() if _parsed(line).get("step", first_step) < first_step
    ]
    write_bytes(path, "".join(line + "\n" for line in kept).encode())
