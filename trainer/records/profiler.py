"""Traces of a few steps for TensorBoard's profile page, asked for by `--profile` or by a signal."""

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
    """The first and the last step of `steps=10:13`; both are traced.

    Raises:
        ValueError: it is written otherwise, or the steps are not in order from 1 on.
    """
    match = re.fullmatch(r"steps=(\d+):(\d+)", text)
    first, last = map(int, match.groups()) if match else (0, 0)
    if not 1 <= first <= last:
        rule = "must be steps=FIRST:LAST, 1 or more and in order"
        raise ValueError(f"--profile {text}: {rule}; write steps=10:13 to trace steps 10 to 13")
    return first, last


class Profiler:
    """Traces the steps of `window` (first, last) into `folder`/plugins/profile.

    SIGUSR2 to process 0 asks for the next three steps; while one window is traced it asks for nothing. All
    processes run the same program, so only process 0 writes: the trace holds its devices and its host. Make
    it in the main thread, where Python allows handlers; `close` ends a running trace and gives the signal
    back.
    """

    def __init__(self, folder: Path, window: tuple[int, int] | None):
        self._folder = folder
        self._window = window
        self._active = is_first()
        self._asked = False
        self._tracing = False
        self._handler_before = signal.signal(signal.SIGUSR2, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        # Only a flag: a handler runs between two bytecodes of whatever was under way.
        self._asked = True

    def before(self, step: int) -> None:
        """Begin a trace if a window begins with this step, or if a run resumed inside of one."""
        if self._asked and not self._tracing:
            self._window = step, step + SIGNALLED_STEPS - 1
        # a signal inside of a window is forgotten, not kept for later
        self._asked = False
        if not self._active or self._tracing or self._window is None:
            return
        first, last = self._window
        if first <= step <= last:
            jax.profiler.start_trace(self._folder)
            self._tracing = True

    def after(self, step: int, results: Any = None) -> None:
        """End the trace if the window ends with this step, when its `results` have come."""
        if self._tracing and step >= self._window[1]:
            # the loop does not wait for a step: the trace would miss its end
            jax.block_until_ready(results)
            self._stop()

    def _stop(self) -> None:
        self._tracing = False
        try:
            jax.profiler.stop_trace()
        except (
            jax.errors.JaxRuntimeError
        ) as error:  # a full disk; training goes on without the trace
            print(
                f"{self._folder}: no trace could be written ({error})", file=sys.stderr, flush=True
            )

    def close(self) -> None:
        """End a trace that is still running, and give the signal back."""
        if self._tracing:
            self._stop()
        signal.signal(signal.SIGUSR2, self._handler_before)
