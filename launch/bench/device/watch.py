"""`meshwright bench device`: the checks run in a child process, so that a crash or a hang is a row too.

This process never imports jax: a TPU belongs to one process at a time, and a GPU's memory to the first that
takes it.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

# Begins a line that is for this process; all else that a child prints is passed on.
MARK = "@device-check "
# A hang must not occupy a rented machine for long.
LIMIT_S = 480.0  # of all checks together
CHECK_LIMIT_S = 240.0  # of one check; a step of an 8B model compiles for a minute
OLDEST_JAX = (0, 11)
# distribution -> module: what the checks import (a test compares)
NEEDED = {
    "array_record": "array_record",
    "flax": "flax",
    "fsspec": "fsspec",
    "grain": "grain",
    "jax": "jax",
    "jaxtyping": "jaxtyping",
    "msgpack": "msgpack",
    "numpy": "numpy",
    "optax": "optax",
    "orbax-checkpoint": "orbax",
    "psutil": "psutil",
    "pydantic": "pydantic",
    "rich": "rich",
    "ruamel.yaml": "ruamel",
    "sentencepiece": "sentencepiece",
    "tensorboard": "tensorboard",
    "xxhash": "xxhash",
    "zstandard": "zstandard",
}


def check_imports() -> None:
    """Raises ValueError: a package is missing, or jax is too old; nothing is imported."""
    # find_spec only looks for files; importing jax would take the device.
    missing = [name for name, module in NEEDED.items() if importlib.util.find_spec(module) is None]
    others = [name for name in missing if name not in ("jax", "numpy")]  # numpy comes with jax
    if "jax" in missing:
        raise ValueError(
            "bench device needs jax 0.11 or later, built for this device; install jax[cuda13] or jax[tpu] "
            f"and {' '.join(others)} for {sys.executable}"
        )
    if missing:
        names = " ".join(missing)
        raise ValueError(
            f"bench device needs more beside jax; `{sys.executable} -m pip install {names}`"
        )
    version = importlib.metadata.version("jax")
    # Only major and minor: "0.11.0.dev2" has a part that is no number.
    if tuple(int(number) for number in version.split(".")[:2]) < OLDEST_JAX:
        raise ValueError(
            f"bench device needs jax 0.11 or later, and jax {version} is installed; upgrade it"
        )


def check_device(command: Sequence[str], *, say: Callable[[str], None]) -> dict[str, Any]:
    """Do all checks with `command --from N`; {"device": facts, "rows": […], "seconds": …, "passed": …}."""
    began = time.monotonic()
    progress = Progress()
    # A child ends when it crashes, or before a check that is `alone`; another one goes on from there.
    while progress.number < progress.total:
        left_s = LIMIT_S - (time.monotonic() - began)
        if left_s <= 0:
            late = f"checks {progress.number + 1} to {progress.total}"
            progress.fail(late, f"not begun within {LIMIT_S:.0f} s", compares=True)
            break
        _run_child(command, progress, left_s=left_s, say=say)
    # Only comparisons count: a measurement may fail for lack of memory, say.
    failed = any(row["compares"] and row["status"] == "failed" for row in progress.rows)
    seconds = round(time.monotonic() - began, 1)
    return {
        "device": progress.device,
        "rows": progress.rows,
        "seconds": seconds,
        "passed": not failed,
    }


class Progress:
    """What the children have reported; `number` is the next check and `total` how many there are, as far as
    is known.
    """

    def __init__(self) -> None:
        # total is 1 until a child reports how many there are, so that the first child is started.
        self.number, self.total = 0, 1
        self.device: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []
        self.current: dict[str, Any] | None = None  # the check that has begun and not ended

    def take(self, line: dict[str, Any], say: Callable[[str], None]) -> None:
        """One marked line of a child."""
        if "device" in line:
            self.device = line["device"]
        elif "begins" in line:
            self.number, self.total, self.current = line["begins"], line["of"], line
            say(f"{self.number + 1}/{self.total} {line['name']}")
        else:
            seconds = round(line["seconds"], 1)
            self.rows.append({**line["row"], "compares": line["compares"], "seconds": seconds})
            self.number, self.current = self.number + 1, None

    def fail(self, check: str, note: str, *, compares: bool) -> None:
        """A row for a check that gave none itself; the next child goes on after it."""
        row = {
            "check": check,
            "status": "failed",
            "figures": {},
            "note": note,
            "compares": compares,
        }
        self.rows.append(row)
        self.number, self.current = self.number + 1, None


def _run_child(
    command: Sequence[str], progress: Progress, *, left_s: float, say: Callable[[str], None]
) -> None:
    """One child, from the next check on until it ends, however it ends."""
    first = progress.number
    with tempfile.TemporaryFile("w+") as errors:
        # By default jax takes 75 % of a GPU's memory, which is too little for the state of 8B
        # parameters. Before os.environ, so that a user's own setting wins.
        environment = {
            "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
            **os.environ,
            "PYTHONPATH": _paths(),
        }
        child = subprocess.Popen(
            [*command, "--from", str(first)],
            env=environment,
            stdout=subprocess.PIPE,
            # A file, because nobody reads meanwhile, and a full pipe would block the child.
            stderr=errors,
            text=True,
        )
        timed_out = threading.Event()
        # One check may use what is left of the time of all, and never more than its own limit.
        for line in _lines(child, min(left_s, CHECK_LIMIT_S), timed_out):
            progress.take(line, say)
        code = child.wait()
        # A child also ends, with code 0, before a check that needs a process of its own.
        ended_well = code == 0 and progress.current is None and progress.number > first
        if not ended_well:
            current = progress.current or {
                "name": f"start of check {progress.number + 1}",
                "compares": True,
            }
            reason = (
                "killed: too slow or hung"
                if timed_out.is_set()
                # A code below 0 is a signal: -11 a segmentation fault, -9 the kernel's
                # out-of-memory killer.
                else f"its process ended with code {code}"
            )
            note = f"{reason}; {_last_line(errors)}"
            progress.fail(current["name"], note, compares=current["compares"])


def _paths() -> str:
    """PYTHONPATH of a child, which must find this package from any folder."""
    # launch/bench/device/watch.py: three folders above this one is the root.
    root = str(Path(__file__).parents[3])
    return os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))


def _lines(
    child: subprocess.Popen, limit_s: float, timed_out: threading.Event
) -> Iterator[dict[str, Any]]:
    """The marked lines of a child, which is killed when it prints nothing for `limit_s`."""

    def kill() -> None:
        # Set before the kill, so that the reader of the exit code already finds it.
        timed_out.set()
        child.kill()

    timer = threading.Timer(limit_s, kill)
    timer.start()
    try:
        for text in child.stdout:
            # Any line shows that the child is alive, and restarts its time.
            timer.cancel()
            timer = threading.Timer(limit_s, kill)
            timer.start()
            if text.startswith(MARK):
                yield json.loads(text.removeprefix(MARK))
            else:
                sys.stderr.write(text)
    finally:
        timer.cancel()


def _last_line(errors: IO[str]) -> str:
    """The last line that a child wrote to standard error, which tells why it crashed."""
    with contextlib.suppress(OSError):
        errors.seek(0)
        lines = [line.strip() for line in errors if line.strip()]
        return lines[-1][:300] if lines else "it said nothing"
    return "it said nothing"


def show(report: dict[str, Any]) -> None:
    """Print the report as one table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    device = report["device"]
    memory = f", {device['bytes'] / 1e9:.0f} GB each" if device.get("bytes") else ""
    title = f"{device.get('count', 0)} × {device.get('kind', 'no device')}{memory}, jax {device.get('jax')}"
    table = Table(
        "check", "result", "figures", "note", title=title, title_justify="left", box=box.SIMPLE_HEAD
    )
    colours = {"passed": "green", "failed": "red", "skipped": "yellow"}
    for row in report["rows"]:
        figures = "  ".join(f"{name} {_shown(value)}" for name, value in row["figures"].items())
        table.add_row(
            row["check"], row["status"], figures, row["note"], style=colours.get(row["status"])
        )
    # 200 columns in a file or pipe, where rich would assume 80 and break the notes.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(table)
    verdict = "All comparisons passed" if report["passed"] else "NOT all comparisons passed"
    console.print(f"{verdict}, in {report['seconds']:.0f} s.")


def _shown(value: float) -> str:
    return (
        f"{value:,.0f}"
        if abs(value) >= 1000
        else f"{value:.2g}"
        if abs(value) < 0.1
        else f"{value:.3g}"
    )
