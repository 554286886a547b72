"""How much memory a step needs, of the devices and of this process."""

import resource
import sys
from pathlib import Path

import jax


def memory_row() -> dict[str, float]:
    """`memory/device_bytes` and `memory/device_peak_bytes` of the fullest device here, where devices count
    theirs (CPUs do not); `memory/host_bytes` is what this process holds now, where the system does not say
    that the most it ever held.
    """
    counted = [stats for device in jax.local_devices() if (stats := device.memory_stats())]
    row = {"memory/host_bytes": float(_host_bytes())}
    if counted:
        row["memory/device_bytes"] = float(max(stats["bytes_in_use"] for stats in counted))
        row["memory/device_peak_bytes"] = float(max(stats["peak_bytes_in_use"] for stats in counted))
    return row


def _host_bytes() -> int:
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return most_host_bytes()


def most_host_bytes() -> int:
    """The most that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
