"""Ends a process that hangs or whose peers are lost, after writing the stacks of all its threads."""

import faulthandler
import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from types import TracebackType

from trainer.cluster.hosts import PEER_LOST, Hosts, Quiet
from trainer.events import append_event

TICK_S = 0.5  # between two looks
# a save, an evaluation or a compilation may take this many times as long as a step
PAUSE_FACTOR = 10
# time for the report, after which the process ends without it: its folder may be on the disk that hangs
REPORT_S = 5.0


class Watchdog:
    """Watches a phase from a thread, so that it also works while the main thread waits inside a collective.

    When a step takes longer than `limit_s` (None: no limit), it writes the stacks of all threads to
    `folder`/stacks-PROCESS.txt and to stderr, prints where each process is, and ends the process with exit
    code 75. The first step, which compiles, and everything before it may take ten times as long. When `hosts`
    reports a lost peer, this process ends too, with the peer's exit code if it gave one. A context manager
    around the whole phase.
    """

    def __init__(self, limit_s: float | None, *, folder: Path, hosts: Hosts):
        self._limit_s = float("inf") if limit_s is None else limit_s
        self._folder = folder
        self._hosts = hosts
        self._n_steps = 0  # steps begun in this process
        self._step = 0
        self._beats = 0  # grows with every sign of progress
        self._n_pauses = (
            1  # nested pauses; the first is for compiling, and ends with the second step
        )
        self._ended = Event()
        self._thread = Thread(target=self._watch, daemon=True, name="watchdog")

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        # Blocks forever if the thread is just ending the process: its exit code must win over the error's.
        self._thread.join()

    def beat(self, step: int) -> None:
        """Call when a step begins.

        The grace for compiling ends with the second step: only then has the first ended in every process,
        since one may compile it while another loads it from a cache.
        """
        self._n_steps += 1
        if self._n_steps == 2:
            self._n_pauses -= 1
        self._step = step
        self._beats += 1
        self._hosts.beat(step)

    def alive(self) -> None:
        """Call to report progress other than a step."""
        self._beats += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Allow ten times the limit inside: a save, an evaluation."""
        self._n_pauses += 1
        self._beats += 1
        try:
            yield
        finally:
            self._n_pauses -= 1
            self._beats += 1

    def _watch(self) -> None:
        quiet = Quiet()
        while not self._ended.wait(TICK_S):
            limit_s = self._limit_s * (PAUSE_FACTOR if self._n_pauses else 1)
            if lost := self._hosts.lost():
                self._end(lost.lost, lost.code, stuck=False)
            if quiet.seconds(self._beats) > limit_s:
                where = self._hosts.where() or f"at step {self._step}"
                self._end(f"nothing has moved for {limit_s:.0f} s: {where}", PEER_LOST, stuck=True)

    def _end(self, sentence: str, code: int, *, stuck: bool) -> None:
        # in a thread: a write to a disk that hangs never returns
        reporting = Thread(target=self._report, args=(sentence, code, stuck), daemon=True)
        reporting.start()
        reporting.join(REPORT_S)
        # Tell the other processes why, before this one falls silent.
        self._hosts.leave(sentence if stuck else "", code)
        leave_now(code)

    def _report(self, sentence: str, code: int, stuck: bool) -> None:
        if stuck:
            faulthandler.dump_traceback(file=2)
        stacks = self._folder / f"stacks-{self._hosts.process}.txt"
        remedy = "; start the same command again" if code == PEER_LOST else ""
        line = f"meshwright: error: {sentence}; all stacks are in {stacks}{remedy}"
        print(line, file=sys.stderr, flush=True)
        sys.stdout.flush()
        append_event(self._folder, "hang" if stuck else "lost", self._step, why=sentence)
        with stacks.open("w") as file:
            faulthandler.dump_traceback(file=file)


def leave_now(code: int) -> None:
    """End the process at once, from any thread, whatever its main thread waits for."""
    # os._exit runs no exit handlers, so child processes that read data would be left as orphans.
    for child in multiprocessing.active_children():
        child.terminate()
    os._exit(code)


@contextmanager
def watching(limit_s: float | None, folder: Path) -> Iterator[tuple[Hosts, Watchdog]]:
    """Look after the processes of a phase, from before its state is restored; `limit_s` as in `Watchdog`."""
    # Hosts first: the watchdog reports through it, and contexts close in reverse order.
    with Hosts() as hosts, Watchdog(limit_s, folder=folder, hosts=hosts) as watchdog:
        yield hosts, watchdog
