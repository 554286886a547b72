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
    found = re.fullmatch(r"steps=(\d+):(\d+)", text)
    first, last = map(int, found.groups()) if found else (0, 0)
    if not 1 <= first <= last:
        raise ValueError(
            f"--profile {text}: must be steps=FIRST:LAST, 1 or more and in order; write steps=10:13 to trace steps 10 to 13"
        )
    return first, last


class Profiler:
    """Traces the steps of `window` (first, last) into `folder`/plugins/profile; SIGUSR2 to process 0 asks
    for the next three steps.

    All processes run the same program, so only process 0 writes: the trace holds its devices and its host.
    While one window is traced, a signal asks for nothing. Make it in the main thread; `close` ends a
    running trace and gives the signal back.
    """

    def __init__(self, folder: Path, window: tuple[int, int] | None):
        self._folder, self._window = folder, window
        self._active, self._asked, self._tracing = is_first(), False, False
        self._handler = signal.signal(signal.SIGUSR2, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def before(self, step: int) -> None:
        """Begin to trace if a window begins with this step."""
        if self._asked and not self._tracing:
            self._window = step, step + SIGNALLED_STEPS - 1
        self._asked = False
        if self._active and self._window and self._window[0] <= step <= self._window[1] and not self._tracing:
            jax.profiler.start_trace(self._folder)
            self._tracing = True

    def after(self, step: int, results: Any = None) -> None:
        """End the trace if the window ends with this step, when its `results` have come."""
        if self._tracing and step >= self._window[1]:
            jax.block_until_ready(results)
            self._stop()

    def _stop(self) -> None:
        self._tracing = False
        try:
            jax.profiler.stop_trace()
        except jax.errors.JaxRuntimeError as error:  # the trace is written here; training goes on without it
            print(f"{self._folder}: no trace could be written ({error})", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End what is left of a trace."""
        if self._tracing:
            self._stop()
        signal.signal(signal.SIGUSR2, self._handler)
