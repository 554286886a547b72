"""What hardware jax will find on this machine, asked before jax is imported."""

import glob
import importlib.metadata
import importlib.util
import os
import sys
import tempfile
import zlib

from launch.process import stopping

HUGE_PAGES = "glibc.malloc.hugetlb"


def cache_folder() -> str:
    """The folder of jax's compilation cache: a folder for each kind of CPU, because machines with different
    CPUs may share a home directory.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if home.startswith("~"):
        # Neither HOME nor an entry for this user: a folder named ~ would be made where one stands.
        home = os.path.join(tempfile.gettempdir(), f"cache-{os.getuid()}")
    return os.path.join(
        home,
        "meshwright",
        "programs",
        # A program compiled for instructions that this CPU lacks would crash with SIGILL.
        f"{zlib.crc32(_cpu_features()):08x}" if cpu_only() else "accelerator",
    )


def _cpu_features() -> bytes:
    # Linux only; elsewhere the folder is the same for all CPUs.
    try:
        with open("/proc/cpuinfo", "rb") as file:
            # There is a line for each core; all are alike.
            return next(
                (line for line in file if line.lower().startswith((b"flags", b"features"))), b""
            )
    except OSError:
        return b""


def use_huge_pages() -> None:
    """Start this process anew with huge pages in malloc, which glibc reads only when a process starts.

    A training step on a CPU allocates and frees the same hundreds of MiB every time; with pages of 4 KiB that
    takes a quarter of its time.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and HUGE_PAGES not in tunables and cpu_only():
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, f"{HUGE_PAGES}=1")))
        stopping.held()
        # sys.orig_argv also has the interpreter's own options, such as -X or -W.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def cpu_only() -> bool:
    """Whether jax will run on the CPU: JAX_PLATFORMS says so, or there is neither a GPU plugin nor a TPU.

    A plugin counts even without its GPU: its XLA may refuse to start with flags that are meant for CPUs.
    """
    asked = os.environ.get("JAX_PLATFORMS", "")
    return asked == "cpu" or not (
        asked or list(importlib.metadata.entry_points(group="jax_plugins")) or _tpu_is_here()
    )


def _tpu_is_here() -> bool:
    """Whether this machine has TPU chips and libtpu, which alone proves nothing: `plan` uses it without a
    TPU.
    """
    # The chips of a TPU machine are /dev/accel0, … or /dev/vfio/0, ….
    chips = any(glob.glob(pattern) for pattern in ("/dev/accel*", "/dev/vfio/[0-9]*"))
    return chips and importlib.util.find_spec("libtpu") is not None
