"""The manifest of a folder: size and SHA-256 of every file in it, beside which any damage shows."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from data_pipeline.files import read_json, sha256, write_json

NAME = "manifest.json"
Level = Literal["off", "size", "full"]


def write_manifest(folder: Path) -> int:
    """Hash every file of a folder, one after another, and write the manifest beside them; returns the bytes
    that were hashed.

    Raises:
        OutputError: the manifest cannot be written.
    """
    files = {name: [path.stat().st_size, sha256(path)] for name, path in files_of(folder).items()}
    write_json(folder / NAME, files)
    return sum(size for size, _ in files.values())


def files_of(folder: Path) -> dict[str, Path]:
    """Name inside the folder -> path, of every file but the manifest and hidden ones."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path for path in found if path != folder / NAME}


def problem(folder: Path, level: Level, items: Iterable[str] = ("",)) -> str | None:
    """What is wrong with the files of a folder, in words, or None; those whose names begin with one of
    `items`.

    A folder without a manifest has nothing that could be compared: its writer was killed before it was done
    with hashing.
    """
    if level == "off" or not (folder / NAME).exists():
        return None
    try:
        wanted = {name: (size, digest) for name, (size, digest) in read_json(folder / NAME).items()}
    except (ValueError, TypeError, AttributeError):
        return f"{NAME} is not the JSON that was written"
    there = files_of(folder)
    names = [name for name in sorted(wanted.keys() | there.keys()) if name.startswith(tuple(items))]
    found = next((said for name in names if (said := _wrong_size(name, wanted, there))), None)
    if found or level == "size":
        return found
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = pool.map(sha256, [there[name] for name in names])
        return next(
            (
                f"{name} has other contents"
                for name, digest in zip(names, digests, strict=True)
                if digest != wanted[name][1]
            ),
            None,
        )


def _wrong_size(name: str, wanted: dict[str, tuple[int, str]], there: dict[str, Path]) -> str | None:
    if name not in there:
        return f"{name} is missing"
    if name not in wanted:
        return f"{name} was not written with it"
    size = there[name].stat().st_size
    return f"{name} has {size:,} bytes instead of {wanted[name][0]:,}" if size != wanted[name][0] else None
