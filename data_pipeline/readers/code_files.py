"""The source files of a tree, found by names and sizes alone, in the order of their paths."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from data_pipeline.readers.code_kind import Kind, kind_of_path
from data_pipeline.readers.git_checkout import Ignore, ignore_file, ignored, info_exclude, revision
from data_pipeline.readers.languages import language_of_name
from data_pipeline.readers.package_licences import is_evidence

MAX_FILE_BYTES = 2 << 20  # a longer source file is data
MAX_NOTEBOOK_BYTES = 32 << 20  # its outputs, which are dropped, are pictures


class Found(NamedTuple):
    """One file, or one folder that is not entered."""

    path: str  # inside the tree, with slashes, as the system gives it (bytes that are no UTF-8 as surrogates)
    n_bytes: int = 0
    drop: str = ""  # why it is no document; "" = to be read
    is_evidence: bool = False  # a licence's text or a package's description


class Selection(NamedTuple):
    """What is wanted of a tree."""

    languages: frozenset[str]
    leave_out: tuple[Kind, ...]
    exclude: tuple[str, ...]  # patterns; `*` also matches `/`


class Folder(NamedTuple):
    """Where the walk is, and what it brought along from above."""

    path: str  # "" or one that ends in a slash
    repository: str | None = None  # the nearest checkout's path, None outside of any
    ignores: tuple[Ignore, ...] = ()


def walk(root: Path, selection: Selection, revisions: dict[str, str]) -> Iterator[Found]:
    """Files under `root` sorted by path; hidden ones and links to folders are not entered, so no link can
    make a loop.

    `revisions` is filled with the checkouts met: path inside the tree → revision.
    """
    # A stack of our own instead of recursion: a tree may be deeper than Python's stack.
    stack: list[Folder | Found] = [Folder("")]
    while stack:
        item = stack.pop()
        if isinstance(item, Found):
            yield item
        else:
            try:
                # In reverse, for what is pushed last is taken first.
                entries = sorted(os.scandir(root / item.path), key=_path_order, reverse=True)
            except OSError:
                yield Found(item.path, drop="folder_unreadable")
                continue
            item = _enter(root, item, {entry.name for entry in entries}, selection, revisions)
            stack += [
                below for entry in entries if (below := _look(entry, item, selection)) is not None
            ]


def _path_order(entry: os.DirEntry) -> str:
    # In the order of whole paths: "a.py" comes before "a/b.py", because "." is less than "/".
    return f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name


def _enter(
    root: Path, folder: Folder, names: set[str], selection: Selection, revisions: dict[str, str]
) -> Folder:
    # A folder or, in a worktree or submodule, a file: either begins a checkout.
    if ".git" in names:
        path = folder.path.rstrip("/")
        revisions[path] = revision(root / path)
        folder = Folder(folder.path, path, info_exclude(root / path, folder.path))
    if (
        folder.repository is not None
        and ".gitignore" in names
        and "git_ignored" in selection.leave_out
    ):
        folder = folder._replace(
            ignores=folder.ignores + ignore_file(root / folder.path / ".gitignore", folder.path)
        )
    return folder


def _look(entry: os.DirEntry, folder: Folder, selection: Selection) -> Folder | Found | None:
    path = folder.path + entry.name
    if (
        entry.name.startswith(".")
        or entry.name == "__pycache__"
        or is_excluded(path, selection.exclude)
    ):
        return None
    if entry.is_dir(follow_symlinks=False):
        # Like git, an ignored folder is not entered: what is inside cannot be un-ignored.
        if "git_ignored" in selection.leave_out and ignored(f"{path}/", folder.ignores):
            return Found(f"{path}/", drop="git_ignored")
        return Folder(f"{path}/", folder.repository, folder.ignores)
    return _file(entry, path, folder, selection)


def _file(entry: os.DirEntry, path: str, folder: Folder, selection: Selection) -> Found | None:
    language = language_of_name(entry.name)
    evidence = is_evidence(path)
    # A file without a suffix may be a script, which its first line tells when it is read.
    may_be_script = not language and "." not in entry.name
    wanted = language in selection.languages or may_be_script
    if not wanted and not evidence:
        return None
    kind = kind_of_path(path)
    if kind in selection.leave_out:
        return Found(path, drop=kind) if language in selection.languages else None
    if "git_ignored" in selection.leave_out and ignored(path, folder.ignores):
        return Found(path, drop="git_ignored") if language in selection.languages else None
    try:
        status = entry.stat()
    except OSError as error:
        return Found(f"{path}: {error.strerror}", drop="file_unreadable") if language else None
    # `stat` follows links, `is_dir` above did not: this is a link to a folder.
    if stat.S_ISDIR(status.st_mode):
        return Found(path, drop="folder_link")
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would never end
        return Found(path, drop="not_a_file") if language else None
    if status.st_size > (MAX_NOTEBOOK_BYTES if path.endswith(".ipynb") else MAX_FILE_BYTES):
        return Found(path, drop="file_too_large") if language else None
    return Found(path, status.st_size, is_evidence=evidence, drop="" if wanted else "evidence")


def is_excluded(path: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of the patterns matches "/" + path."""
    return any(fnmatch(f"/{path}", pattern) for pattern in patterns)


def common_depth(paths: list[str]) -> int:
    """How many folders all files share (`src/`): they tell nothing about a file."""
    folders = {path.rpartition("/")[0] for path in paths}
    return (
        len(
            [
                part
                for part in os.path.commonpath([f"/{folder}" for folder in folders]).split("/")
                if part
            ]
        )
        if folders
        else 0
    )


def batches(files: list[Found], *, depth: int, most_bytes: int) -> Iterator[list[Found]]:
    """Files in their order, cut between top-level folders where it can be, and inside one that alone is
    larger.
    """
    # Bytes of each top-level folder, which are kept together where they fit.
    sizes = Counter[str]()
    for file in files:
        sizes["/".join(file.path.split("/")[: depth + 1])] += file.n_bytes
    batch: list[Found] = []
    n_bytes, unit_before = 0, None
    for file in files:
        unit = "/".join(file.path.split("/")[: depth + 1])
        # A folder that fits into one part is not cut: a part is closed before it rather than inside.
        ahead = sizes[unit] if unit != unit_before and sizes[unit] <= most_bytes else file.n_bytes
        if batch and n_bytes + ahead > most_bytes:
            yield batch
            batch, n_bytes = [], 0
        batch.append(file)
        n_bytes, unit_before = n_bytes + file.n_bytes, unit
    if batch:
        yield batch
