"""Files that appear whole or not at all: write beside the target, then rename."""

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np


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
        raise  # of a block inside, which knows its output better
    except (OSError, RuntimeError) as error:  # RuntimeError: how ArrayRecord reports one
        # libraries raise OSError without strerror
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"cannot write {path}: {reason}; free space there or choose another output folder"
        ) from error


@contextlib.contextmanager
def partial_file(path: Path, *, writer: str = "") -> Iterator[Path]:
    """Yield a name beside `path` to write to; what was written there takes the name `path` when the block
    ends well. The folder is made.

    Args:
        path: The file that appears at the end.
        writer: A name that no other writer has, where several may write the same path at once. Without it
        what a killed writer left is written over by the next one.

    Raises:
        OutputError: the folder cannot be made, or the name not be given.
    """
    # A dot before it: whoever lists the folder passes over hidden files.
    partial = path.with_name(
        f".{path.name}.{writer}.partial" if writer else f".{path.name}.partial"
    )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        with writing(path):
            # `replace` is atomic on one file system, which is why the name is in the same folder.
            partial.replace(path)
    finally:
        # also after an error; when all went well the name is gone already
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, replacing it in one step; the folder is made."""
    with writing(path), partial_file(path) as partial, partial.open("wb") as file:
        file.write(data)
        file.flush()
        # without it a crash of the machine may leave the new name with nothing behind it
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, replacing `path` in one step."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The value in a file that `write_json` wrote."""
    return json.loads(path.read_bytes())


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a line of JSON a row; `path` appears when all are written."""
    with writing(path), partial_file(path) as partial, partial.open("wb") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file that `write_json_lines` wrote."""
    with path.open("rb") as file:
        yield from map(json.loads, file)


def write_npy(path: Path, array: np.ndarray) -> None:
    """Write an array, replacing `path` in one step."""
    # small arrays only; large ones are written piece by piece (shards/npy.py)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder` that takes its name when the block ends well; what a killed
    writer left is removed first.

    Raises:
        OutputError: `folder` is there already (nothing of it is touched), or cannot be made.
    """
    if folder.exists():
        raise OutputError(f"{folder} exists already; delete it or choose another output folder")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with writing(folder):
        partial.mkdir(parents=True)
    try:
        yield partial
        with writing(folder):
            partial.rename(folder)
    except BaseException:  # Ctrl-C too: nothing half made stays
        shutil.rmtree(partial, ignore_errors=True)
        raise


def replace_folder(folder: Path, new: Path) -> None:
    """Put the finished folder `new` in the place of `folder`, on the same disk."""
    with writing(folder):
        if folder.exists():
            # a rename replaces no folder that has something in it
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        new.rename(folder)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        # Reads in blocks, and releases the interpreter while it hashes.
        return hashlib.file_digest(file, "sha256").hexdigest()
