"""Ends a process that hangs, or that waits for peers which are gone; what each thread was doing is written
first.
"""

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

TICK_S = 0.5
PAUSED_TIMES = 10  # a save, an evaluation or a compilation may take so many times the limit of a step
TELL_S = 5.0  # the folder may lie on the very disk that hangs


class Watchdog:
    """Watches a phase from a thread, so also while the main thread waits inside of a collective; a context
    manager around all of it.

    A step that takes more than `limit_s` (None: any time) writes all stacks to `folder`/stacks-PROCESS.txt
    and to stderr, says where each process is, and ends the process with exit code 75. The first step, which
    compiles, and what comes before it have ten times as long. A peer that `hosts` reports lost ends it too,
    with that one's own code if it said one.
    """

    def __init__(self, limit_s: float | None, *, folder: Path, hosts: Hosts):
        self._limit_s, self._folder, self._hosts = limit_s, folder, hosts
        self._n_steps, self._step, self._beats, self._pauses = (
            0,
            0,
            0,
            1,
        )  # the pause ends with the second step
        self._ended = Event()
        self._thread = Thread(target=self._watch, daemon=True, name="watchdog")

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """A process that is being ended already does not get past here."""
        self._ended.set()
        self._thread.join()

    def beat(self, step: int) -> None:
        """Step `step` begins; the second not before the first has ended, which one process may compile
        while another has it compiled.
        """
        self._n_steps += 1
        self._pauses -= self._n_steps == 2
        self._step, self._beats = step, self._beats + 1
        self._hosts.beat(step)

    def alive(self) -> None:
        """Something has moved, though it is no step."""
        self._beats += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Ten times the limit inside: a save, an evaluation."""
        self._pauses, self._beats = self._pauses + 1, self._beats + 1
        try:
            yield
        finally:
            self._pauses, self._beats = self._pauses - 1, self._beats + 1

    def _watch(self) -> None:
        quiet = Quiet()
        while not self._ended.wait(TICK_S):
            limit_s = (self._limit_s or float("inf")) * (PAUSED_TIMES if self._pauses else 1)
            if lost := self._hosts.lost():
                self._end(lost.lost, lost.code, stuck=False)
            if quiet.seconds(self._beats) > limit_s:
                where = self._hosts.where() or f"at step {self._step}"
                self._end(f"nothing has moved for {limit_s:.0f} s: {where}", PEER_LOST, stuck=True)

    def _end(self, sentence: str, code: int, *, stuck: bool) -> None:
        telling = Thread(target=self._tell, args=(sentence, code, stuck), daemon=True)
        telling.start()
        telling.join(TELL_S)
        self._hosts.leave(sentence if stuck else "", code)
        leave_now(code)

    def _tell(self, sentence: str, code: int, stuck: bool) -> None:
        if stuck:
            faulthandler.dump_traceback(file=2)
        path, again = (
            self._folder / f"stacks-{self._hosts.process}.txt",
            "; start the same command again" if code == PEER_LOST else "",
        )
        print(f"meshwright: error: {sentence}; all stacks are in {path}{again}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        append_event(self._folder, "hang" if stuck else "lost", self._step, why=sentence)
        with path.open("w") as file:
            faulthandler.dump_traceback(file=file)


def leave_now(code: int) -> None:
    """End the process from any thread, without waiting for peers or for what its main thread waits for."""
    for child in multiprocessing.active_children():
        child.terminate()
    os._exit(code)
