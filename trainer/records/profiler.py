"""Profiler traces of a few steps for TensorBoard, requested by `--profile` or by a signal."""

import re
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import jax

from trainer.cluster.coordination import is_first

SIGNALLED_STEPS = 3


def window_of(text: str) -> tuple[int, int]:
    """Parse `steps=10:13` into the first and the last step to trace.

    Raises:
        ValueError: it has another form, or the steps are not in order from 1 on.
    """
    match = re.fullmatch(r"steps=(\d+):(\d+)", text)
    first, last = map(int, match.groups()) if match else (0, 0)
    if not 1 <= first <= last:
        rule = "must be steps=FIRST:LAST, 1 or more and in order"
        raise ValueError(f"--profile {text}: {rule}; write steps=10:13 to trace steps 10 to 13")
    return first, last


class Profiler:
    """Traces the steps of `window` (first, last) into `folder`/plugins/profile.

    SIGUSR2 to process 0 asks for a trace of the next three steps; during a trace it is ignored. All processes
    run the same program, so only process 0 traces, its own devices and host. Make it in the main thread, the
    only one where Python allows signal handlers; `close` ends a running trace and restores the old handler.
    """

    def __init__(self, folder: Path, window: tuple[int, int] | None):
        self._folder = folder
        self._window = window
        self._active = is_first()
        self._asked = False
        self._tracing = False
        self._handler_before = signal.signal(signal.SIGUSR2, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        # Only a flag: a handler may run between any two bytecodes of the main thread.
        self._asked = True

    def before(self, step: int) -> None:
        """Call before each step: starts a trace if the step is inside the window and none is running."""
        if self._asked and not self._tracing:
            self._window = step, step + SIGNALLED_STEPS - 1
        # a signal during a trace is dropped, not kept for later
        self._asked = False
        if not self._active or self._tracing or self._window is None:
            return
        first, last = self._window
        if first <= step <= last:
            jax.profiler.start_trace(self._folder)
            self._tracing = True

    def after(self, step: int, results: Any = None) -> None:
        """Call after each step: after the window's last one, waits for its `results` and ends the trace."""
        if self._tracing and step >= self._window[1]:
            # The loop does not wait for its steps; without this the trace would miss the end of the last one.
            jax.block_until_ready(results)
            self._stop()

    def _stop(self) -> None:
        self._tracing = False
        try:
            jax.profiler.stop_trace()
        # on a full disk, say: training goes on without the trace
        except jax.errors.JaxRuntimeError as error:
            line = f"{self._folder}: no trace could be written ({error})"
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """End a trace that is still running, and restore the signal's old handler."""
        if self._tracing:
            self._stop()
        signal.signal(signal.SIGUSR2, self._handler_before)
