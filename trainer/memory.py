"""Memory in use on the devices and in this process."""

import resource
import sys

import jax
import psutil


def memory_row() -> dict[str, float]:
    """`memory/host_bytes` of this process, and `memory/device_bytes` and `memory/device_peak_bytes` of its
    fullest device; CPU devices report none.
    """
    row = {"memory/host_bytes": float(host_bytes())}
    # None from devices without memory statistics, such as CPUs
    stats_of_devices = [device.memory_stats() for device in jax.local_devices()]
    counted = [stats for stats in stats_of_devices if stats]
    if counted:
        row["memory/device_bytes"] = float(max(stats["bytes_in_use"] for stats in counted))
        row["memory/device_peak_bytes"] = float(
            max(stats["peak_bytes_in_use"] for stats in counted)
        )
    return row


def host_bytes() -> int:
    """The host memory that this process holds now."""
    return psutil.Process().memory_info().rss


def peak_host_bytes() -> int:
    """The most host memory that this process ever held."""
    # psutil gives no peak on Linux and macOS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts kibibytes, macOS bytes
