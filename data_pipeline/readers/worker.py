"""Untrusted or fragile work in child processes that can be killed: page extraction, importing and rendering modules.

A child is a fresh interpreter (never a fork: the parent may hold JAX's threads) that reads batches of requests and answers each as
soon as it is ready, so a stuck request costs only itself.
"""

import importlib
import os
import queue
import selectors
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

FRAME = struct.Struct("<BI")  # status or kind, length in bytes
START_TIMEOUT_S = 120.0  # a fresh interpreter on a machine under heavy load


class Answer(NamedTuple):
    """What a handler returned, or why it did not: `timeout`, `crash` or the exception's own words."""

    data: bytes
    error: str = ""


class Worker:
    """One child process that runs `handler`, a function bytes → bytes named `package.module:function`."""

    def __init__(self, handler: str, *, timeout_s: float):
        self.handler, self.timeout_s = handler, timeout_s
        self._process: subprocess.Popen | None = None
        self._stopped = False

    def run(self, batch: list[bytes]) -> list[Answer]:
        """The answers in order; after a timeout or a crash the rest of the batch goes to a new child."""
        answers: list[Answer] = []
        while len(answers) < len(batch) and not self._stopped:
            answers += self._attempt(batch[len(answers) :])
        return answers

    def stop(self) -> None:
        """Kill the child and start no other; a `run` under way in another thread ends early."""
        self._stopped = True
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> None:
        """Kill the child; the next batch starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None

    def _attempt(self, batch: list[bytes]) -> list[Answer]:
        answers: list[Answer] = []
        try:
            if self._process is None:
                self._start()
            frames = b"".join(FRAME.pack(0, len(item)) + item for item in batch)
            self._process.stdin.write(FRAME.pack(1, len(batch)) + frames)
            self._process.stdin.flush()
            for _ in batch:
                answers.append(self._read_frame(self.timeout_s))
        except TimeoutError:
            answers.append(Answer(b"", "timeout"))
            self.close()
        except (EOFError, BrokenPipeError):
            answers.append(Answer(b"", "crash"))
            self.close()
        return answers

    def _start(self) -> None:
        root = str(Path(__file__).parents[2])
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "HOME") if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from data_pipeline.readers.worker import serve; serve({self.handler!r})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**kept, "PYTHONPATH": root, "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC"},
        )
        self._buffer = bytearray()
        self._read_frame(START_TIMEOUT_S)

    def _read_frame(self, timeout_s: float) -> Answer:
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


def serve(handler: str) -> None:
    """The child's side: answer batches from standard input until it closes. Prints of a handler go nowhere."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    module, function = handler.split(":")
    handle: Callable[[bytes], bytes] = getattr(importlib.import_module(module), function)
    _reply(replies, 0, b"ready")
    while header := requests.read(FRAME.size):
        batch = []
        for _ in range(FRAME.unpack(header)[1]):
            batch.append(requests.read(FRAME.unpack(requests.read(FRAME.size))[1]))
        for item in batch:  # the whole batch is read first, so parent and child never both wait on a full pipe
            try:
                _reply(replies, 0, handle(item))
            except (Exception, SystemExit) as error:  # whatever a foreign module or page does is that item's failure alone
                _reply(replies, 1, f"{type(error).__name__}: {error}".encode(errors="replace"))


def _reply(replies, failed: int, data: bytes) -> None:
    replies.write(FRAME.pack(failed, len(data)) + data)
    replies.flush()


def map_batches(
    handler: str, batches: Iterable[list[bytes]], *, timeout_s: float, processes: int, fresh: bool = False
) -> Iterator[list[Answer]]:
    """Answers batch by batch in the order given, by `processes` children, a few batches ahead of the consumer.

    Args:
        handler: `package.module:function`, bytes → bytes.
        batches: Requests; a batch should be worth a millisecond or more.
        timeout_s: Limit for one request.
        processes: Children at work at a time.
        fresh: A new child for every batch, so that an answer depends on its own batch alone.
    """
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    workers = [Worker(handler, timeout_s=timeout_s) for _ in range(processes)]
    for worker in workers:
        idle.put(worker)

    def answer(batch: list[bytes]) -> list[Answer]:
        worker = idle.get()
        try:
            return worker.run(batch)
        finally:
            if fresh:
                worker.close()
            idle.put(worker)

    threads = ThreadPoolExecutor(processes)
    waiting: deque = deque()
    try:
        for batch in batches:
            waiting.append(threads.submit(answer, batch))
            if len(waiting) >= 3 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # also when the consumer stops early or Ctrl-C ends the wait: no child outlives the iterator
        for worker in workers:
            worker.stop()
        threads.shutdown(cancel_futures=True)
        for worker in workers:
            worker.close()
