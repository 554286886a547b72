"""What a killed process leaves in temporary folders and shared memory is removed by the next start; what a
living one uses is not.
"""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from daft.execution.udf import SharedMemoryTransport

from data_pipeline.engine.runner import name_segments
from data_pipeline.temporary import PREFIX, SHARED_MEMORY, own_folder, temporary_folder
from tests.launch.command import environment, until

# A job of the engine whose workers never come to an end, and one that is only started.
WORKS = """
import sys
from data_pipeline.engine.runner import Engine
from data_pipeline.temporary import own_folder
from tests.data_pipeline.test_temporary import never
if __name__ == "__main__":
    print(own_folder(), flush=True)
    list(Engine(workers=2).map(never, [1, 2, 3]))
"""
STARTS = "from data_pipeline.temporary import own_folder; own_folder()"


def never(task: int) -> None:
    sys.stdin = open(os.devnull)
    signal.pause()


def segments(folder: Path) -> list[Path]:
    return list(SHARED_MEMORY.glob(f"{folder.name}-*"))


def begin(parent: Path) -> tuple[subprocess.Popen, Path]:
    """A process at work, and its own folder in `parent`."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKS],
        env=environment(TMPDIR=str(parent)),
        stdout=subprocess.PIPE,
        text=True,
    )
    folder = Path(process.stdout.readline().strip())
    # the sockets of two workers
    until(lambda: len(list(folder.iterdir())) >= 2, "the workers")
    return process, folder


def start(parent: Path) -> None:
    env = environment(TMPDIR=str(parent))
    subprocess.run([sys.executable, "-c", STARTS], env=env, check=True, timeout=120)


def test_the_next_start_removes_what_a_killed_one_left_and_nothing_else(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("t")  # short: sockets lie in it
    process, folder = begin(tmp_path)
    # as a task on its way to a worker, which is deleted by nobody else
    segment = SHARED_MEMORY / f"{folder.name}-psm_0"
    segment.write_bytes(b"task")
    others = [tmp_path / "tmp1234", SHARED_MEMORY / f"{PREFIX}{os.getpid()}-psm_0"]
    for other in others:
        other.write_bytes(b"")
    try:
        start(tmp_path)
        assert segment.exists() and folder.exists(), "it is alive"
        process.kill()
        process.wait()
        start(tmp_path)
        assert not segments(folder) and not folder.exists()
        assert all(other.exists() for other in others)
    finally:
        process.kill()
        process.communicate()
        for path in (*others, *segments(folder)):
            path.unlink(missing_ok=True)
    assert not list(tmp_path.glob(f"{PREFIX}*")), "each deletes its own at its end"


def test_daft_sends_tasks_and_outcomes_in_segments_that_name_their_process():
    name_segments(own_folder().name)
    transport = SharedMemoryTransport()
    name, size = transport.write_and_close(b"a task")
    assert [path.name for path in segments(own_folder())] == [name]
    assert transport.read_and_release(name, size) == b"a task" and not segments(own_folder())


def test_a_temporary_folder_is_deleted_after_its_block():
    with temporary_folder() as folder:
        (folder / "file").write_bytes(b"")
        assert folder.parent == own_folder()
    assert not folder.exists() and own_folder().exists()


def test_a_folder_that_another_process_has_removed_is_made_again(tmp_path, monkeypatch):
    made = []

    def mkdtemp(**where):
        # The first is gone before it can be opened.
        made.append(make(**where))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    make = tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert str(own_folder.__wrapped__()) == made[1]


def test_a_file_system_without_locks_is_used_unlocked(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folders = [own_folder.__wrapped__() for _ in range(2)]
    # Neither has been taken for one that a dead process left.
    assert all(folder.is_dir() for folder in folders)
