"""events.jsonl of a phase: what happened, one JSON line each, readable also after a kill."""

import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

EVENTS_FILE = "events.jsonl"


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
    return [row for row in json_lines(folder / EVENTS_FILE) if "event" in row and "step" in row]


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


def parse_line(line: str) -> dict[str, Any] | None:
    """The JSON object of a line; None if it is not one."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
