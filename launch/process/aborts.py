"""What libraries in C++ end by `abort`, without an exception: a sentence and exit code 75 in its place."""

import os
import signal
import socket
import sys

from launch.process.failures import PEER_LOST
from trainer.cluster.c_signals import handle_in_c

OF_LIMITS = (
    "meshwright: error: a library has aborted this process, as they do when threads or memory run out (its "
    "own lines are above); lower workers or batch sizes, or raise `ulimit -u` or `ulimit -v`, then run the "
    "same command again\n"
)


def explain_aborts() -> None:
    """From now on an abort in this process is explained by the limits that most often lead to one."""
    sentence = OF_LIMITS.encode()

    def aborted(number: int) -> None:
        # Nothing that allocates: memory may be what has run out.
        os.write(2, sentence)
        os._exit(PEER_LOST)

    handle_in_c(signal.SIGABRT, aborted)


def explain_aborts_of_peers(coordinator: str | None) -> None:
    """From now on, when jax's heartbeat aborts this process (in C++, by SIGABRT) because another one is gone,
    say which, and leave with exit code 75.

    A signal handler, because jax cannot be given a callback (0.12 cannot convert its argument to Python).
    `coordinator` is None in the process that coordinates.
    """

    # Imported now, because a handler of SIGABRT should import nothing.
    from trainer.ending import present_peers

    def aborted(number: int) -> None:
        peers = present_peers()
        lost = peers.lost() if peers else None
        if lost:
            gone = lost.lost
        elif coordinator is None or _answers(coordinator):
            # An abort does not say why: a library may have met a limit here.
            gone = "another process of this run is gone (the lines of jax above number it)"
            gone += ", or threads or memory ran out here"
        else:
            gone = "process 0, which coordinates, is gone"
        print(
            f"meshwright: error: {gone}; start the same command again", file=sys.stderr, flush=True
        )
        # os._exit: exit handlers would wait for the peers that are gone.
        os._exit(lost.code if lost else PEER_LOST)

    handle_in_c(signal.SIGABRT, aborted)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    # One second is plenty: a coordinator that is alive answers in milliseconds.
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True
