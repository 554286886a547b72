"""The process around a run: flags before jax is imported, SIGTERM while no trainer listens, the way out."""

import contextlib
import faulthandler
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator

from launch.process.distributed import client_of_several, is_first
from launch.process.failures import Terminated
from launch.process.hardware import cache_folder, cpu_only
from trainer.cluster.c_signals import CHandler

# 1.6x on a whole bf16 training step on a CPU with matrix units
ONEDNN = "--xla_cpu_experimental_onednn_custom_call"
FAREWELL_S = (
    2.0  # the coordinator lives in process 0: what it published last must be read before it goes
)


def prepare_process() -> None:
    """Settings that jax reads while it is imported, and quiet libraries; what the user set is kept."""
    flags = os.environ.get("XLA_FLAGS", "")
    if cpu_only():
        # else an installed libtpu, which `plan` uses, would look for its chips on the network
        os.environ["JAX_PLATFORMS"] = "cpu"
        if ONEDNN not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} {ONEDNN}=true".strip()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache_folder())
    os.environ.setdefault(
        "TF_CPP_MIN_LOG_LEVEL", "2"
    )  # C++ warnings of libraries; errors still show
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    logging.getLogger("absl").setLevel(
        logging.CRITICAL
    )  # Orbax logs tracebacks of what we say in a sentence

    # `kill -USR1 PID` prints the stack of every thread, and ends nothing
    # The file descriptor 2 and not sys.stderr, which a test or notebook may have replaced.
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
    if not sys.warnoptions:  # `python -W default -m launch …` shows them
        warnings.simplefilter("ignore")


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """SIGTERM raises Terminated inside the block; the handler from before, which may be jax's in C++, is set
    again afterwards.

    After `jax.distributed.initialize` SIGTERM is only noted for the trainer to ask; work that never asks
    would not end.
    """
    before = CHandler(signal.SIGTERM)

    def raise_terminated(number: int, frame: object) -> None:
        raise Terminated

    # None: the handler before was not set from Python, and `before` puts it back below.
    python = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, python if python is not None else signal.SIG_DFL)
        before.restore()


def leave(code: int) -> None:
    """Leave a process that has imported jax. After a failure no shutdown barrier is waited for: the peers
    may be gone.
    """
    import jax

    from trainer.ending import present_peers

    # Nothing holds connections then, so a normal exit is quick.
    if not jax.distributed.is_initialized():
        return
    if code == 0:
        jax.distributed.shutdown()
        return
    coordinates = client_of_several() is not None and is_first()
    if (
        coordinates and present_peers() is None
    ):  # a loop that knows its peers has waited for them already
        time.sleep(FAREWELL_S)
    from trainer.cluster.watchdog import leave_now

    sys.stdout.flush()
    sys.stderr.flush()
    leave_now(code)
