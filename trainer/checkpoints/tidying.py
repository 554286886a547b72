"""Work on checkpoint folders outside the step loop: manifests, deletion of old checkpoints and leftovers."""

import contextlib
import datetime
import hashlib
import math
import secrets
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.files import OutputError, write_bytes
from trainer.checkpoints.manifest import write_manifest
from trainer.checkpoints.retention import Checkpoints, Kept, superseded
from trainer.checkpoints.saving import cause_of
from trainer.checkpoints.stored import Damaged, read_item, steps_in
from trainer.cluster.coordination import all_say, is_first

LEFTOVERS = ("*.orbax-checkpoint-tmp*", "*.removed")


def finish(step_folder: Path, durable: Path, settings: Checkpoints) -> dict[str, float | str]:
    """Hash a checkpoint that was just written and delete those it supersedes; returns fields of its event."""
    began = time.perf_counter()
    folder = step_folder.parent
    try:
        n_bytes = write_manifest(step_folder)
        fields = {"hash_s": time.perf_counter() - began, "bytes": n_bytes}
        if folder == durable:
            old_steps = superseded(kept_in(folder, settings), settings)
        else:
            old_steps = steps_in(folder)[:-1]  # only the newest local copy is kept
        for step in old_steps:
            remove(folder / str(step))
        return fields
    # The checkpoint itself is complete, so training need not end: the event reports the trouble.
    except (OSError, OutputError) as error:
        return {"trouble": cause_of(error)}


def kept_in(folder: Path, settings: Checkpoints) -> list[Kept]:
    """The checkpoints of a folder as the retention rules see them."""
    metric = settings.best.metric if settings.best else ""
    return [_kept(folder / str(step), metric) for step in steps_in(folder)]


def _kept(path: Path, metric: str) -> Kept:
    try:
        numbers = read_item(path, "numbers")
    except Damaged:
        # The file's time is the best guess; it decides only how long the checkpoint is kept.
        numbers = {"time": path.stat().st_mtime, "metrics": {}}
    # Without a metric a checkpoint cannot be among the best, but the other rules may keep it.
    value = numbers["metrics"].get(metric, math.nan)
    saved_at = datetime.datetime.fromtimestamp(numbers["time"], tz=datetime.UTC)
    return Kept(int(path.name), saved_at, {metric: value} if math.isfinite(value) else None)


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint so that it is not listed; returns its path, the old one if that fails."""
    aside = path.with_name(f"{path.name}.damaged")
    try:
        # an older damaged checkpoint of the same step is deleted to make room
        shutil.rmtree(aside, ignore_errors=True)
        return path.rename(aside)
    except OSError:
        return path


def remove(path: Path) -> None:
    """Delete a checkpoint; it is renamed first, so that a partly deleted one is never listed."""
    doomed = path.with_name(f"{path.name}.removed")
    shutil.rmtree(doomed, ignore_errors=True)
    # a rename is atomic, the deletion of many files is not
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(folders: Sequence[Path]) -> None:
    """Delete what interrupted saves and deletions left behind; call it only while no save is running.

    What cannot be deleted is left for the next call.
    """
    # suppressed: if a folder cannot be read, the save that follows reports it
    with contextlib.suppress(OSError):
        for folder in folders:
            for pattern in LEFTOVERS:
                for path in folder.glob(pattern):
                    shutil.rmtree(path, ignore_errors=True)


def local_folder(durable: Path, local: str) -> Path:
    """The folder of a phase's copies inside `local`.

    It is emptied if its copies are of an earlier phase with the same path. A random id in both folders shows
    that they belong together.

    Raises:
        ValueError: not all processes see it.
    """
    # named by the path: two phases of the same name on one machine must not share copies
    path_digest = hashlib.sha256(str(durable.resolve()).encode()).hexdigest()[:16]
    folder = Path(local) / f"meshwright-{path_digest}"
    durable_id = durable / ".local"
    local_id = folder / ".local"

    def belongs() -> bool:
        return local_id.exists() and local_id.read_bytes() == durable_id.read_bytes()

    if is_first():
        if not durable_id.exists():
            write_bytes(durable_id, secrets.token_hex(8).encode())
        if not belongs():
            shutil.rmtree(folder, ignore_errors=True)
            write_bytes(local_id, durable_id.read_bytes())
    all_say()  # a barrier: the other processes look only after both ids are written
    sees_it = all_say(belongs())
    if not sees_it.all():
        blind = int(sees_it.argmin())
        raise ValueError(
            f"checkpoint.local={local} is not seen by process {blind}; name a folder that all processes share"
        )
    return folder
