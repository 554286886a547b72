"""When a run must stop: signals, and losses that are no numbers."""

import os
import signal
from types import FrameType, TracebackType

from jax.experimental import multihost_utils


class Stopped(Exception):
    """A signal asked for the end, and the state is saved; `exit_code` is 130 for Ctrl-C and 143 for SIGTERM."""

    def __init__(self, signal_name: str, step: int):
        super().__init__(f"stopped by {signal_name} after step {step}; the state is saved")
        self.exit_code = 130 if signal_name == "SIGINT" else 143


class Diverged(Exception):
    """The loss is no number any more."""


class StopSignals:
    """Turns SIGINT and SIGTERM to any process of the cluster into one step after which all of them stop.

    jax.distributed watches SIGTERM and agrees on the step; Ctrl-C is handed on to it. A second Ctrl-C interrupts at once.
    """

    _asked = 0  # counts through all phases of a process: the agreed step must grow

    def __init__(self):
        self._name = "SIGTERM"
        self._before = signal.signal(signal.SIGINT, self._on_interrupt)

    def __enter__(self) -> "StopSignals":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._name == "SIGINT":
            raise KeyboardInterrupt
        self._name = "SIGINT"
        os.kill(os.getpid(), signal.SIGTERM)

    def reached(self) -> str | None:
        """The signal's name, once, after the step at which all processes stop; ask after every step."""
        StopSignals._asked += 1
        return self._name if multihost_utils.reached_preemption_sync_point(StopSignals._asked) else None
