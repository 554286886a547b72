"""Every way a command ends has its code and one sentence; what is no fault of the user's is never dressed
as one.
"""

import errno
import json

import pytest

from launch.job.overrides import override
from launch.job.yaml import parse_yaml
from launch.process.failures import PeerFailed, Terminated, explain
from trainer.ending import Diverged, Stopped


def raised(action):
    """The exception that `action` raises, with its traceback."""
    try:
        action()
    except BaseException as error:
        return error


class JaxRuntimeError(RuntimeError):
    """Named like XLA's."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
        (PeerFailed(4, "process 0: loss is nan"), 4),
        (OSError(errno.ENOSPC, "No space left on device", "/x/shard"), 2),
        (RuntimeError("RESOURCE_EXHAUSTED: write failed: No space left on device"), 2),
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
