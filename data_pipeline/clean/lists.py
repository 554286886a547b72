"""The user's word lists, blocklists and folders of examples: read once a process, and again when they
change.
"""

import json
import os
from collections.abc import Iterator
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

# Path, size and time of a file: what is cached of it is valid as long as these stay the same.
State = tuple[str, int, int]


class UserList(NamedTuple):
    """Attributes:
    lines: The lines that are not blank and no `#` comments, stripped, in lower case.
    sha256: Of the file.
    """

    lines: frozenset[str]
    sha256: str


def user_list(file: str, *, field: str) -> UserList:
    """A text file with an entry a line.

    Raises:
        ValueError: It cannot be read, or has no entry.
    """
    try:
        # The cache is keyed by size and time too, so an edited list is read again within one process.
        entries = _user_list(_state(Path(os.path.expanduser(file))))
    except (OSError, UnicodeError) as error:
        raise ValueError(
            f"{field}={file!r} cannot be read ({error}); name a text file with an entry a line"
        ) from error
    if not entries.lines:
        raise ValueError(f"{field}={file!r} has no entry; name a text file with an entry a line")
    return entries


@lru_cache(maxsize=32)
def _user_list(state: State) -> UserList:
    data = Path(state[0]).read_bytes()
    lines = (line.strip().lower() for line in data.decode().split("\n"))
    return UserList(
        frozenset(line for line in lines if line and not line.startswith("#")),
        sha256(data).hexdigest(),
    )


def examples_in(folder: str) -> Iterator[str]:
    """The texts of a folder: each .txt file, and the field `text` of each line of its .jsonl files."""
    for file in files_in(folder):
        text = file.read_text()
        if file.suffix == ".txt":
            yield text
        else:
            yield from (json.loads(line)["text"] for line in text.split("\n") if line.strip())


def examples_sha256(folder: str, *, field: str) -> str:
    """Hash of the contents of the files that `examples_in` reads, whatever their names and order.

    Raises:
        ValueError: There is none.
    """
    # Hashes are sorted before they are joined: renaming or moving an example changes nothing.
    states = tuple(_state(file) for file in files_in(folder))
    if not states:
        raise ValueError(
            f"{field}={folder!r} holds no .txt or .jsonl file; name a folder of example texts"
        )
    return _sha256(states)


@lru_cache(maxsize=32)
def _sha256(states: tuple[State, ...]) -> str:
    return sha256(
        "".join(sorted(sha256(Path(path).read_bytes()).hexdigest() for path, *_ in states)).encode()
    ).hexdigest()


def files_in(folder: str) -> list[Path]:
    """Every .txt and .jsonl file below the folder, sorted."""
    return sorted(
        file
        for file in Path(os.path.expanduser(folder)).rglob("*")
        if file.suffix in (".txt", ".jsonl") and file.is_file()
    )


def _state(path: Path) -> State:
    stat = path.stat()
    return str(path), stat.st_size, stat.st_mtime_ns
