"""A stop that is asked for while no training loop listens: remembered from the first line of the command
until it is acted on.

Ctrl-C and SIGTERM raise an exception in the main thread, which ends what runs and cleans up. It can be lost:
Python drops what is raised in a callback of the garbage collector or in `__del__`, and a library in C++ may
turn it into an error of its own. So what is asked is noted too, and asked again.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from launch.process.failures import INTERRUPTED, TERMINATED, UNEXPECTED, Terminated, explain

CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
EXCEPTIONS: dict[int, type[BaseException]] = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: Terminated,
}
# from a lost exception to the same signal again; the callback that lost it ends within microseconds
AGAIN_S = 0.05
# A second signal within this time is taken for the first: `timeout` and some schedulers signal the process
# and then its group.
TWICE_S = 1.0
# the signals that were noted, when the last of them was, and whether its exception has been lost
_asked: list[signal.Signals] = []
_noted_at = -TWICE_S
_is_lost = False
# the process that listens, 0 for none: children inherit its handlers
_listener = 0


def listen() -> None:
    """Note Ctrl-C and SIGTERM from now on, and raise KeyboardInterrupt or Terminated for them."""
    global _listener
    _listener = os.getpid()
    # Registered first, so called after all other exit handlers.
    atexit.register(_leaving)
    sys.unraisablehook = _ask_again(sys.unraisablehook)
    for number in CODES:
        # A shell starts background jobs with SIGINT ignored, and `nohup` is to be respected too.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, raise_stop)
    # Last: what came while the process was replaced (`held`) is delivered here.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, CODES)


def raise_stop(number: int, frame: FrameType | None) -> None:
    """The handler: notes the signal, and raises its exception in the main thread."""
    global _noted_at, _is_lost
    if _listener not in (0, os.getpid()):
        # A forked child, such as a worker of a pool, ends as if it had never had this handler.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    is_repeated = time.monotonic() - _noted_at < TWICE_S and not _is_lost
    _noted_at = time.monotonic()
    _is_lost = False
    _asked.append(signal.Signals(number))
    # While the first exception cleans up a second one would break off the cleaning.
    if not is_repeated:
        raise EXCEPTIONS[number]


def asked() -> BaseException | None:
    """The exception of the first signal that has been noted; None if there is none."""
    return EXCEPTIONS[_asked[0]]() if _asked else None


def instead_of(error: BaseException) -> BaseException:
    """The stop that was asked for, where an error is only what a library has made of its exception."""
    stop = asked()
    code, _ = explain(error)
    return error if stop is None or code != UNEXPECTED else stop


def forget() -> None:
    """Call when what was asked for has been acted on."""
    _asked.clear()


def check() -> None:
    """Raise what was asked for and lost; call it where work begins that takes long."""
    if error := asked():
        raise error


def _leaving() -> None:
    """Ignore signals while Python takes itself down: it would restore their default action, by which one
    that comes now would take the place of the exit code.
    """
    # A forked child that ends like this has its own actions (`raise_stop`).
    if os.getpid() == _listener:
        for number in CODES:
            signal.signal(number, signal.SIG_IGN)


def end_at_once() -> None:
    """From now on a further signal ends the process without a word: it is on its way out already."""

    def end(number: int, frame: FrameType | None) -> None:
        if time.monotonic() - _noted_at > TWICE_S:
            os._exit(CODES[signal.Signals(number)])

    for number in CODES:
        if signal.getsignal(number) is raise_stop:
            signal.signal(number, end)


def held() -> None:
    """Hold signals back until `listen` in the program that is about to replace this one."""
    # Pending signals and the mask outlive `exec`, handlers do not.
    signal.pthread_sigmask(signal.SIG_BLOCK, CODES)


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """A signal inside the block ends the process at once, also while the main thread waits in C++, where no
    handler of Python runs. For a wait that has nothing to save.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)  # required by set_wakeup_fd
    before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    threading.Thread(target=_end, args=(read_end,), daemon=True, name="stop").start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(write_end)  # ends the thread


def _end(read_end: int) -> None:
    while number := os.read(read_end, 1):  # empty once the write end is closed
        if number[0] in CODES:
            name = "Ctrl-C" if number[0] == signal.SIGINT else "SIGTERM"
            line = f"meshwright: stopped by {name} before the processes of the run had met"
            print(line, file=sys.stderr, flush=True)
            os._exit(CODES[signal.Signals(number[0])])
    os.close(read_end)


def _ask_again(otherwise: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A hook for exceptions that Python is about to drop; all but those of a stop go to `otherwise`."""

    def hook(unraisable: Any) -> None:
        global _is_lost
        error = unraisable.exc_value
        number = next((n for n, kind in EXCEPTIONS.items() if isinstance(error, kind)), None)
        if number is None or os.getpid() != _listener:
            otherwise(unraisable)
            return
        _is_lost = True
        # From a thread and a moment later: raised here it would be dropped again.
        timer = threading.Timer(AGAIN_S, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()

    return hook
