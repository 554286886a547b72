"""The records of a run folder: its configuration, every start, which phases are done and after which others
they were made.
"""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from data_pipeline import files
from data_pipeline.files import write_bytes, write_json, writing
from data_pipeline.settings import flat
from data_pipeline.temporary import NO_LOCKS
from launch.job.load import Job, dump
from launch.job.phase import Phase
from launch.job.yaml import read_yaml, to_yaml

EARLIER = "earlier"  # folder of phases that were set aside
MAX_SHOWN = 5  # differing fields that an error names


def lineage(job: Job) -> dict[str, dict[str, Any]]:
    """For every phase what done.json holds at least: its configuration, its fingerprint and those of
    all phases before it.
    """
    before: dict[str, str] = {}
    rows = {}
    for name, phase in job.phases.items():
        # A copy, because `before` grows with each phase.
        config = phase.model_dump(mode="json")
        rows[name] = {"fingerprint": phase.fingerprint(), "after": dict(before), "config": config}
        before[name] = rows[name]["fingerprint"]
    return rows


class Answers(NamedTuple):
    """What the user has said of phases that are there already.

    Attributes:
        allow_change: PHASE.FIELD of fields that may have another value now.
        again: Phases that are set aside and made anew.
    """

    allow_change: tuple[str, ...] = ()
    again: tuple[str, ...] = ()

    def own_changes(self, name: str) -> tuple[str, ...]:
        """The allowed fields of one phase, without its name."""
        prefix = f"{name}."
        return tuple(
            field.removeprefix(prefix) for field in self.allow_change if field.startswith(prefix)
        )


def states(job: Job, run_dir: Path, answers: Answers) -> tuple[dict[str, str], list[str]]:
    """`done`, `started`, `again` (set aside, then new) or `new` for every phase, and a sentence for each
    whose results do not belong to this configuration.
    """
    unknown = [name for name in answers.again if name not in job.phases]
    problems = [
        f"--again {name}: no such phase; there are {', '.join(job.phases)}" for name in unknown
    ]
    found = {}
    for name, row in lineage(job).items():
        try:
            found[name] = state(run_dir, name, row, job.phases[name], answers)
        except ValueError as error:
            problems.append(str(error))
    return found, problems


def state(run_dir: Path, name: str, wanted: dict[str, Any], phase: Phase, answers: Answers) -> str:
    """`done`, `started`, `again` or `new`.

    Raises:
        ValueError: the phase is finished with another configuration, or was made after earlier phases that
            have another one now or are made anew.
    """
    if name in answers.again:
        return "again"
    folder = run_dir / name
    if not folder.is_dir() or not any(folder.iterdir()):
        return "new"  # an empty folder was only just made
    anew = [phase for phase in answers.again if phase in wanted["after"]]
    if anew:
        remedy = f"add --again {name} to set it aside and make it anew too"
        raise ValueError(f"{folder} was made after {anew[0]}, which is made anew; {remedy}")
    done = read_json(folder / "done.json")
    # Without a done.json of this job the phase was interrupted, or was imported.
    if done is None or "fingerprint" not in done:
        return "started"
    # Phases that are no longer in the job do not count.
    made_after = {
        phase: mark for phase, mark in done.get("after", {}).items() if phase in wanted["after"]
    }
    changed = [phase for phase, mark in made_after.items() if mark != wanted["after"][phase]]
    if changed:
        problem = f"was made after another {changed[0]} (its configuration has changed since)"
        remedy = f"add --again {name} to set it aside and make it anew, or choose another --dir"
        raise ValueError(f"{folder} {problem}; {remedy}")
    return _state_of_finished(folder, done, wanted, phase, answers.own_changes(name))


def _state_of_finished(
    folder: Path,
    done: Mapping[str, Any],
    wanted: Mapping[str, Any],
    phase: Phase,
    allowed: Sequence[str],
) -> str:
    """`done`, or `started` where a finished phase has more to do."""
    same_result = done["fingerprint"] == wanted["fingerprint"]
    before, now = flat(_as_finished(folder, done, phase)), flat(wanted["config"])
    differing = {
        path: (before.get(path), now.get(path))
        for path in {**before, **now}
        if before.get(path) != now.get(path)
    }
    if same_result and not differing:
        return "done"
    trains = "steps" in now
    # More steps go on from the last checkpoint, which is compared with the other fields.
    if trains and now["steps"] > before.get("steps", now["steps"]):
        return "started"
    refused = [
        path for path in differing if not any(f"{path}.".startswith(f"{a}.") for a in allowed)
    ]
    if refused or (trains and not same_result):
        paths = refused or list(differing)
        raise ValueError(_finished_otherwise(folder, differing, paths, same_result, trains))
    # What decides no result may differ; other data is made again where it differs.
    return "done" if same_result else "started"


def _finished_otherwise(
    folder: Path,
    differing: Mapping[str, tuple[Any, Any]],
    paths: Sequence[str],
    same_result: bool,
    trains: bool,
) -> str:
    """The sentence of a finished phase whose configuration has changed."""
    name = folder.name
    shown = [
        f"{path}: {_short(differing[path][0])} there, {_short(differing[path][1])} now"
        for path in paths[:MAX_SHOWN]
    ]
    if len(paths) > MAX_SHOWN:
        # A changed recipe differs in hundreds of fields.
        shown.append(f"and {len(paths) - MAX_SHOWN} more")
    remedy = "restore them, choose another --dir, or add "
    remedy += f"--again {name} to set it aside and make it anew"
    if same_result and paths:
        remedy += f", or --allow-change {name}.{paths[0]} to leave it as it is"
    elif not trains and paths:
        top = paths[0].split(".")[0]
        remedy += f", or --allow-change {name}.{top} to make again what depends on it"
    return f"{folder} is finished, with other settings ({'; '.join(shown)}); {remedy}"


def _short(value: Any) -> str:
    # As it would be written in the configuration.
    return f"{to_yaml(value, flow=True):.60}"


def _as_finished(folder: Path, done: Mapping[str, Any], phase: Phase) -> dict[str, Any]:
    """The configuration that a finished phase was made with, with the present defaults of fields that it did
    not have yet.
    """
    saved = done.get("config")
    if saved is None:
        # Made before done.json held it: the record of the run has what ran last.
        record = folder.parent / "job.yaml"
        saved = (read_yaml(record) if record.is_file() else {}).get(folder.name, {})
    try:
        fields = {field: value for field, value in saved.items() if field != "type"}
        # By way of JSON a strict model takes a list for a tuple.
        filled = type(phase).model_validate_json(json.dumps(fields, default=str))
    except ValidationError:
        return saved
    return filled.model_dump(mode="json")


def set_aside(run_dir: Path, name: str) -> Path | None:
    """Move what a phase has made into a folder of its own, `earlier/NAME-N`; None if there is nothing."""
    folder = run_dir / name
    if not folder.exists():
        return None
    earlier = run_dir / EARLIER
    # Numbered, so that nothing that was ever made is overwritten. Not counted: a person may have deleted one.
    numbers = [int(path.name.removeprefix(f"{name}-")) for path in earlier.glob(f"{name}-[0-9]*")]
    number = 1 + max(numbers, default=0)
    with writing(earlier):
        earlier.mkdir(exist_ok=True)
        folder.rename(earlier / f"{name}-{number}")
    return earlier / f"{name}-{number}"


def read_json(path: Path) -> Any:
    """The value in a JSON file, None if there is no such file. Raises ValueError if it is broken."""
    try:
        return files.read_json(path)
    except FileNotFoundError:
        return None


def mark_done(folder: Path, row: dict[str, Any]) -> None:
    """Complete the done.json that the phase wrote, or write it: the last file of a phase."""
    # What the phase wrote itself stays: a data phase keeps its counts there.
    write_json(folder / "done.json", {**(read_json(folder / "done.json") or {}), **row})


def write_record(job: Job, run_dir: Path, argv: Sequence[str], done: Collection[str]) -> None:
    """job.yaml is the configuration of what the folder holds: that of this start, and of the phases in `done`
    the one that they were made with. launches.jsonl has a row for every start, with the versions that ran it.
    """
    tree = dump(job.phases)
    for name in done:
        # A field that decides no result may differ now; what ran is what the record says.
        row = read_json(run_dir / name / "done.json")
        tree[name] = {**tree[name], **row.get("config", {})}
    # Written at every start: a resumed run may have another configuration than the first start.
    write_bytes(run_dir / "job.yaml", to_yaml(tree).encode())
    libraries = ("jax", "flax", "optax", "orbax-checkpoint", "grain")
    versions = {name: importlib.metadata.version(name) for name in libraries}
    # The folder too: relative paths of the configuration begin there.
    row = {"time": time.time(), "argv": list(argv), "folder": os.getcwd()}
    row |= {"python": platform.python_version(), **versions}
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
            # A shared folder without locks must still be usable.
            if error.errno not in NO_LOCKS:
                raise
        yield
