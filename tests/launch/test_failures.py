"""Every way a command ends has its code and one sentence; what is no fault of the user's is never dressed
as one.
"""

import errno
import json
import subprocess
import sys

import pytest

from data_pipeline.files import OutputError
from launch.job.overrides import override
from launch.job.yaml import parse_yaml
from launch.process import failures
from launch.process.failures import PeerFailed, Terminated, explain
from tests.launch.command import environment
from trainer.ending import Diverged, Stopped


def raised(action):
    """The exception that `action` raises, with its traceback."""
    try:
        action()
    except BaseException as error:
        return error


class JaxRuntimeError(RuntimeError):
    """Named like XLA's."""


class PanicException(BaseException):
    """Named like that of libraries in Rust."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
        (PeerFailed(4, "process 0: loss is nan"), 4),
        (OSError(errno.ENOSPC, "No space left on device", "/x/shard"), 2),
        (RuntimeError("RESOURCE_EXHAUSTED: write failed: No space left on device"), 2),
        (OSError(errno.EMFILE, "Too many open files", "/x/shard"), 2),
        (OSError(errno.EFBIG, "File too large", "/x/shard"), 2),
        (RuntimeError("can't start new thread"), 2),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), 2),
        (MemoryError(), 2),
        (ImportError("libx.so: failed to map segment from shared object"), 2),
        (JaxRuntimeError("INTERNAL: pthread_create failed: Resource temporarily unavailable"), 2),
        (PanicException("failed to spawn thread: Resource temporarily unavailable"), 2),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"), 2),
        (JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), 3),
        (JaxRuntimeError("Gloo AllGather failed: Connection reset by peer"), 75),
        (JaxRuntimeError("INTERNAL: a fault"), 1),
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer"), 75),
        (KeyError("x"), 1),
        (AssertionError(), 1),
    ],
    ids=str,
)
def test_each_end_has_its_code(error, code):
    found, sentence = explain(error)
    assert found == code and (sentence is None) == (code == 1)


def test_a_value_error_of_ours_is_the_users_and_one_of_a_library_is_not():
    assert explain(raised(lambda: parse_yaml("[", "a")))[0] == 2
    assert explain(raised(lambda: json.loads("{")))[0] == 1
    assert explain(raised(lambda: override({}, [None])))[0] == 1


def test_the_guards_ends_have_their_codes():
    assert explain(Stopped("SIGINT", 3))[0] == 130
    assert explain(Stopped("SIGTERM", 3)) == (
        143,
        "stopped by SIGTERM after step 3; the state is saved",
    )
    assert explain(Diverged("loss is nan"))[0] == 4


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.EMFILE, "raise `ulimit -n`"), (errno.EFBIG, "raise `ulimit -f`")]
)
def test_the_error_of_a_limit_names_the_file_and_how_to_raise_it(number, remedy):
    _, sentence = explain(OSError(number, "as the system says", "/x/shard"))
    assert sentence.startswith("/x/shard: ") and remedy in sentence


def test_an_output_that_meets_a_limit_is_named_with_the_remedy_of_the_limit():
    _, sentence = explain(OutputError("cannot write /x/shard: Too many open files; free space"))
    assert sentence.startswith("cannot write /x/shard: Too many open files; raise `ulimit -n`")


@pytest.mark.parametrize("filename", [None, "/psm_1a2b3c"])
def test_full_shared_memory_is_not_blamed_on_the_output_folder(monkeypatch, tmp_path, filename):
    monkeypatch.setattr(failures, "SHARED_MEMORY", str(tmp_path))
    full = OSError(errno.ENOSPC, "No space left on device", filename)
    assert str(tmp_path) not in explain(full)[1]
    # no disk has so much free
    monkeypatch.setattr(failures, "NO_SPACE_BYTES", 1 << 80)
    assert explain(full)[1].startswith(f"{tmp_path}: the shared memory")
    of_run = OSError(errno.ENOSPC, "No space left on device", "/x/shard")
    assert explain(of_run)[1].startswith("/x/shard: the disk is full")


LAST_SAVE = """
from launch.process.environment import prepare_process
prepare_process()
import pathlib, resource, signal, sys
import jax
from launch.process.failures import explain
from tests.trainer.checkpoint_process import LARGE, POSITION, RUN, state_on
from model.mesh import make_mesh
from trainer.checkpoints.checkpointer import Checkpointer, Checkpoints

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
checkpointer = Checkpointer(
    pathlib.Path(sys.argv[1]), Checkpoints(every_steps=1, keep=2), event=lambda *_, **__: None
)
mesh = make_mesh(jax.devices())
with jax.set_mesh(mesh):
    state = state_on(mesh, 1, LARGE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    checkpointer.save(state, POSITION, RUN)
    try:
        checkpointer.wait()
    except OSError as error:
        print(*explain(error), flush=True)
import os
os._exit(0)
"""


def test_a_last_save_that_fails_is_one_sentence_without_tracebacks_of_libraries(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LAST_SAVE, str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("2 cannot save a checkpoint in") and "ulimit -f" in done.stdout
