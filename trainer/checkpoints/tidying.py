"""What happens to checkpoint folders behind the step loop: the manifest of a new one, the end of old ones,
leftovers of killed writers.
"""

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
    """Hash a checkpoint that was just written, and remove those that it supersedes; what an event says of
    it.
    """
    began, place = time.perf_counter(), step_folder.parent
    try:
        hashed = write_manifest(step_folder)
        took = {"hash_s": time.perf_counter() - began, "bytes": hashed}
        for step in (
            superseded(kept_in(place, settings), settings) if place == durable else steps_in(place)[:-1]
        ):
            remove(place / str(step))
        return took
    except (OSError, OutputError) as error:  # the checkpoint itself is whole
        return {"trouble": cause_of(error)}


def kept_in(folder: Path, settings: Checkpoints) -> list[Kept]:
    """The checkpoints of a folder as the rules of keeping see them."""
    return [
        _kept(folder / str(step), settings.best.metric if settings.best else "") for step in steps_in(folder)
    ]


def _kept(path: Path, metric: str) -> Kept:
    try:
        numbers = read_item(path, "numbers")
    except Damaged:
        numbers = {"time": path.stat().st_mtime, "metrics": {}}
    value = numbers["metrics"].get(metric, math.nan)
    saved_at = datetime.datetime.fromtimestamp(numbers["time"], tz=datetime.UTC)
    return Kept(int(path.name), saved_at, {metric: value} if math.isfinite(value) else None)


def set_aside(path: Path) -> Path:
    """Give a damaged checkpoint a name under which it is found no more; nothing of it is lost. Where it
    lies now: there, if need be.
    """
    aside = path.with_name(f"{path.name}.damaged")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        return path.rename(aside)
    except OSError:
        return path


def remove(path: Path) -> None:
    """Delete a checkpoint, so that at no moment half of it stands under its name."""
    doomed = path.with_name(f"{path.name}.removed")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(folders: Sequence[Path]) -> None:
    """Delete what killed or failed writers and removers left, while nothing is written; what cannot be
    deleted stays for the next time.
    """
    with contextlib.suppress(OSError):  # a folder that cannot be read: the save that follows says so
        for path in [path for folder in folders for pattern in LEFTOVERS for path in folder.glob(pattern)]:
            shutil.rmtree(path, ignore_errors=True)


def local_folder(durable: Path, local: str) -> Path:
    """Where the copies of a phase lie in the folder `local`; emptied if they are not those of `durable`,
    but of one that had its path.

    Raises:
        ValueError: not all processes see it.
    """
    folder = Path(local) / f"meshwright-{hashlib.sha256(str(durable.resolve()).encode()).hexdigest()[:16]}"
    name, copy = durable / ".local", folder / ".local"
    if is_first():
        if not name.exists():
            write_bytes(name, secrets.token_hex(8).encode())
        if not copy.exists() or copy.read_bytes() != name.read_bytes():
            shutil.rmtree(folder, ignore_errors=True)
            write_bytes(copy, name.read_bytes())
    all_say()
    seen = all_say(copy.exists() and copy.read_bytes() == name.read_bytes())
    if not seen.all():
        raise ValueError(
            f"checkpoint.local={local} is not seen by process {int(seen.argmin())}; name a folder that all processes share"
        )
    return folder
