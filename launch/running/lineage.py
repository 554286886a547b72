"""The records of a run folder: its configuration, every start, which phases are done and after which others
they were made.
"""

import contextlib
import errno
import fcntl
import importlib.metadata
import json
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.files import write_bytes, write_json, writing
from launch.job.load import Job, dump
from launch.job.yaml import to_yaml


def lineage(job: Job) -> dict[str, dict[str, Any]]:
    """For every phase what done.json holds at least: its fingerprint and those of all phases before it."""
    before: dict[str, str] = {}
    rows = {}
    for name, phase in job.phases.items():
        # A copy, because `before` grows with each phase.
        rows[name] = {"fingerprint": phase.fingerprint(), "after": dict(before)}
        before[name] = rows[name]["fingerprint"]
    return rows


def state(run_dir: Path, name: str, wanted: dict[str, Any]) -> str:
    """`done`, `started` or `new`.

    Raises:
        ValueError: the phase was made after earlier phases that have another configuration now.
    """
    done = read_json(run_dir / name / "done.json")
    if done is None or done.get("fingerprint") != wanted["fingerprint"]:
        # Without a valid done.json the phase was interrupted; an empty folder was only just made.
        return "started" if (run_dir / name).is_dir() and any((run_dir / name).iterdir()) else "new"

    # Phases that are no longer in the job do not count.
    made_after = {
        phase: mark for phase, mark in done.get("after", {}).items() if phase in wanted["after"]
    }
    changed = [phase for phase, mark in made_after.items() if mark != wanted["after"][phase]]
    if changed:
        problem = f"was made after another {changed[0]} (its configuration has changed since)"
        remedy = f"remove {run_dir / name} to make it again, or choose another --dir"
        raise ValueError(f"{run_dir / name} {problem}; {remedy}")
    return "done"


def read_json(path: Path) -> Any:
    """The value in a JSON file, None if there is no such file. Raises ValueError if it is broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise ValueError(
            f"{path}: not JSON; it was damaged, remove it to run its phase again"
        ) from None


def mark_done(folder: Path, row: dict[str, Any]) -> None:
    """Complete the done.json that the phase wrote, or write it: the last file of a phase."""
    # What the phase wrote itself stays: a data phase keeps its counts there.
    write_json(folder / "done.json", {**(read_json(folder / "done.json") or {}), **row})


def write_record(job: Job, run_dir: Path, argv: Sequence[str]) -> None:
    """job.yaml is the configuration that ran last; launches.jsonl has a row for every start, with the
    versions that ran it.
    """
    # Written at every start: a resumed run may have another configuration than the first start.
    write_bytes(run_dir / "job.yaml", to_yaml(dump(job.phases)).encode())
    libraries = ("jax", "flax", "optax", "orbax-checkpoint", "grain")
    versions = {name: importlib.metadata.version(name) for name in libraries}
    row = {"time": time.time(), "argv": list(argv), "python": platform.python_version(), **versions}
    path = run_dir / "launches.jsonl"
    # Appended, never rewritten, so that an earlier start cannot be lost by a crash now.
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Make and lock the run folder, so that a second command cannot write into it. A file system without
    locks is used unlocked.

    Raises:
        ValueError: another command holds the lock.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("w") as file:
        try:
            # The system releases the lock when the process ends, however it ends. LOCK_NB: fail at
            # once, because waiting would look like a hang.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            remedy = "wait for it, or choose another --dir"
            raise ValueError(
                f"{run_dir}: another meshwright run is writing there; {remedy}"
            ) from None
        except OSError as error:
            # Some network file systems have no locks; a shared folder there must still be usable.
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        yield
