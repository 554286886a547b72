"""Files that appear whole or not at all: write beside the target, then rename.

What a later step reads is sealed: the SHA-256 of every file stands beside it, and is compared before it is
believed.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

SEAL = ".seal.json"  # in a sealed folder; of a single file the name is .NAME.seal.json
DAMAGED = ".damaged"  # end of the name of what was set aside


class OutputError(OSError):
    """An output that could not be written: a full disk, a read-only folder, a name that is taken."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the errors of a full or read-only disk into one `OutputError` that names the output and the
    remedy.
    """
    try:
        yield
    except OutputError:
        raise  # an inner block has named its own output
    except (OSError, RuntimeError) as error:  # ArrayRecord reports a full disk by RuntimeError
        # An OSError that a library raises itself has no strerror.
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise OutputError(
            f"cannot write {path}: {reason}; free space there or choose another output folder"
        ) from error


@contextlib.contextmanager
def partial_file(path: Path, *, writer: str = "", sealed: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which is renamed to `path` if the block ends without an
    error. The folder is made.

    Args:
        path: The file that appears at the end.
        writer: A name that no other writer has, where several may write the same path at once. Without it
        the next writer overwrites what a killed one left.
        sealed: Write its SHA-256 beside it, see `damage_of`.

    Raises:
        OutputError: the folder cannot be made, or the file cannot be renamed.
    """
    # Hidden, because code that lists the folder skips names with a dot.
    partial = path.with_name(
        f".{path.name}.{writer}.partial" if writer else f".{path.name}.partial"
    )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        if sealed:
            # Before the file: one that is there without its seal would be believed unproved.
            write_json(seal_beside(path), {path.name: sha256(partial)})
        with writing(path):
            # Atomic, because both paths are on one file system.
            partial.replace(path)
    finally:
        # After an error it is removed; otherwise it is gone already.
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes, *, sealed: bool = False) -> None:
    """Write `data` to `path`, replacing it in one step; the folder is made."""
    with writing(path), partial_file(path, sealed=sealed) as partial, partial.open("wb") as file:
        file.write(data)
        file.flush()
        # Without fsync a crash of the machine may leave an empty file under the new name.
        os.fsync(file.fileno())


def write_json(path: Path, value: Any, *, sealed: bool = False) -> None:
    """Write `value` as indented JSON, replacing `path` in one step."""
    data = (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
    write_bytes(path, data, sealed=sealed)


def read_json(path: Path) -> Any:
    """The value in a file that `write_json` wrote. Raises ValueError if it is broken."""
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        raise ValueError(
            f"{path}: not JSON; it was damaged, remove it to run its phase again"
        ) from None


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a line of JSON for each row; `path` appears when all are written."""
    with writing(path), partial_file(path) as partial, partial.open("wb") as file:
        # One by one, because the rows may not fit in memory together.
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file that `write_json_lines` wrote."""
    with path.open("rb") as file:
        yield from map(json.loads, file)


def write_npy(path: Path, array: np.ndarray) -> None:
    """Write an array, replacing `path` in one step."""
    # For small arrays; large ones are written piece by piece (shards/npy.py).
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


@contextlib.contextmanager
def new_folder(folder: Path, *, sealed: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder, which is renamed to `folder` if the block ends without an error; what
    a killed writer left is removed first. If `sealed`, the SHA-256 of all its files goes along.

    Raises:
        OutputError: `folder` exists already (and stays as it is), or cannot be made.
    """
    if folder.exists():
        raise OutputError(f"{folder} exists already; delete it or choose another output folder")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with writing(folder):
        partial.mkdir(parents=True)
    try:
        yield partial
        if sealed:
            files = sorted(path for path in partial.rglob("*") if path.is_file())
            digests = {path.relative_to(partial).as_posix(): sha256(path) for path in files}
            write_json(partial / SEAL, digests)
        with writing(folder):
            partial.rename(folder)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(partial, ignore_errors=True)
        raise


def remove_partials(folder: Path) -> None:
    """Delete what killed writers have left anywhere in `folder`; call it while nobody writes there.

    Of a stage that is not wanted again, after a change of settings, no next writer would.
    """
    for partial in list(folder.rglob(".*.partial")):
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def replace_folder(folder: Path, new: Path) -> None:
    """Put the finished folder `new` in the place of `folder`, on the same disk."""
    with writing(folder):
        if folder.exists():
            # A rename cannot replace a folder that is not empty.
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        new.rename(folder)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        # Reads in blocks, and releases the interpreter while it hashes.
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal_beside(path: Path) -> Path:
    """Where the hash of a single sealed file is."""
    return path.with_name(f".{path.name}{SEAL}")


def _sealed(seal: Path) -> str:
    """The name of the single file that a seal is of."""
    return seal.name[1 : -len(SEAL)]


def is_proved(path: Path) -> bool:
    """Whether a file is there, and is what was written with `sealed`."""
    seal = seal_beside(path)
    return path.is_file() and seal.is_file() and damage_of(seal) is None


def damage_of(seal: Path) -> str | None:
    """What is wrong with the files that a seal has the hashes of, in words; None = they are what was
    written.
    """
    try:
        digests = read_json(seal)
    except (ValueError, RecursionError):  # a damaged file may open thousands of brackets
        digests = None
    # The seal of a single file that has no hash of it would prove whatever is there.
    is_seal = isinstance(digests, dict) and (seal.name == SEAL or set(digests) == {_sealed(seal)})
    if not is_seal:
        return f"{seal.name} is not what was written"
    for name, digest in digests.items():
        path = seal.parent / name
        if not path.is_file():
            return f"{name} is missing"
        if sha256(path) != digest:
            return f"{name} has other contents"
    return None


def set_aside_damaged(folder: Path) -> list[str]:
    """Rename what is sealed under `folder` and not what was written, so that it is made again; a sentence
    for each.
    """
    # Hidden folders are of killed writers, which begin again; those set aside are no longer read.
    seals = [seal for seal in folder.rglob(f"*{SEAL}") if _is_read(seal.parent, folder)]
    # A sealed folder has the hashes of all that is in it: one of its files alone is not made again.
    sealed = {seal.parent for seal in seals if seal.name == SEAL}
    seals = [seal for seal in seals if seal.name == SEAL or sealed.isdisjoint(seal.parents)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # All cores: hashing releases the interpreter, and nothing else is at work yet.
        reasons = list(pool.map(damage_of, seals))
    return [
        _set_aside(seal, why) for seal, why in zip(seals, reasons, strict=True) if why is not None
    ]


def _is_read(path: Path, folder: Path) -> bool:
    names = path.relative_to(folder).parts
    return not any(name.startswith(".") or name.endswith(DAMAGED) for name in names)


def _set_aside(seal: Path, why: str) -> str:
    """Rename the folder or the file of a seal; what stands in that name's place is deleted."""
    alone = seal.name != SEAL  # of a single file
    path = seal.with_name(_sealed(seal)) if alone else seal.parent
    aside = path.with_name(f"{path.name}{DAMAGED}")
    with writing(aside):
        if aside.is_dir():
            shutil.rmtree(aside)
        if path.exists():
            path.replace(aside)
        # Else the next start would compare it with the file that is made now.
        if alone:
            seal.unlink()
    return f"{path} is damaged ({why}); it is kept as {aside.name} and made again"
