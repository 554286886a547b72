"""Signal handlers set in C, which Python's `signal` module can neither read nor restore."""

import ctypes
import signal
from collections.abc import Callable

# the two values of a handler that are not the address of a function
DEFAULT_OR_IGNORED = (signal.SIG_DFL, signal.SIG_IGN)
SIGACTION_BYTES = 256  # struct sigaction has 152 bytes on Linux, 16 on macOS
_libc = ctypes.CDLL(None)
# references to callbacks, since ctypes frees one that only C refers to
_callbacks: dict[int, object] = {}


class CHandler:
    """The handler of a signal at the time when this is made; jax.distributed sets one for SIGTERM."""

    def __init__(self, number: signal.Signals):
        self._number = number
        self._sigaction = ctypes.create_string_buffer(SIGACTION_BYTES)
        _libc.sigaction(number, None, self._sigaction)

    def restore(self) -> None:
        """Make it the signal's handler again."""
        _libc.sigaction(self._number, self._sigaction, None)

    @property
    def is_set(self) -> bool:
        """Whether the handler is a function, not the system's default action or "ignore"."""
        return self._address() not in DEFAULT_OR_IGNORED

    def call(self) -> None:
        """Run the handler as if the signal had come; does nothing if it is not set."""
        if self.is_set:
            ctypes.CFUNCTYPE(None, ctypes.c_int)(self._address())(self._number)

    def _address(self) -> int:
        # The first field of a sigaction; ctypes reads the address 0, which is SIG_DFL, as None.
        return ctypes.c_void_p.from_buffer(self._sigaction).value or 0


def handle_in_c(number: signal.Signals, handler: Callable[[int], None]) -> None:
    """Have C call `handler` directly: a handler set by Python only runs once the interpreter goes on, which
    it never does in `abort`.
    """
    callback = ctypes.CFUNCTYPE(None, ctypes.c_int)(handler)
    _callbacks[number] = callback
    set_signal = _libc.signal
    set_signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    set_signal(number, ctypes.cast(callback, ctypes.c_void_p))
