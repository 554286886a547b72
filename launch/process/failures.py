"""What ends a command early: exception → exit code and one sentence (the codes are the README's)."""

import argparse
import errno
import os
import re
import shlex
import shutil
import sys
import traceback
from pathlib import Path

from launch.process.children import typed_command

OUR_ROOMS = ("launch", "trainer", "model", "data_pipeline", "inference")
DONE = 0
UNEXPECTED = 1
USER_ERROR = 2
DOES_NOT_FIT = 3
DIVERGED = 4
PEER_LOST = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed
INTERRUPTED = 130  # 128 + SIGINT
TERMINATED = 143  # 128 + SIGTERM
SHARED_MEMORY = "/dev/shm"
# A segment that does not fit leaves less than its own size free; those of data workers are larger.
NO_SPACE_BYTES = 1 << 20
# Words in the messages of gloo, NCCL and jax's coordination service when a peer is gone.
PEER_WORDS = (
    "gloo",
    "coordination service",
    "heartbeat",
    "connection reset",
    "connection closed",
    "nccl",
    "unavailable:",
)
XLA_STATUS = (
    r"(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION): "
)


class Terminated(BaseException):
    """SIGTERM while no training loop was there to save. A BaseException, so that no `except Exception` on
    the way catches it.
    """


class PeerFailed(Exception):
    """Another process of this run ended it; `code` is its exit code, the text its sentence."""

    def __init__(self, code: int, sentence: str):
        super().__init__(sentence)
        self.code = code


def explain(error: BaseException) -> tuple[int, str | None]:
    """(exit code, sentence) of an error that the user or a restart can mend; (1, None) of a fault of ours."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "stopped by Ctrl-C"
    if isinstance(error, Terminated):
        return TERMINATED, "stopped by SIGTERM"
    if isinstance(error, PeerFailed):
        return error.code, str(error)
    known = _of_trainer(error) or _of_system(error) or _of_devices(error) or _of_user(error)
    return known or (UNEXPECTED, None)


def _of_trainer(error: BaseException) -> tuple[int, str] | None:
    """The two ends of the trainer's loop."""
    from trainer.ending import Diverged, Stopped  # imports no jax

    if isinstance(error, Stopped):
        return error.exit_code, str(error)
    return (DIVERGED, str(error)) if isinstance(error, Diverged) else None


def _of_system(error: BaseException) -> tuple[int, str] | None:
    """A full disk or quota, in the words of any library, and every OSError."""
    text = str(error)
    # Libraries in C++ report a full disk by errors of their own, without number and file.
    number, filename = None, None
    if isinstance(error, OSError):
        number, filename = error.errno, error.filename
    # ENOSPC is a full disk, EDQUOT a user's quota.
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text:
        return USER_ERROR, _full_disk(filename)
    if limit := _limit_of(error, number):
        what, remedy = limit
        if filename is not None:
            what = f"{filename}: {what}"
        elif number is None and text:
            # Its own first clause, which may name the output; what follows was meant for a full disk.
            what = text.splitlines()[0].partition(";")[0]
        return USER_ERROR, f"{what}; {remedy}, then run the same command again"
    # EROFS: the file system is mounted read-only.
    if isinstance(error, PermissionError) or number == errno.EROFS:
        return USER_ERROR, _sentence(
            error, "no permission to use it; change its permissions or choose another --dir"
        )
    if isinstance(error, FileExistsError | NotADirectoryError):
        return USER_ERROR, _sentence(
            error, "is there already and is no folder; choose another --dir or move it away"
        )
    if isinstance(error, FileNotFoundError):
        return USER_ERROR, _sentence(error, "no such file or folder; check the path")
    if filename is not None:
        reason = (error.strerror or type(error).__name__).lower()
        return USER_ERROR, f"{filename}: {reason}; check the path and its disk"

    return (USER_ERROR, text) if isinstance(error, OSError) and text else None


# limits of a process or of the machine: what has been met, and the remedy
FILES = ("this process has too many files open", "raise `ulimit -n`")
FILE_SIZE = ("a file may not become that large here", "raise `ulimit -f` or choose another --dir")
MEMORY = ("the machine has no memory left", "lower workers or batch sizes, or free some")
THREADS = ("no further process or thread can be started", "lower workers, or raise `ulimit -u`")
LIMITS = {
    errno.EMFILE: FILES,
    errno.ENFILE: (
        "the machine has too many files open",
        "end other programs or raise fs.file-max",
    ),
    errno.EFBIG: FILE_SIZE,
    errno.ENOMEM: MEMORY,
    errno.EAGAIN: THREADS,
}
# Libraries raise a RuntimeError, or an OSError without a number, with the system's words in it.
LIMITS_IN_WORDS = {
    "Too many open files": FILES,
    "File too large": FILE_SIZE,
    "larger than a file may be": FILE_SIZE,
    "can't start new thread": THREADS,
    "Resource temporarily unavailable": THREADS,
    "pthread_create": THREADS,
    "Cannot allocate memory": MEMORY,
    "cannot allocate memory": MEMORY,
    # the loader, of a library that is imported
    "failed to map segment": MEMORY,
    "std::bad_alloc": MEMORY,
}


def _limit_of(error: BaseException, number: int | None) -> tuple[str, str] | None:
    """The limit that an error has met: what it is, and what to do about it."""
    if isinstance(error, MemoryError):
        return MEMORY
    if number is not None:
        return LIMITS.get(number)
    # By name: a panic of a library in Rust is no Exception, and its class is in no module.
    by_library = isinstance(error, RuntimeError | OSError | ImportError)
    if not by_library and type(error).__name__ != "PanicException":
        return None
    text = str(error)
    # What XLA says of memory is of the devices' (`_of_devices`).
    if type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in text:
        return None
    return next((limit for words, limit in LIMITS_IN_WORDS.items() if words in text), None)


def _full_disk(filename: str | None) -> str:
    """Which disk is full. Shared memory is one too: libraries name no file there, or only `/psm_…`."""
    is_shared = filename is None or not os.path.dirname(str(filename)).strip("/")
    if is_shared and _has_no_space(SHARED_MEMORY):
        remedy = "remove what nobody uses there, or make it larger (`docker run --shm-size`)"
        return f"{SHARED_MEMORY}: the shared memory of this machine is full; {remedy}"
    remedy = "free some space or choose another --dir, then run the same command again"
    return f"{filename or 'the output folder'}: the disk is full; {remedy}"


def _has_no_space(folder: str) -> bool:
    try:
        return shutil.disk_usage(folder).free < NO_SPACE_BYTES
    except OSError:  # no such folder, as on macOS
        return False


def _sentence(error: OSError, otherwise: str) -> str:
    return f"{error.filename}: {otherwise}" if error.filename is not None else str(error)


def _of_devices(error: BaseException) -> tuple[int, str] | None:
    """What XLA raises when memory is short or a peer has gone."""
    text = str(error)
    # By name: importing jax for its class takes a second.
    if type(error).__name__ != "JaxRuntimeError" and not (
        isinstance(error, ValueError) and re.match(XLA_STATUS, text)
    ):
        return None  # jax raises some errors of gloo as a ValueError
    if "RESOURCE_EXHAUSTED" in text:
        first = text.splitlines()[0]
        remedy = "raise micro_batches or use more devices"
        return (
            DOES_NOT_FIT,
            f"the model and batch do not fit this device's memory ({first}); {remedy}",
        )
    if any(word in text.lower() for word in PEER_WORDS):
        return _peer_lost(text.splitlines()[0])
    return None


def _peer_lost(message: str) -> tuple[int, str]:
    """Which process is gone, as far as the others can tell; its own exit code where it has published one."""
    from trainer.ending import present_peers

    peers = present_peers()
    lost = peers.wait_for_lost() if peers else None
    if lost is None:
        return (
            PEER_LOST,
            f"another process of this run is gone ({message}); start the same command again",
        )
    return lost.code, lost.lost + (
        "; start the same command again" if lost.code == PEER_LOST else ""
    )


def _of_user(error: BaseException) -> tuple[int, str] | None:
    """A ValueError raised by our own code is a sentence for the user; one from inside a library is a fault
    to look into.
    """
    # The innermost frame is where it was raised.
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    # Without a traceback it was made by our own code and never raised.
    raised_in = frame.tb_frame.f_globals.get("__name__", "") if frame else OUR_ROOMS[0]
    ours = raised_in.split(".")[0] in OUR_ROOMS or raised_in in _imported_by_user()
    # UnicodeError is a subclass of ValueError, but no sentence of ours.
    is_for_user = isinstance(error, ValueError) and not isinstance(error, UnicodeError)
    return (USER_ERROR, str(error)) if is_for_user and ours else None


def _imported_by_user() -> list[str]:
    from data_pipeline.component import imported_by_user  # imports pydantic

    return imported_by_user


def report(error: BaseException, args: argparse.Namespace) -> int:
    """Tell the user why the command ended and how to go on; returns the exit code."""
    if isinstance(error, BrokenPipeError):  # as in `meshwright show tiny | head`
        # Else Python would complain again when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    code, sentence = explain(error)
    if os.environ.get("MESHWRIGHT_TRACEBACK") == "1":
        traceback.print_exception(error)
    reported = (
        _report_fault(error, args) if sentence is None else _report_sentence(code, sentence, args)
    )
    from trainer.ending import present_peers

    if peers := present_peers():
        # Every process notices these ends by itself; of any other the peers must be told.
        own_fault = code not in (DIVERGED, PEER_LOST, INTERRUPTED, TERMINATED)
        peers.leave(f"process {peers.process} failed: {reported}" if own_fault else "", code)
    return code


def _report_sentence(code: int, sentence: str, args: argparse.Namespace) -> str:
    was_stopped = code in (INTERRUPTED, TERMINATED)
    again = ""
    if was_stopped and args.verb == "run":
        again = f"; `{typed_command(args.argv)}` continues"
    kind = "" if was_stopped else "error: "
    print(f"meshwright: {kind}{sentence}{again}", file=sys.stderr, flush=True)
    return sentence


def _report_fault(error: BaseException, args: argparse.Namespace) -> str:
    """A fault of ours: the traceback goes to RUN/error.log, one line naming it to the terminal."""
    lines = traceback.format_exception(error)
    log = Path(args.run_dir or ".") / "error.log"
    brief = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            # Appended: the log of an earlier fault stays, with the command that led to it.
            file.writelines([f"$ {shlex.join(['meshwright', *args.argv])}\n", *lines, "\n"])
        where = f"the traceback is in {log}"
    except OSError as failure:
        sys.stderr.writelines(lines)
        where = f"{log} could not be written ({failure.strerror})"
    print(
        f"meshwright: internal error: {brief}; {where}, please report it",
        file=sys.stderr,
        flush=True,
    )
    return brief
