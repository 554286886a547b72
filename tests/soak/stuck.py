"""What a soaked run is started with, by `--import tests.soak.stuck`: a signal that makes a process hang
while it lives on.
"""

import signal
import time
from types import FrameType

HANG = signal.SIGRTMIN + 3


def _hang(number: int, frame: FrameType | None) -> None:
    """The main thread comes no further; every other thread, jax's heartbeat too, goes on."""
    while True:
        time.sleep(1)


signal.signal(HANG, _hang)
