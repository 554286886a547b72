"""events.jsonl of a phase: what happened, one JSON line each, readable also after a kill."""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from data_pipeline.files import write_bytes

EVENTS_FILE = "events.jsonl"
# Beyond every step that a run makes: a flipped digit may make a number of any size.
LAST_STEP = 1e15
GREATEST = 1e300  # of a number; beyond it sums would overflow


def append_event(folder: Path, name: str, step: int | None, /, **fields: Any) -> None:
    """Append {"time" (Unix seconds), "event", "step", **fields} to events.jsonl.

    A full or failing disk does not stop training: the line then goes to stderr.
    """
    row = {"time": time.time(), "event": name, "step": step}
    for key, value in fields.items():
        not_finite = isinstance(value, float) and not math.isfinite(value)
        row[key] = None if not_finite else value  # JSON has no word for NaN or infinity
    line = json.dumps(row)
    try:
        # "a+" can read the end of the last line, and always writes at the end of the file.
        with (folder / EVENTS_FILE).open("a+b") as file:
            # A killed process may have left half a line; this one must not be appended to it.
            file.write(b"" if _ends_in_newline(file) else b"\n")
            file.write(f"{line}\n".encode())
    except OSError as error:
        print(
            f"{folder / EVENTS_FILE}: {error.strerror}; not written: {line}",
            file=sys.stderr,
            flush=True,
        )


def _ends_in_newline(file: IO[bytes]) -> bool:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def read_events(folder: Path) -> list[dict[str, Any]]:
    """The events of a phase folder, oldest first."""
    return [row for row in json_lines(folder / EVENTS_FILE) if is_event(row)]


def is_event(row: dict[str, Any]) -> bool:
    """Whether a row has what every event has: a name, a time, and a step or null."""
    is_named = isinstance(row.get("event"), str) and "step" in row
    return is_named and is_number(row.get("time")) and (row["step"] is None or has_step(row))


def has_step(row: dict[str, Any]) -> bool:
    """Whether the step of a row is one: a damaged line may still be JSON, with another value there."""
    step = row.get("step")
    # JSON's true is an int to Python
    return isinstance(step, int) and not isinstance(step, bool) and 0 <= step < LAST_STEP


def is_number(value: Any) -> bool:
    """Whether a value is a number that can be computed with; NaN and infinity are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < GREATEST


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file of lines, oldest first; none if there is no such file.

    A line that is no JSON object is left out: a killed process leaves its last one torn.
    """
    if not path.exists():
        return
    # "replace": a torn line may end inside a multi-byte character, which must not make the others unreadable.
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            row = parse_line(line)
            if row is not None:
                yield row


def keep_lines(path: Path, is_kept: Callable[[bytes], bool]) -> list[bytes]:
    """Rewrite a file with those of its lines that `is_kept` accepts, by one rename; returns the others.

    Lines are copied as they are, so rows keep fields that this version does not know. A file that would stay
    the same, or that is not there, is not written.
    """
    if not path.exists():
        return []
    data = path.read_bytes()
    kept_lines: list[bytes] = []
    others: list[bytes] = []
    # Bytes, split at newlines alone: a damaged line need not be UTF-8, and a text may hold U+2028,
    # at which `str.splitlines` would cut its row in two.
    for line in filter(None, data.split(b"\n")):
        (kept_lines if is_kept(line) else others).append(line)
    kept = b"".join(line + b"\n" for line in kept_lines)
    if kept != data:
        write_bytes(path, kept)
    return others


def parse_line(line: str | bytes) -> dict[str, Any] | None:
    """The JSON object of a line; None if it is not one."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # a damaged line may open thousands of brackets
        return None
    return row if isinstance(row, dict) else None
