"""The manifest of a folder: size and SHA-256 of every file in it, which reveal any damage."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from data_pipeline.files import read_json, sha256, write_json

NAME = "manifest.json"
Level = Literal["off", "size", "full"]


def write_manifest(folder: Path) -> int:
    """Hash every file of a folder and write the manifest beside them; returns the number of bytes hashed.

    Files are hashed one after another, since training goes on meanwhile and needs the cores.

    Raises:
        OutputError: the manifest cannot be written.
    """
    entries = {name: [path.stat().st_size, sha256(path)] for name, path in files_of(folder).items()}
    write_json(folder / NAME, entries)
    return sum(size for size, _ in entries.values())


def files_of(folder: Path) -> dict[str, Path]:
    """Name inside the folder -> path, of every file but the manifest and hidden ones."""
    # hidden files are markers of ours and of file systems, which may come and go
    paths = sorted(
        path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")
    )
    return {path.relative_to(folder).as_posix(): path for path in paths if path != folder / NAME}


def problem(folder: Path, level: Level, prefixes: Iterable[str] = ("",)) -> str | None:
    """What is wrong with the files of a folder, in words, or None; only names with one of `prefixes` count.

    A folder without a manifest passes: its writer was killed before hashing ended.
    """
    if level == "off" or not (folder / NAME).exists():
        return None
    try:
        wanted = {name: (size, digest) for name, (size, digest) in read_json(folder / NAME).items()}
    except (ValueError, TypeError, AttributeError):
        # The files may be fine, but something damaged the manifest beside them.
        return f"{NAME} is not the JSON that was written"
    files = files_of(folder)
    names = [
        name for name in sorted(wanted.keys() | files.keys()) if name.startswith(tuple(prefixes))
    ]
    for name in names:  # sizes first: they need no reading
        if why := _size_problem(name, wanted, files):
            return why
    if level == "size":
        return None
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # All cores: hashing releases the interpreter lock, and no training runs yet.
        digests = pool.map(sha256, [files[name] for name in names])
        for name, digest in zip(names, digests, strict=True):
            if digest != wanted[name][1]:
                return f"{name} has other contents"
    return None


def _size_problem(
    name: str, wanted: dict[str, tuple[int, str]], files: dict[str, Path]
) -> str | None:
    if name not in files:
        return f"{name} is missing"
    if name not in wanted:
        return f"{name} was not written with it"
    size = files[name].stat().st_size
    wanted_size, _ = wanted[name]
    return None if size == wanted_size else f"{name} has {size:,} bytes instead of {wanted_size:,}"
