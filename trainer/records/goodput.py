"""Where the time of a phase went, over all its lives: steps that count, and seconds lost by cause."""

import json
import math
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.records.metrics import read_metrics, read_rows

EVENTS_FILE = "events.jsonl"

CAUSES = {  # name -> what it is, and what ml-goodput-measurement calls it
    "start": "from the beginning of a life to the end of its first step (TPU_INITIALIZATION, TRAINING_PREP, PROGRAM_STARTUP)",
    "compile": "compiling, where the loop measures it apart from the first step (PROGRAM_STARTUP)",
    "restore": "reading a checkpoint (UNPRODUCTIVE_CHECKPOINT_RESTORE_TIME)",
    "data": "devices waiting for a batch (DATA_LOADING_SYNC)",
    "checkpoint": "steps waiting for a save (UNPRODUCTIVE_CHECKPOINT_SAVE_TIME)",
    "evaluate": "evaluations (CUSTOM)",
    "redone": "steps whose result was lost, in a death or a rollback (WASTED_PROGRESS_FROM_DISRUPTION)",
    "skipped": "steps whose update was left out (none)",
    "down": "between the last sign of one life and the beginning of the next (INFRASTRUCTURE_RECOVERY_FROM_DISRUPTION)",
    "other": "all else (OTHER)",
}
PRODUCTIVE = "goodput/productive_s"
SAID_FROM_S = 0.5  # shorter times are in the rows only


class Ledger:
    """Seconds of a phase by cause, and its events. Goodput is the time of the steps that count over all
    time since the first start.

    A life of the phase is one process's work on it; this one began at `started` (Unix time) and goes on
    after `first_step` steps. What earlier lives spent is read from metrics.jsonl, some of whose rows hold a
    `row` of this, and from events.jsonl, also when they were
    killed: make the Ledger before the MetricsWriter, which cuts rows off. The causes and the steps that
    count add up to all time. Exactly one process of a run is `active`; in the others nothing is read or
    written.
    """

    def __init__(self, folder: Path, first_step: int, *, active: bool, started: float):
        self._folder, self._active, self._step = folder, active, first_step
        self._clock = time.time() - time.perf_counter()
        self._productive_s, self._lost_s = 0.0, dict.fromkeys(CAUSES, 0.0)
        self._until = array("d", [0.0])  # productive seconds by step: what a rollback goes back to
        self._spans: list[tuple[float, float]] = []  # spent since the last step
        self._spent_s = 0.0
        self._between, self._first_s = (
            "start",
            None,
        )  # what time between two steps is lost to; seconds of this life's first step
        self._origin = started
        if active:
            folder.mkdir(parents=True, exist_ok=True)
            self._go_on(started)
            self.back_to(first_step)
            self.event("start", first_step, began=started, **self.row())

    def _go_on(self, started: float) -> None:
        """Take over the account of the lives before: the newest that was written down, and what is known of
        the time behind it.
        """
        rows = read_metrics(self._folder)
        events = [event for event in read_events(self._folder) if event["time"] <= started]
        accounts = [entry for entry in (*rows, *events) if PRODUCTIVE in entry]
        if not accounts:
            return
        self._origin = min(event["began"] for event in events if event["event"] == "start")
        account = max(accounts, key=_end)
        known_s, self._productive_s, self._lost_s = _end(account), account[PRODUCTIVE], _lost_in(account)
        for row in rows:
            self._take(row, new=row["time"] > self._origin + known_s and row["step"] > account["step"])
        for event in events:
            if event["event"] in CAUSES and "seconds" in event and event["time"] > self._origin + known_s:
                self._lost_s[event["event"]] += event["seconds"]
        self._settle("other", max(entry["time"] for entry in (*rows, *events)))
        self._settle("down", started)

    def _take(self, row: dict[str, Any], *, new: bool) -> None:
        """A row of an earlier life: its account, or if it is `new` and holds none, the time of its step."""
        if PRODUCTIVE in row:
            self._mark(row["step"], row[PRODUCTIVE])
        elif new and "time/step_s" in row:
            self._productive_s += row["time/step_s"] - row["time/data_wait_s"]
            self._mark(row["step"], self._productive_s)

    @contextmanager
    def spent(self, cause: str, *, hidden: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """The time inside is lost to `cause`, except what is spent inside on another one; nothing is if in
        the end it was `hidden`: the devices still work.

        Raises:
            KeyError: CAUSES has no such cause.
        """
        began, inner_s = self._now(), self._spent_s
        try:
            yield
        finally:
            ended = self._now()
            if not hidden():
                own_s = ended - began - (self._spent_s - inner_s)
                self._spent_s += own_s
                self._lost_s[cause] += own_s
                self._spans = [*(span for span in self._spans if span[1] <= began), (began, ended)]
                if own_s >= SAID_FROM_S:
                    self.event(cause, self._step, seconds=own_s)

    def stepped(self, number: int, seconds: float, *, lost_to: str | None = None) -> None:
        """Step `number` has ended just now, `seconds` after the one before; what was spent in that time is
        taken off. Its update counts unless it is `lost_to` a cause.

        Of the first step of a life only as much counts as the second takes: the rest is compiling.
        """
        now = self._now()
        own_s = seconds - sum(max(0.0, ended - max(began, now - seconds)) for began, ended in self._spans)
        self._spans.clear()
        self._step = number
        self._settle(self._between, now - own_s)
        if self._first_s is None:
            self._first_s = own_s
        else:
            if self._between == "start":
                self._between = "other"
                self._productive_s += min(self._first_s, own_s)
                self._lost_s["start"] -= min(self._first_s, own_s)
            self._count(own_s, lost_to)
        self._mark(number, self._productive_s)

    def _count(self, seconds: float, lost_to: str | None) -> None:
        if lost_to is None:
            self._productive_s += seconds
        else:
            self._lost_s[lost_to] += seconds

    def back_to(self, step: int) -> None:
        """The steps after `step` no longer count: training goes on from there."""
        if step < len(self._until) - 1:
            self._lost_s["redone"] += self._productive_s - self._until[step]
            self._productive_s = self._until[step]
            del self._until[step + 1 :]
        self._step = step

    def event(self, name: str, step: int | None, /, **what: Any) -> None:
        """Append a line to events.jsonl at once."""
        if self._active:
            append_event(self._folder, name, step, **what)

    def row(self) -> dict[str, float]:
        """The account up to now: `goodput/productive_s` and `goodput/lost_s/CAUSE` add up to the time since
        the first start.
        """
        now = self._now()
        self._settle(self._between, now)
        lost = {f"goodput/lost_s/{cause}": seconds for cause, seconds in self._lost_s.items()}
        return {
            "goodput/frac": self._productive_s / max(now - self._origin, 1e-9),
            PRODUCTIVE: self._productive_s,
            **lost,
        }

    def close(self) -> None:
        """Write down the account: what comes after is no part of this life."""
        self.event("end", self._step, **self.row())

    def _now(self) -> float:
        """Unix time that never goes back."""
        return self._clock + time.perf_counter()

    def _settle(self, cause: str, until: float) -> None:
        """What has no cause up to then goes to `cause`."""
        self._lost_s[cause] += until - self._origin - self._productive_s - sum(self._lost_s.values())

    def _mark(self, number: int, productive_s: float) -> None:
        del self._until[number:]
        self._until.extend([self._until[-1]] * (number - len(self._until)))
        self._until.append(productive_s)


def _lost_in(account: dict[str, Any]) -> dict[str, float]:
    return {cause: account.get(f"goodput/lost_s/{cause}", 0.0) for cause in CAUSES}


def _end(account: dict[str, Any]) -> float:
    """Seconds from the first start to the moment of an account; its `time` is that of writing."""
    return account[PRODUCTIVE] + sum(_lost_in(account).values())


def append_event(folder: Path, name: str, step: int | None, /, **what: Any) -> None:
    """Append {"time" (Unix seconds), "event", "step", **what} to events.jsonl; null stands for a number
    that is not finite.

    A disk that does not take the line stops nobody: it goes to stderr.
    """
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in what.items()
    }
    line = json.dumps({"time": time.time(), "event": name, "step": step, **finite})
    try:
        with (folder / EVENTS_FILE).open("a+b") as file:
            file.write(b"" if _ends_in_a_line(file) else b"\n")
            file.write(f"{line}\n".encode())
    except OSError as error:
        print(f"{folder / EVENTS_FILE}: {error.strerror}; not written: {line}", file=sys.stderr, flush=True)


def _ends_in_a_line(file: Any) -> bool:
    """Whether a file has no torn last line."""
    if not file.seek(0, 2):
        return True
    file.seek(-1, 2)
    return file.read(1) == b"\n"


def read_events(folder: Path) -> list[dict[str, Any]]:
    """The events of a phase folder, oldest first; a torn line is left out."""
    return [row for row in read_rows(folder / EVENTS_FILE) if "event" in row]


_imported = time.time()


def process_started() -> float:
    """The Unix time at which this process began; where the system does not say, that at which this module
    was imported.
    """
    stat = Path("/proc/self/stat")
    if not stat.exists():
        return _imported
    ticks = int(
        stat.read_text().rpartition(")")[2].split()[19]
    )  # field 22 of proc(5), since the machine's start
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / 100  # USER_HZ is 100 on every Linux of today
    return time.time() - age_s
