"""The process around a run: flags before jax is imported, SIGTERM while no trainer listens, the way out."""

import contextlib
import faulthandler
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from launch.process import stopping
from launch.process.distributed import client_of_several, handler_of_jax, is_first
from launch.process.failures import Terminated
from launch.process.hardware import cache_folder, cpu_only
from trainer.cluster.c_signals import CHandler

# 1.6x the speed of a bf16 training step on a CPU with matrix units (AMX)
ONEDNN = "--xla_cpu_experimental_onednn_custom_call"
# The coordination service ends with process 0, so the others get this long to read its last message.
FAREWELL_S = 2.0


def prepare_process() -> None:
    """Settings that jax reads while it is imported, and quiet libraries; what the user set is kept."""
    flags = os.environ.get("XLA_FLAGS", "")
    if cpu_only():
        # Else an installed libtpu, which `plan` uses, would look for TPUs on the network.
        os.environ["JAX_PLATFORMS"] = "cpu"
        if ONEDNN not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} {ONEDNN}=true".strip()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache_folder())
    # 2: no warnings of C++ libraries; errors still show.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # Orbax logs tracebacks of errors that we report in one sentence.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # Likewise the tasks of a failed save, a traceback for every array that it did not write.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)

    sys.unraisablehook = _without_closed_loops(sys.unraisablehook)

    # `kill -USR1 PID` prints the stack of every thread without ending the process. File
    # descriptor 2 and not sys.stderr, which a test or a notebook may have replaced.
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
    if not sys.warnoptions:  # `python -W default -m launch …` shows them
        warnings.simplefilter("ignore")


def _without_closed_loops(otherwise: Callable[..., Any]) -> Callable[..., Any]:
    """A hook for exceptions that Python drops, which says nothing of one kind: after a save has failed,
    TensorStore still reports every array to the event loop of that save, a traceback each.
    """

    def hook(unraisable: Any) -> None:
        # Why the save failed is said by us, in a sentence.
        if str(unraisable.exc_value) != "Event loop is closed":
            otherwise(unraisable)

    return hook


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """SIGTERM raises Terminated inside the block; afterwards the handler from before, which may be jax's in
    C++, is restored.

    After `jax.distributed.initialize` a SIGTERM is only noted, for the trainer's loop to ask about; other
    work would not end.
    """
    stopping.check()
    before = CHandler(signal.SIGTERM)
    # None means that the old handler was set in C; `before` restores it below.
    python = signal.signal(signal.SIGTERM, stopping.raise_stop)
    try:
        yield
    except Terminated:
        stopping.forget()
        raise
    finally:
        signal.signal(signal.SIGTERM, python if python is not None else signal.SIG_DFL)
        before.restore()


@contextlib.contextmanager
def jax_listens() -> Iterator[None]:
    """SIGTERM is noted by jax inside the block, for a training loop to ask about; afterwards it raises
    again, if it did before.
    """
    # What came before would be noted by nobody in there.
    stopping.check()
    handler = handler_of_jax()
    raises = signal.getsignal(signal.SIGTERM) is stopping.raise_stop
    if handler is not None and raises:
        handler.restore()
    try:
        yield
    finally:
        if raises:
            signal.signal(signal.SIGTERM, stopping.raise_stop)


def leave(code: int) -> None:
    """Leave a process that has imported jax. After a failure it does not wait at jax's shutdown barrier,
    because the peers may be gone.
    """
    import jax

    from trainer.ending import present_peers

    # Without connections to peers a normal exit is quick.
    if not jax.distributed.is_initialized():
        return
    if code == 0:
        jax.distributed.shutdown()
        return
    coordinates = client_of_several() is not None and is_first()
    # A training loop, which knows its peers, has waited for them already.
    if coordinates and present_peers() is None:
        time.sleep(FAREWELL_S)
    from trainer.cluster.watchdog import leave_now

    sys.stdout.flush()
    sys.stderr.flush()
    leave_now(code)
