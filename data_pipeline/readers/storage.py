"""Where raw files lie, a disk or an object store (whatever fsspec knows), and how one is opened: always as
a file on this machine.
"""

import contextlib
import errno
import hashlib
import mmap
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote_to_bytes, urlsplit

import fsspec

from data_pipeline.files import OutputError, writing

URL = re.compile(r"[a-z][a-z0-9+.-]*(?:://|::)", re.IGNORECASE)
# Large enough that a request's latency is small beside its transfer.
CHUNK_BYTES = 8 << 20


class Unreadable(OSError):
    """A local file that is there but cannot be read; readers count it. A store that does not answer is
    another OSError, and fatal.
    """


def local_path(path: str) -> str | None:
    """The path on this machine, absolute, of a path or file:// URL; None for any other URL."""
    if path.lower().startswith("file://"):
        # Bytes first: a percent-encoded name need not be UTF-8.
        return os.fsdecode(unquote_to_bytes(urlsplit(path).path))
    return None if URL.match(path) else os.path.abspath(os.path.expanduser(path))


def address(path: str) -> str:
    """What stands for a local path in a `Part`: itself, or a file:// URL when its bytes are no UTF-8 and no
    table could hold it.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        return Path(path).as_uri()
    return path


@contextlib.contextmanager
def opened(path: str, work: Path) -> Iterator[BinaryIO]:
    """The file, seekable and with a descriptor; a remote one is fetched whole into a nameless file in
    `work` first.

    Raises:
        Unreadable: It is on this machine and cannot be opened, or is no regular file.
        OSError: A store did not give it.
    """
    local = local_path(path)
    with _open_local(local) if local is not None else _fetched(path, work) as file:
        yield file


@contextlib.contextmanager
def mapped(path: str, work: Path) -> Iterator[mmap.mmap | bytes]:
    """The bytes of a file, not in memory but searchable and sliceable; raises as `opened`."""
    with opened(path, work) as file:
        # An empty file cannot be mapped.
        if not os.fstat(file.fileno()).st_size:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
            yield buffer


def state_of(path: str) -> tuple[str, ...]:
    """What tells, without reading it, that a file has changed; () for a local one that cannot be looked at.

    Raises:
        OSError: A store did not answer.
    """
    if (local := local_path(path)) is not None:
        try:
            status = os.stat(local)
        except OSError:
            return ()
        # Nanoseconds: a file may be written twice within a second.
        return str(status.st_size), str(status.st_mtime_ns)
    try:
        store, name = fsspec.core.url_to_fs(path)
        info = store.info(name)
    except Exception as error:  # every store has exceptions of its own
        raise OSError(
            f"{path} cannot be looked at ({type(error).__name__}: {error}); check the address and access"
        ) from error
    return tuple(str(info.get(field)) for field in ("size", "mtime", "ETag"))


def sha256_of(path: str, work: Path) -> str:
    """Hex SHA-256 of a raw file; "" for a local one that cannot be read, which its reader counts. Raises as
    `opened`.
    """
    try:
        with opened(path, work) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except Unreadable:
        return ""


def _open_local(path: str) -> BinaryIO:
    try:
        # Without O_NONBLOCK a named pipe would wait here for somebody to write to it.
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise OSError(errno.EINVAL, "no regular file", path)
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from error
    return file


def _fetched(path: str, work: Path) -> BinaryIO:
    with writing(work):
        work.mkdir(parents=True, exist_ok=True)
        # Without a name, so that nothing is left when this process is killed.
        file = tempfile.TemporaryFile(dir=work)
    try:
        with fsspec.open(path, "rb") as remote:
            while chunk := remote.read(CHUNK_BYTES):
                with writing(work):
                    file.write(chunk)
            # fsspec's files of some stores do not know their size
            n_bytes = getattr(remote, "size", None)
        # Some stores end a broken transfer as if the file were whole.
        if n_bytes is not None and file.tell() != n_bytes:
            raise EOFError(f"{file.tell()} bytes came of {n_bytes}")
        with writing(work):
            file.flush()
    except BaseException as error:
        file.close()
        # A full disk of ours is not the store's fault, and Ctrl-C is nobody's.
        if isinstance(error, OutputError) or not isinstance(error, Exception):
            raise
        raise OSError(
            f"{path} could not be fetched ({type(error).__name__}: {error}); "
            "check address and access, then repeat"
        ) from error
    file.seek(0)
    return file
