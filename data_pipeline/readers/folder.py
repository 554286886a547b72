"""The user's files and folders: found in sorted order, or one sentence that says what is missing."""

import os
from pathlib import Path


def files_under(path: str, suffixes: tuple[str, ...], *, field: str) -> list[Path]:
    """`path` itself when it is a file, else the files below it that end in one of `suffixes`, sorted by their relative path.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: It is a folder without such a file.
    """
    root = Path(path).expanduser()
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise FileNotFoundError(f"{field}={path!r} does not exist; name an existing file or folder")
    found = [
        Path(folder, name) for folder, _, names in os.walk(root) for name in names if name.endswith(suffixes) and not name.startswith(".")
    ]
    if not found:
        raise ValueError(f"{field}={path!r} holds no {' or '.join(suffixes)} file; name a folder that does")
    return sorted(found, key=lambda file: file.relative_to(root).as_posix())
