"""The process around a run: flags before jax is imported, SIGTERM while no trainer listens, the way out."""

import contextlib
import ctypes
import faulthandler
import glob
import importlib.metadata
import importlib.util
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator

from launch.distributed import client_of_several, is_first
from launch.failures import Terminated, present_hosts

ONEDNN = "--xla_cpu_experimental_onednn_custom_call"  # 1.6x on a whole bf16 training step on a CPU with matrix units
HUGE_PAGES = "glibc.malloc.hugetlb"
FAREWELL_S = 2.0  # the coordinator lives in process 0: what it published last must be read before it goes


def prepare_process() -> None:
    """Settings that jax reads while it is imported, and quiet libraries; what the user set is kept."""
    flags = os.environ.get("XLA_FLAGS", "")
    if _cpu_only():
        os.environ["JAX_PLATFORMS"] = "cpu"  # else an installed libtpu, which `plan` uses, would look for its chips on the network
        if ONEDNN not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} {ONEDNN}=true".strip()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # C++ warnings of libraries; errors still show
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs tracebacks of what we say in a sentence
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)  # `kill -USR1 PID` shows what every thread is doing, and ends nothing
    if not sys.warnoptions:  # `python -W default -m launch …` shows them
        warnings.simplefilter("ignore")


def use_huge_pages() -> None:
    """Start this process anew with malloc asking for huge pages, which glibc reads only at the start of a process.

    A training step on a CPU takes and returns the same hundreds of MiB every time; with pages of 4 KiB a quarter of its time goes there.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and HUGE_PAGES not in tunables and _cpu_only():
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, f"{HUGE_PAGES}=1")))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _cpu_only() -> bool:
    """Whether jax is to choose the CPU: asked for, or there is neither a GPU's plugin (its build may not know a CPU's flag) nor a TPU."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    return asked == "cpu" or not (asked or list(importlib.metadata.entry_points(group="jax_plugins")) or _tpu_is_here())


def _tpu_is_here() -> bool:
    """A TPU machine shows its chips as /dev/accel0, … or /dev/vfio/0, …; libtpu alone is no TPU: it also compiles for absent ones."""
    chips = any(glob.glob(pattern) for pattern in ("/dev/accel*", "/dev/vfio/[0-9]*"))
    return chips and importlib.util.find_spec("libtpu") is not None


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """SIGTERM raises Terminated inside; afterwards the handler that stood before, jax's C++ one too, stands again.

    After `jax.distributed.initialize` SIGTERM is only noted for the trainer to ask; work that never asks would not end. Python
    does not know a handler set in C++, hence libc's sigaction.
    """
    before = ctypes.create_string_buffer(256)  # struct sigaction is 152 bytes on Linux, 16 on macOS
    libc = ctypes.CDLL(None)
    libc.sigaction(signal.SIGTERM, None, before)

    def raise_terminated(number: int, frame: object) -> None:
        raise Terminated

    python = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, python if python is not None else signal.SIG_DFL)
        libc.sigaction(signal.SIGTERM, before, None)


def leave(code: int) -> None:
    """Leave a process that has imported jax. After a failure no shutdown barrier is waited for: the peers may be gone."""
    import jax

    if not jax.distributed.is_initialized():
        return
    if code == 0:
        jax.distributed.shutdown()
        return
    if client_of_several() is not None and is_first() and present_hosts() is None:  # else it has waited for the others already
        time.sleep(FAREWELL_S)
    from trainer.cluster.watchdog import leave_now

    sys.stdout.flush()
    sys.stderr.flush()
    leave_now(code)
