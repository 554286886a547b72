"""Temporary files and shared memory, named after a folder that their process holds locked: what a killed
process has left is told from what a living one uses, and the next start removes it.
"""

import atexit
import contextlib
import errno
import fcntl
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "meshwright-tmp-"
SHARED_MEMORY = Path("/dev/shm")
# A Unix socket's path has 107 bytes at most; one in the folder needs 36 of them behind its parent.
LONGEST_PARENT = 71
# what file systems without locks answer, as some of a network are
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@functools.cache
def own_folder() -> Path:
    """The temporary folder of this process, which nobody else removes while it lives; deleted at its end.

    The first call removes what dead processes of this user have left.
    """
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > LONGEST_PARENT and os.access("/tmp", os.W_OK):
        parent = "/tmp"
    remove_leftovers(Path(parent))
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        # Another process may take it for a dead one's, and remove it, before it is opened or locked.
        with contextlib.suppress(FileNotFoundError):
            _lock(os.open(folder, os.O_RDONLY))
        if folder.exists():
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            return folder


def remove_leftovers(parent: Path) -> None:
    """Delete the folders in `parent` that no living process holds locked, and their shared memory."""
    for folder in parent.glob(f"{PREFIX}*"):
        # Also for a folder of another user, and for one that is being deleted just now.
        with contextlib.suppress(OSError), _locked(folder):
            for segment in SHARED_MEMORY.glob(f"{folder.name}-*"):
                segment.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)


def _lock(descriptor: int) -> None:
    """Lock a folder for as long as this process lives: nobody closes it, and the system gives it up."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        # Where there are no locks others get none either, and so remove nothing.
        if error.errno not in NO_LOCKS:
            raise


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Raises OSError if a living process has the lock, or the folder is no folder of ours."""
    # No link: what it points to may be anybody's.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid != os.getuid():
            raise PermissionError(folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is deleted after the block; after a kill, by the next start."""
    with tempfile.TemporaryDirectory(dir=own_folder()) as name:
        yield Path(name)


@contextlib.contextmanager
def files_in_own_folder() -> Iterator[None]:
    """Temporary files that libraries make in the block, such as sockets, lie in `own_folder`."""
    before = tempfile.tempdir
    tempfile.tempdir = str(own_folder())
    try:
        yield
    finally:
        tempfile.tempdir = before
