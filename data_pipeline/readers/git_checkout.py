"""A git checkout, read without git: the revision that is checked out, and the paths that its ignore files
name.
"""

import re
from pathlib import Path
from typing import NamedTuple

from pathspec import GitIgnoreSpec

MAX_GIT_FILE_BYTES = 16 << 20  # packed-refs of a repository with very many branches
OBJECT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")  # SHA-1 or SHA-256
REVISION_CHARS = 12


class Ignore(NamedTuple):
    """One ignore file: paths below `folder` ("" or one that ends in a slash) go through `spec`."""

    folder: str
    spec: GitIgnoreSpec


def revision(repository: Path) -> str:
    """The first 12 digits of the commit that `repository` has checked out; "" when there is none yet or it
    cannot be read.
    """
    git = _git_folder(repository)
    head = _read(git / "HEAD")
    name = head.removeprefix("ref:").strip()
    # No `ref:` before it: the head is detached, and HEAD holds the commit itself.
    if name == head.strip():
        return _digits(name)
    # A worktree shares its references with the main checkout, whose folder this file names.
    common = git / (_read(git / "commondir").strip() or ".")
    # A branch is a loose file until git packs it; a loose one is the newer of the two.
    loose = _digits(_read(git / name)) or _digits(_read(common / name))
    if loose:
        return loose
    packed = (line.split(" ", 1) for line in _read(common / "packed-refs").splitlines())
    return next((_digits(row[0]) for row in packed if len(row) == 2 and row[1] == name), "")


def ignore_file(path: Path, folder: str) -> tuple[Ignore, ...]:
    """What an ignore file says of the paths below `folder`; nothing when it is not there or cannot be
    read.
    """
    lines = _read(path).splitlines()
    try:
        return (Ignore(folder, GitIgnoreSpec.from_lines(lines)),) if lines else ()
    except ValueError:  # a pattern that git itself would take for no match
        return (Ignore(folder, GitIgnoreSpec.from_lines(_valid(lines))),)


def info_exclude(repository: Path, folder: str) -> tuple[Ignore, ...]:
    """The checkout's private ignore file."""
    return ignore_file(_git_folder(repository) / "info" / "exclude", folder)


def ignored(path: str, ignores: tuple[Ignore, ...]) -> bool:
    """Whether the ignore files leave `path` out (a folder's ends in a slash); the innermost one that names
    it decides.
    """
    # The innermost file is the last, and decides first; `!pattern` makes its decision a no.
    for ignore in reversed(ignores):
        decision = ignore.spec.check_file(path[len(ignore.folder) :]).include
        if decision is not None:
            return decision
    return False


def _valid(lines: list[str]) -> list[str]:
    valid = []
    for line in lines:
        try:
            GitIgnoreSpec.from_lines([line])
        except ValueError:
            continue
        valid.append(line)
    return valid


def _git_folder(repository: Path) -> Path:
    git = repository / ".git"
    pointer = _read(git) if git.is_file() else ""  # of a worktree or a submodule
    return (
        repository / pointer.removeprefix("gitdir:").strip()
        if pointer.startswith("gitdir:")
        else git
    )


def _digits(text: str) -> str:
    match = OBJECT.fullmatch(text.strip())
    return match[0][:REVISION_CHARS] if match else ""


def _read(path: Path) -> str:
    try:
        if not path.is_file():  # a pipe would never end
            return ""
        with path.open("rb") as file:
            return file.read(MAX_GIT_FILE_BYTES).decode(errors="replace")
    except (OSError, ValueError):  # ValueError: a NUL in a name that a broken file gave
        return ""
