"""Signal handlers that were set in C, which Python's `signal` neither sees nor brings back."""

import ctypes
import signal
from collections.abc import Callable

# the two values of a handler that are no address of a function
DEFAULT_OR_IGNORED = (signal.SIG_DFL, signal.SIG_IGN)
SIGACTION_BYTES = 256  # struct sigaction has 152 bytes on Linux, 16 on macOS
_libc = ctypes.CDLL(None)
_kept_alive: dict[int, object] = {}  # ctypes frees a callback that only C refers to


class CHandler:
    """The handler that stands for a signal when this is made; jax.distributed sets one for SIGTERM."""

    def __init__(self, number: signal.Signals):
        self._number = number
        self._sigaction = ctypes.create_string_buffer(SIGACTION_BYTES)
        _libc.sigaction(number, None, self._sigaction)

    def restore(self) -> None:
        """Make it the signal's handler again."""
        _libc.sigaction(self._number, self._sigaction, None)

    @property
    def is_set(self) -> bool:
        """Whether it is a function, and neither the system's default action nor none at all."""
        return self._address() not in DEFAULT_OR_IGNORED

    def call(self) -> None:
        """Run it as if the signal had come; nothing happens where it is not set."""
        if self.is_set:
            ctypes.CFUNCTYPE(None, ctypes.c_int)(self._address())(self._number)

    def _address(self) -> int:
        # The first field of a sigaction; ctypes reads the address 0, which is SIG_DFL, as None.
        return ctypes.c_void_p.from_buffer(self._sigaction).value or 0


def handle_in_c(number: signal.Signals, handler: Callable[[int], None]) -> None:
    """Have C call `handler`; a Python handler waits for the interpreter, which `abort` never returns to."""
    callback = ctypes.CFUNCTYPE(None, ctypes.c_int)(handler)
    _kept_alive[number] = callback
    set_signal = _libc.signal
    set_signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    set_signal(number, ctypes.cast(callback, ctypes.c_void_p))
