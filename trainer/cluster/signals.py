"""A signal to any process ends all of them after the same step, with the state saved; a second one ends a
process at once.
"""

import os
import signal
import sys
import time
from threading import Thread
from types import TracebackType

from jax.experimental import multihost_utils

from trainer.cluster.c_signals import CHandler
from trainer.cluster.watchdog import leave_now

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
TWICE_S = 1.0  # `timeout` and some schedulers send one signal to the process and again to its group


class StopSignals:
    """Turns SIGINT and SIGTERM to any process of the cluster into one step after which all of them stop; a
    context manager.

    jax.distributed watches SIGTERM in C++ and agrees on the step: its handler is called for Ctrl-C too.
    Signals are read from a thread, so that the second one also ends a process whose main thread waits
    inside of a collective.
    """

    _asked = 0  # counts through all phases of a process: the agreed step must grow

    def __init__(self):
        self._name, self._first_s = "SIGTERM", float("inf")

    def __enter__(self) -> "StopSignals":
        self._handler_of_jax = CHandler(signal.SIGTERM)
        self._ends = os.pipe()
        os.set_blocking(self._ends[1], False)
        self._wakeup = signal.set_wakeup_fd(self._ends[1], warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, lambda *_: None) for number in CODES}
        Thread(target=self._listen, args=(self._ends[0],), daemon=True, name="signals").start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        signal.signal(signal.SIGINT, self._before[signal.SIGINT])
        self._handler_of_jax.restore()
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._ends[1])  # ends the thread

    def reached(self) -> str | None:
        """The signal's name, once, after the step at which all processes stop; ask after every step."""
        StopSignals._asked += 1
        return self._name if multihost_utils.reached_preemption_sync_point(StopSignals._asked) else None

    def _listen(self, end: int) -> None:
        while numbers := os.read(end, 1):
            if numbers[0] in CODES:
                self._received(signal.Signals(numbers[0]))
        os.close(end)

    def _received(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if self._first_s == float("inf"):
            self._name, self._first_s = number.name, now
            self._handler_of_jax.call()  # it sets a flag, which jax takes to all processes
        elif now - self._first_s > TWICE_S:
            print(
                f"meshwright: stopped at once by a second signal, {number.name}; what was not saved is lost",
                file=sys.stderr,
                flush=True,
            )
            leave_now(CODES[number])
