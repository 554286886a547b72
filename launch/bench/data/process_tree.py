"""What this process and those it started have used."""

import time
from threading import Event, Thread
from typing import NamedTuple

import psutil

SAMPLED_EVERY_S = (
    0.1  # finding children reads the list of all processes: some 15 ms for a hundred of them
)


class Used(NamedTuple):
    """CPU seconds and resident bytes of one process so far."""

    cpu_s: float
    rss_bytes: int


def descendants(pid: int) -> dict[int, Used]:
    """Process id -> what it used, of `pid` and all processes below it that are there now."""
    try:
        # Recursive: a pool's workers are children of a child.
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:  # it has just ended
        return {}
    used_by = {}
    for process in processes:
        try:
            times = process.cpu_times()
            used_by[process.pid] = Used(times.user + times.system, process.memory_info().rss)
        # It ended between the listing and the question; what was last seen of it counts.
        except psutil.Error:
            continue
    return used_by


def cpu_s() -> float:
    """CPU seconds of this process and of its children that are alive."""
    own = psutil.Process().pid
    # the system counts children only when they have ended
    children_s = sum(used.cpu_s for pid, used in descendants(own).items() if pid != own)
    return time.process_time() + children_s  # finer than the clock ticks that the system counts in


class Watch:
    """Follows a process and its descendants until `stop`: their CPU time and the most memory they held.

    Pages that processes share count for each.
    """

    def __init__(self, pid: int):
        self._pid = pid
        self._last_seen: dict[int, Used] = {}  # a process that has ended counts as it was last seen
        self.peak_bytes = 0
        self._ended = Event()
        self._thread = Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        # `wait` is the pause, and ends at once when `stop` sets the event.
        while not self._ended.wait(SAMPLED_EVERY_S):
            now = descendants(self._pid)
            self._last_seen |= now
            # Sum over processes at one moment, not of each one's own maximum.
            self.peak_bytes = max(self.peak_bytes, sum(used.rss_bytes for used in now.values()))

    def stop(self) -> float:
        """End the watching; CPU seconds of all processes seen."""
        self._ended.set()
        self._thread.join()
        return sum(used.cpu_s for used in self._last_seen.values())
