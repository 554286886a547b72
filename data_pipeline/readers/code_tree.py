"""Source files of a folder, or of this Python's standard library."""

import io
import os
import sysconfig
import tokenize
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from pydantic import BaseModel

from data_pipeline.document import Document, content_id
from data_pipeline.drops import Drops
from data_pipeline.readers.folder import files_under

MAX_FILE_BYTES = 2 << 20  # a longer source file is data
NOT_SOURCE = ("*/__pycache__/*", "*/.git/*", "*/site-packages/*", "*/dist-packages/*", "*/node_modules/*")
# tests, bundled third parties, another source's text (topics), this machine's build settings, tables written by gencodec.py
STDLIB_EXCLUDE = tuple(
    """*/test/* */tests/* */idle_test/* */ensurepip/_bundled/* */lib-dynload/* */config-*/* */_sysconfigdata* */pydoc_data/topics.py
    */encodings/cp* */encodings/iso8859* */encodings/mac_* */encodings/koi8* */encodings/hp_roman8.py */encodings/kz1048.py
    */encodings/palmos.py */encodings/ptcp154.py */encodings/tis_620.py */turtledemo/*""".split()
)


class CodeTree(BaseModel, frozen=True, extra="forbid", strict=True):
    """The source files under a folder.

    Attributes:
        folder: The tree.
        suffixes: Names of source files end in one of these.
        exclude: Patterns (`*` also matches `/`) of paths to leave out, matched against "/" + the path inside the tree.
    """

    folder: str
    suffixes: tuple[str, ...] = (".py",)
    exclude: tuple[str, ...] = ()

    def documents(self, source: str, *, work: Path, drops: Drops | None = None) -> Iterator[Document]:
        """One document a file, sorted by path; path is inside the tree, group is its first part that tells files apart.

        Raises:
            FileNotFoundError: No such folder.
            ValueError: It holds no source file, or none that can be decoded.
        """
        drops = Drops() if drops is None else drops
        field, root = f"sources.{source}.folder", Path(self.folder).expanduser()
        files = files_under(self.folder, self.suffixes, field=field)
        paths = [PurePosixPath(file.relative_to(root if root.is_dir() else root.parent).as_posix()) for file in files]
        kept = [(file, path) for file, path in zip(files, paths, strict=True) if not matches(path, NOT_SOURCE + self.exclude)]
        shared = len(os.path.commonpath([path.parent for _, path in kept]).split("/")) if is_nested(kept) else 0
        n_documents = 0
        for file, path in kept:
            text = decode(file, source, drops)
            if text is not None:
                n_documents += 1
                yield Document(content_id(text), text, source, str(path), PurePosixPath(path.parts[shared]).stem)
        if not n_documents:
            raise ValueError(f"{field}={self.folder!r} holds no readable {' or '.join(self.suffixes)} file after `exclude`; name another")


class StdlibCode(BaseModel, frozen=True, extra="forbid", strict=True):
    """The standard library's own source tree, without its tests; `exclude` as in `CodeTree`."""

    exclude: tuple[str, ...] = STDLIB_EXCLUDE

    def documents(self, source: str, *, work: Path, drops: Drops | None = None) -> Iterator[Document]:
        """One document a file; group is the top-level module, as in `StdlibDocs`."""
        tree = CodeTree(folder=sysconfig.get_paths()["stdlib"], exclude=self.exclude)
        return tree.documents(source, work=work, drops=drops)


def matches(path: PurePosixPath, patterns: tuple[str, ...]) -> bool:
    """Whether one of the patterns leaves the path out."""
    return any(fnmatch(f"/{path}", pattern) for pattern in patterns)


def is_nested(kept: list[tuple[Path, PurePosixPath]]) -> bool:
    """Whether all files lie below one common folder of the tree (`src/`), which then tells nothing about a file."""
    return bool(kept) and os.path.commonpath([f"/{path.parent}" for _, path in kept]) != "/"


def decode(file: Path, source: str, drops: Drops) -> str | None:
    """The file's text: UTF-8, or for Python what its coding line says (PEP 263); None, counted, when that fails."""
    try:
        data = file.read_bytes()
    except OSError as error:
        return drops.add(source, "file_unreadable", f"{file}: {error.strerror}")
    if len(data) > MAX_FILE_BYTES:
        return drops.add(source, "file_too_large", str(file))
    try:
        coding = tokenize.detect_encoding(io.BytesIO(data).readline)[0] if file.suffix in (".py", ".pyi") else "utf-8-sig"
        text = data.decode(coding)
    except (UnicodeDecodeError, SyntaxError, LookupError):  # SyntaxError: an unknown or contradicted coding line
        return drops.add(source, "file_not_utf8", str(file))
    return text if text.strip() else drops.add(source, "file_empty", str(file))
