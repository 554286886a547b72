"""The user's files and folders, on disk or at a URL: found in sorted order, or one sentence that says what
is missing.
"""

import json
import os
import posixpath
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import fsspec

from data_pipeline.readers.part import Part
from data_pipeline.readers.storage import address, local_path

BATCH_BYTES = 64 << 20  # small files are read so many bytes a part: a few seconds of work


class File(NamedTuple):
    """A raw file: what `storage.opened` takes, and what it is called in the corpus.

    Attributes:
        path: Absolute path or URL, always valid Unicode.
        name: Path inside the folder it was found in, with "/"; bytes that are no UTF-8 are written \\xff.
        n_bytes: Size; 0 where the store does not tell or the file (a broken link, a loop of links) cannot
        be looked at.
    """

    path: str
    name: str
    n_bytes: int


def files_under(path: str, suffixes: tuple[str, ...], *, field: str) -> list[File]:
    """The first of `files_and_others`, which says what is raised."""
    return files_and_others(path, suffixes, field=field)[0]


def files_and_others(
    path: str, suffixes: tuple[str, ...], *, field: str
) -> tuple[list[File], list[File]]:
    """`path` itself when it is a file, else the files below it that end in one of `suffixes` (in any case),
    sorted by name; and those that do not.

    Names that begin with a dot are left out. A link to a folder is followed where no other way leads there,
    so that nothing is read twice, or for ever.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: It is a folder without such a file, or a URL that this installation cannot open.
        OSError: A folder below cannot be listed, or a store does not answer.
    """
    local = local_path(path)
    listed = _local_files(local, field) if local is not None else _remote_files(path, field)
    if listed is None:
        what = "does not exist or cannot be reached"
        if local is not None:
            # What a relative path begins at is seldom looked at, and often the mistake.
            is_relative = not os.path.isabs(os.path.expanduser(path)) and "://" not in path
            what = f"does not exist in {os.getcwd()}" if is_relative else "does not exist"
        raise FileNotFoundError(f"{field}={path!r} {what}; name an existing file or folder")
    # A single file is taken whatever its suffix: the user has named it.
    if isinstance(listed, File):
        return [listed], []
    wanted, others = [], []
    # Listings come in any order; the corpus must not depend on it.
    for file in sorted(listed, key=lambda file: (file.name, file.path)):
        if not posixpath.basename(file.name).startswith("."):
            (wanted if file.name.lower().endswith(suffixes) else others).append(file)
    if not wanted:
        # Every name ends in "".
        kind = f"{' or '.join(suffixes)} file".lstrip()
        raise ValueError(f"{field}={path!r} holds no {kind}; name a folder that does")
    return wanted, others


def _local_files(root: str, field: str) -> Iterable[File] | File | None:
    def refuse(error: OSError) -> None:  # os.walk would pass over it in silence
        raise OSError(
            f"{field}: {error.filename!r} cannot be listed ({error.strerror}); "
            "make it readable or name folders without it"
        )

    if os.path.isfile(root):
        return _local_file(root, os.path.dirname(root))
    if not os.path.isdir(root):
        return None
    files, links, entered = [], [root], set()
    while links:
        # Links wait until all that is really there is known, whatever the order of names.
        top = links.pop(0)
        real = os.path.realpath(top)
        # Neither what was read already nor a folder that what was read lies in.
        if any(_is_inside(real, known) or _is_inside(known, real) for known in entered):
            continue
        entered.add(real)
        for folder, folders, names in os.walk(top, onerror=refuse):
            files += [_local_file(os.path.join(folder, name), root) for name in names]
            below = sorted(os.path.join(folder, name) for name in folders)
            links += [path for path in below if os.path.islink(path)]
    return files


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _local_file(path: str, root: str) -> File:
    try:
        n_bytes = os.stat(path).st_size
    except OSError:
        n_bytes = 0
    return File(
        address(path),
        os.fsencode(os.path.relpath(path, root)).decode(errors="backslashreplace"),
        n_bytes,
    )


def _remote_files(url: str, field: str) -> list[File] | File | None:
    try:
        store, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        # A protocol that fsspec does not know, or one whose package is missing.
        raise ValueError(
            f"{field}={url!r} cannot be opened: {error}; install what it names, or use another address"
        ) from error
    # To HTTP a folder is a page like any other: only the slash tells it from a file.
    is_index = "http" in str(store.protocol) and url.endswith("/")
    try:
        if not is_index and store.isfile(root):
            return File(
                url, posixpath.basename(root.rstrip("/")), store.info(root).get("size") or 0
            )
        if not is_index and not store.isdir(root):
            return None
        # Not `find`, which skips silently what it cannot list.
        walk = store.walk(root, detail=True, on_error="raise")
        infos_by_name = {info["name"]: info for _, _, infos in walk for info in infos.values()}
    except Exception as error:  # every store has exceptions of its own
        raise OSError(
            f"{field}={url!r} cannot be listed ({type(error).__name__}: {error}); "
            "check the address and access"
        ) from error
    # Names inside the folder, so that a corpus does not depend on where it was copied from.
    top = root.rstrip("/") + "/"
    return [
        File(store.unstrip_protocol(name), name.removeprefix(top), info.get("size") or 0)
        for name, info in infos_by_name.items()
    ]


def parts_of_files(paths: tuple[str, ...], suffixes: tuple[str, ...], *, field: str) -> list[Part]:
    """Parts of one large file or many small ones, named NUMBER/NAME: the number of the path, and its first
    file; raises as `files_under`.
    """
    parts = []
    for number, files in enumerate(files_of_paths(paths, suffixes, field=field)):
        for batch in batches(files):
            parts.append(part_of(batch, number))
    return parts


def files_of_paths(
    paths: tuple[str, ...], suffixes: tuple[str, ...], *, field: str
) -> list[list[File]]:
    """The files of each path; raises as `files_under`."""
    if not paths:
        raise ValueError(f"{field}=() names nothing to read; name a file or folder")
    return [files_under(path, suffixes, field=field) for path in paths]


def part_of(files: list[File], number: int = 0) -> Part:
    """The files as one part; their names travel with it."""
    names = json.dumps([file.name for file in files])
    return Part(f"{number:05d}/{files[0].name}", tuple(file.path for file in files), names)


def files_of(part: Part) -> Iterator[tuple[str, str]]:
    """(path, name) of each file of a part that `part_of` made."""
    return zip(part.inputs, json.loads(part.detail), strict=True)


def batches(files: Iterable[File]) -> Iterator[list[File]]:
    """Files in runs of about `BATCH_BYTES`, each the work of one part."""
    batch, total = [], 0
    for file in files:
        batch.append(file)
        # Opening a file takes as long as reading a page of the disk.
        total += max(file.n_bytes, 1 << 12)
        if total >= BATCH_BYTES:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def name_in(folder: str, path: str) -> str:
    """The name of the `File` with this path that `files_under(folder)` found."""
    local, root = local_path(path), local_path(folder)
    if local is not None and root is not None:
        return _local_file(local, root if os.path.isdir(root) else os.path.dirname(root)).name
    # The store's own form of both addresses: they may differ in scheme or slashes.
    store, top = fsspec.core.url_to_fs(folder)
    inside = store._strip_protocol(path)
    return (
        posixpath.basename(inside) if inside == top else inside.removeprefix(top.rstrip("/") + "/")
    )
