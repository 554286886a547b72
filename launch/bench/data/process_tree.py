"""What this process and those it started have used, from /proc (Linux); without it, this process alone
counts.
"""

import os
import time
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SAMPLED_EVERY_S = 0.05


class Used(NamedTuple):
    """Of a process so far: CPU time with that of its ended children, and the memory it holds."""

    cpu_s: float
    rss_bytes: int


def descendants(pid: int) -> dict[int, Used]:
    """Process id → what it used, of `pid` and all below it that are there now."""
    found, waiting = {}, [pid]
    while waiting:
        current = waiting.pop()
        try:
            fields = Path(f"/proc/{current}/stat").read_text().rpartition(")")[2].split()
            threads = Path(f"/proc/{current}/task").iterdir()
            waiting += [
                int(child) for thread in threads for child in (thread / "children").read_text().split()
            ]
        except OSError:  # it has just ended, or there is no /proc
            continue
        found[current] = Used(sum(map(int, fields[11:13])) / TICKS_PER_S, int(fields[21]) * PAGE_BYTES)
    return found


def cpu_s() -> float:
    """CPU-seconds of this process and of its children that are alive."""
    own = os.getpid()
    return time.process_time() + sum(used.cpu_s for pid, used in descendants(own).items() if pid != own)


class Watch:
    """Follows a process and its descendants until `stop`: what they used together, and the most memory they
    held at a time.

    Pages that processes share count for each.
    """

    def __init__(self, pid: int):
        self._pid, self._seen, self.peak_bytes = pid, {}, 0
        self._ended = Event()
        self._thread = Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._ended.wait(SAMPLED_EVERY_S):
            now = descendants(self._pid)
            self._seen |= now
            self.peak_bytes = max(self.peak_bytes, sum(used.rss_bytes for used in now.values()))

    def stop(self) -> float:
        """CPU-seconds of all."""
        self._ended.set()
        self._thread.join()
        return sum(used.cpu_s for used in self._seen.values())
