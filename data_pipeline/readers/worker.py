"""Untrusted or fragile work in a child process that can be killed: page extraction, importing and rendering
modules.

The child is a fresh interpreter (never a fork: the parent may hold threads) with limits on memory and on
the processor time of each request. It reads batches and answers each request as soon as it is ready, so a
stuck request costs only itself, and it ends with its parent, however that ends.
"""

import atexit
import contextlib
import importlib
import os
import resource
import selectors
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

REQUESTS = struct.Struct("<Id")  # head of a batch: number of requests, processor seconds for each
FRAME = struct.Struct("<BI")  # head of a request or answer: failed or not, length in bytes
START_TIMEOUT_S = 120.0  # a fresh interpreter on a machine under heavy load
# Limits are of processor time, so that other work on the machine changes no answer; a child that sleeps ends
# here
WALL_FACTOR = 10
# More than any page needs; a library that runs away fails with MemoryError instead of taking the machine
# along.
ADDRESS_SPACE_BYTES = 2 << 30
# How often a child asks whether its parent still lives.
WATCH_S = 1.0


class Answer(NamedTuple):
    """What a handler returned, or why it did not: `timeout`, `crash` or the exception's own words."""

    data: bytes
    error: str = ""


class Worker:
    """One child process that runs `handler`, a function bytes → bytes named `package.module:function`, in
    `memory_bytes` of address space; started when it is needed.
    """

    def __init__(self, handler: str, *, memory_bytes: int = ADDRESS_SPACE_BYTES):
        self._handler = handler
        self._memory_bytes = memory_bytes
        self._process: subprocess.Popen | None = None
        self._lock = threading.Lock()

    def run(self, requests: list[bytes], *, timeout_s: float) -> list[Answer]:
        """The answers in order; after a timeout or a crash the rest goes to a new child.

        Raises:
            ChildProcessError: The child does not start.
        """
        answers: list[Answer] = []
        with self._lock:
            while len(answers) < len(requests):
                answers += self._attempt(requests[len(answers) :], timeout_s)
        return answers

    def close(self) -> None:
        """Kill the child; the next batch starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            with contextlib.suppress(BrokenPipeError):  # of what it had not read yet
                self._process.stdin.close()
            self._process.stdout.close()
            self._process = None

    def _attempt(self, requests: list[bytes], timeout_s: float) -> list[Answer]:
        answers: list[Answer] = []
        if self._process is None:
            self._start()
        try:
            self._process.stdin.write(REQUESTS.pack(len(requests), timeout_s))
            self._process.stdin.write(
                b"".join(FRAME.pack(0, len(request)) + request for request in requests)
            )
            self._process.stdin.flush()
            for _ in requests:
                answers.append(self._read_frame(WALL_FACTOR * timeout_s))
        except TimeoutError:
            answers.append(Answer(b"", "timeout"))
        except (EOFError, BrokenPipeError):
            # The child dies of SIGPROF when its processor time is used up.
            answers.append(
                Answer(b"", "timeout" if self._process.wait() == -signal.SIGPROF else "crash")
            )
        except BaseException:  # Ctrl-C: half an answer may be on its way
            self.close()
            raise
        if answers[-1].error in ("timeout", "crash"):
            self.close()
        return answers

    def _start(self) -> None:
        root = str(Path(__file__).parents[2])
        arguments = f"{self._handler!r}, {os.getpid()}, {self._memory_bytes}"
        # A page must not be read differently because of an environment variable.
        inherited = {
            name: os.environ[name]
            for name in ("PATH", "LD_LIBRARY_PATH", "HOME")
            if name in os.environ
        }
        self._process = subprocess.Popen(
            [
                sys.executable,
                # Without the current folder in sys.path: a file there must not stand in for a module of
                # ours.
                "-P",
                "-c",
                f"from data_pipeline.readers.worker import serve; serve({arguments})",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={
                **inherited,
                "PYTHONPATH": root,
                "PYTHONHASHSEED": "0",
                "LC_ALL": "C.UTF-8",
                "TZ": "UTC",
            },
        )
        self._buffer = bytearray()
        try:
            self._read_frame(START_TIMEOUT_S)
        except (TimeoutError, EOFError) as error:
            self.close()
            raise ChildProcessError(
                f"{sys.executable} does not start a child for {self._handler}; check memory and limits"
            ) from error

    def _read_frame(self, timeout_s: float) -> Answer:
        # One deadline for header and body: a child that trickles bytes gains no time by it.
        deadline = time.monotonic() + timeout_s
        failed, n_bytes = FRAME.unpack(self._read(FRAME.size, deadline))
        data = self._read(n_bytes, deadline)
        return Answer(b"", data.decode()) if failed else Answer(data)

    def _read(self, n_bytes: int, deadline: float) -> bytes:
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while len(self._buffer) < n_bytes:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                chunk = os.read(self._process.stdout.fileno(), 1 << 20)
                if not chunk:
                    raise EOFError
                self._buffer += chunk
        data = bytes(self._buffer[:n_bytes])
        del self._buffer[:n_bytes]
        return data


_kept: dict[tuple[int, str], Worker] = {}


def kept_worker(handler: str, *, memory_bytes: int = ADDRESS_SPACE_BYTES) -> Worker:
    """This process's one worker for `handler`, which must answer alike whatever it answered before;
    starting one takes 0.3 s.
    """
    key = (os.getpid(), handler)  # a fork must not use its parent's
    if key not in _kept:
        _kept[key] = Worker(handler, memory_bytes=memory_bytes)
        atexit.register(_kept[key].close)
    return _kept[key]


def serve(handler: str, parent: int, memory_bytes: int) -> None:
    """The child's side: answer batches from standard input until it closes. Prints of a handler go
    nowhere.
    """
    # Requests and replies move to descriptors of their own, so that a handler's prints cannot break the
    # protocol.
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    _limit(parent, memory_bytes)
    module, function = handler.split(":")
    # A function by its name: the parent can send text alone.
    handle: Callable[[bytes], bytes] = getattr(importlib.import_module(module), function)
    _reply(replies, 0, b"ready")
    while header := requests.read(REQUESTS.size):
        n_requests, timeout_s = REQUESTS.unpack(header)
        # the whole batch is read first, so that parent and child never both wait on a full pipe
        batch = [
            requests.read(FRAME.unpack(requests.read(FRAME.size))[1]) for _ in range(n_requests)
        ]
        for item in batch:
            # Counts processor time, and its signal kills even inside of a C library.
            signal.setitimer(signal.ITIMER_PROF, timeout_s)
            try:
                answer = 0, handle(item)
            except (Exception, SystemExit) as error:
                # Whatever a foreign module or page does is that item's failure alone.
                answer = 1, f"{type(error).__name__}: {error}".encode(errors="replace")
            signal.setitimer(signal.ITIMER_PROF, 0.0)
            _reply(replies, *answer)


def _limit(parent: int, memory_bytes: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    # A hard limit of -1 means none.
    soft = memory_bytes if hard < 0 else min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    # A crash is answered by the parent: a core dump of a foreign page helps nobody.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        # If memory runs out, this process is the one to end, not its parent.
        Path("/proc/self/oom_score_adj").write_text("1000")

    # A closed pipe ends only an idle child, and another child of the parent may hold the pipe open.
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_S)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def _reply(replies, failed: int, data: bytes) -> None:
    replies.write(FRAME.pack(failed, len(data)) + data)
    replies.flush()
