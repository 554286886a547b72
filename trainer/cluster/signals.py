"""A signal to any process ends all processes after the same step, with the state saved.

A second signal ends a process at once.
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

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
# A second signal within this time is taken for the first: `timeout` and some schedulers signal the process
# and then its group.
TWICE_S = 1.0


class StopSignals:
    """Turns SIGINT or SIGTERM to any process into one step after which all processes stop.

    jax.distributed has a SIGTERM handler in C++, by which all processes agree on the step; here it is called
    for Ctrl-C too. A thread reads the signals, so that a second one also ends a process whose main thread
    waits inside a collective. A context manager.
    """

    _n_asked = 0  # counts through all phases of a process, since jax wants steps that only grow

    def __init__(self):
        self._name = "SIGTERM"  # reported by processes that got no signal themselves
        self._first_at: float | None = None

    def __enter__(self) -> "StopSignals":
        self._handler_of_jax = CHandler(signal.SIGTERM)
        read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)  # required by set_wakeup_fd
        self._wakeup_before = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        self._handlers_before = {}
        for number in EXIT_CODES:
            # What is ignored stays so: a shell ignores SIGINT for a job that it starts in the background.
            if signal.getsignal(number) != signal.SIG_IGN:
                # Python writes a signal's number to the pipe only if it has a Python handler.
                self._handlers_before[number] = signal.signal(number, lambda *_: None)
        Thread(target=self._listen, args=(read_end,), daemon=True, name="signals").start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if signal.SIGINT in self._handlers_before:
            signal.signal(signal.SIGINT, self._handlers_before[signal.SIGINT])
        self._handler_of_jax.restore()
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._write_end)  # ends the thread

    def reached(self) -> str | None:
        """The signal's name after the step at which all processes stop, else None; call after every step."""
        # Outside of a cluster, as in a bench, jax has no handler and carries nothing to anybody.
        if not self._handler_of_jax.is_set:
            return self._name if self._first_at is not None else None
        StopSignals._n_asked += 1
        stops_here = multihost_utils.reached_preemption_sync_point(StopSignals._n_asked)
        return self._name if stops_here else None

    def _listen(self, read_end: int) -> None:
        while numbers := os.read(read_end, 1):  # empty once the write end is closed
            if numbers[0] in EXIT_CODES:
                self._receive(signal.Signals(numbers[0]))
        os.close(read_end)

    def _receive(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if self._first_at is None:
            self._name = number.name
            self._first_at = now
            self._handler_of_jax.call()  # jax then tells all processes
        elif now - self._first_at > TWICE_S:
            what = f"stopped at once by a second signal, {number.name}"
            line = f"meshwright: {what}; what was not saved is lost"
            print(line, file=sys.stderr, flush=True)
            leave_now(EXIT_CODES[number])
