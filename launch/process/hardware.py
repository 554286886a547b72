"""What this machine is to jax, asked before jax is imported."""

import glob
import importlib.metadata
import importlib.util
import os
import sys
import zlib

HUGE_PAGES = "glibc.malloc.hugetlb"


def cache_folder() -> str:
    """Where compiled programs are kept from start to start; those for a CPU by what that CPU can do, since
    homes are shared by machines.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
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
            # all cores have the same; one line is enough
            return next(
                (line for line in file if line.lower().startswith((b"flags", b"features"))), b""
            )
    except OSError:
        return b""


def use_huge_pages() -> None:
    """Start this process anew with malloc asking for huge pages, which glibc reads only at the start of a
    process.

    A training step on a CPU takes and returns the same hundreds of MiB every time; with pages of 4 KiB a
    quarter of its time goes there.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and HUGE_PAGES not in tunables and cpu_only():
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, f"{HUGE_PAGES}=1")))
        # glibc reads the variable only when a process starts
        # sys.orig_argv has the interpreter's own options too, such as -X or -W.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def cpu_only() -> bool:
    """Whether jax is to choose the CPU: asked for, or there is neither a GPU's plugin (its build may not
    know a CPU's flag) nor a TPU.
    """
    # asked without importing jax, which would start its backends
    asked = os.environ.get("JAX_PLATFORMS", "")
    return asked == "cpu" or not (
        asked or list(importlib.metadata.entry_points(group="jax_plugins")) or _tpu_is_here()
    )


def _tpu_is_here() -> bool:
    """A TPU machine shows its chips as /dev/accel0, … or /dev/vfio/0, …; libtpu alone is no TPU: it also
    compiles for absent ones.
    """
    # libtpu may be installed to plan for TPUs on a machine that has none.
    chips = any(glob.glob(pattern) for pattern in ("/dev/accel*", "/dev/vfio/[0-9]*"))
    return chips and importlib.util.find_spec("libtpu") is not None
