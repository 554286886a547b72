"""CPU time and memory of a process and of all processes that it started."""

import time
from threading import Event, Thread
from typing import NamedTuple

import psutil

# Finding children reads the list of all processes, which takes some 15 ms for a hundred of them.
SAMPLED_EVERY_S = 0.1


class Used(NamedTuple):
    """CPU seconds and resident bytes of one process so far."""

    cpu_s: float
    rss_bytes: int


def descendants(pid: int) -> dict[int, Used]:
    """Process id -> what it used, of `pid` and all processes below it that are alive."""
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
        except psutil.Error:  # it ended after it was listed
            continue
    return used_by


def cpu_s() -> float:
    """CPU seconds of this process and of its children that are alive."""
    own = psutil.Process().pid
    # Children that are alive must be asked: the system adds their time to ours when they end.
    children_s = sum(used.cpu_s for pid, used in descendants(own).items() if pid != own)
    # process_time is finer than psutil's figure, which counts clock ticks of 10 ms.
    return time.process_time() + children_s


class Watch:
    """Follows a process and its descendants until `stop`: their CPU time and the most memory they held.

    Pages that processes share count for each.
    """

    def __init__(self, pid: int):
        self._pid = pid
        # A process that has ended counts as it was last seen.
        self._last_seen: dict[int, Used] = {}
        self.peak_bytes = 0
        self._ended = Event()
        self._thread = Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        # `wait` is the pause, and ends at once when `stop` sets the event.
        while not self._ended.wait(SAMPLED_EVERY_S):
            now = descendants(self._pid)
            self._last_seen |= now
            # The peak of the sum, not the sum of each process's own peak.
            self.peak_bytes = max(self.peak_bytes, sum(used.rss_bytes for used in now.values()))

    def stop(self) -> float:
        """End the watching; CPU seconds of all processes seen."""
        self._ended.set()
        self._thread.join()
        return sum(used.cpu_s for used in self._last_seen.values())
