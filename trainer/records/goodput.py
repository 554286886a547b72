"""Where the time of a phase went, over all its lives: steps that count, and seconds lost by cause."""

import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from trainer.events import append_event, read_events
from trainer.records.metrics import read_metrics

CAUSES = {  # name -> what it is, and what ml-goodput-measurement calls it
    "start": "from the beginning of a life to the end of its first step "
    "(TPU_INITIALIZATION, TRAINING_PREP, PROGRAM_STARTUP)",
    "compile": "compiling, where the loop measures it apart from the first step (PROGRAM_STARTUP)",
    "restore": "reading a checkpoint (UNPRODUCTIVE_CHECKPOINT_RESTORE_TIME)",
    "data": "devices waiting for a batch (DATA_LOADING_SYNC)",
    "checkpoint": "steps waiting for a save (UNPRODUCTIVE_CHECKPOINT_SAVE_TIME)",
    "evaluate": "evaluations (CUSTOM)",
    "redone": "steps whose result was lost, in a death or a rollback (WASTED_PROGRESS_FROM_DISRUPTION)",
    "skipped": "steps whose update was left out (none)",
    "down": "between the last sign of one life and the beginning of the next "
    "(INFRASTRUCTURE_RECOVERY_FROM_DISRUPTION)",
    "other": "all else (OTHER)",
}
PRODUCTIVE = "goodput/productive_s"
EVENT_FROM_S = 0.5  # a shorter pause gets no event; the rows count it all the same


class Ledger:
    """Seconds of a phase by cause; goodput is the time of steps that count over all since the first start.

    A life of the phase is one process's work on it; this one began at `started` (Unix time) and resumes after
    `first_step` steps. The causes and the steps that count always add up to all time. What earlier lives
    spent, killed ones too, is read from events.jsonl and metrics.jsonl, some of whose rows hold a `row` of a
    ledger: make the Ledger before the MetricsWriter, which cuts rows off. Exactly one process of a run is
    `active`; in the others nothing is read or written.
    """

    def __init__(self, folder: Path, first_step: int, *, active: bool, started: float):
        self._folder = folder
        self._active = active
        self._step = first_step
        # What turns the monotonic clock into Unix time: read once, so that a clock set back later
        # changes nothing.
        self._clock = time.time() - time.perf_counter()
        self._productive_s = 0.0
        self._lost_s = dict.fromkeys(CAUSES, 0.0)
        # productive seconds up to each step; a rollback to step i restores entry i
        self._productive_at = array("d", [0.0])
        self._spans: list[
            tuple[float, float]
        ] = []  # (begin, end) of blocks charged since the last step
        self._charged_s = 0.0
        self._unexplained = "start"  # cause that time between two steps is charged to
        self._first_step_s: float | None = None  # of this life
        self._origin = started
        if active:
            folder.mkdir(parents=True, exist_ok=True)
            self._take_over(started)
            self.back_to(first_step)
            self.event("start", first_step, began=started, **self.row())

    def _take_over(self, started: float) -> None:
        """Continue the newest account of the earlier lives, with what is known of the time after it."""
        rows = read_metrics(self._folder)
        events = [event for event in read_events(self._folder) if event["time"] <= started]
        # an account is a row or an event that holds seconds of all causes
        accounts = [entry for entry in (*rows, *events) if PRODUCTIVE in entry]
        if not accounts:
            return
        self._origin = min(event["began"] for event in events if event["event"] == "start")
        # The one that covers most time: rows and events are written in no common order.
        account = max(accounts, key=_accounted_s)
        self._productive_s = account[PRODUCTIVE]
        self._lost_s = _lost_in(account)
        account_time = self._origin + _accounted_s(account)
        for row in rows:
            self._take_row(row, new=row["time"] > account_time and row["step"] > account["step"])
        for event in events:
            if event["event"] in CAUSES and "seconds" in event and event["time"] > account_time:
                self._lost_s[event["event"]] += event["seconds"]
        # after it nothing is known of the earlier life: it may have worked on for a while
        last_sign = max(entry["time"] for entry in (*rows, *events))
        self._charge_rest("other", until=last_sign)
        self._charge_rest("down", until=started)

    def _take_row(self, row: dict[str, Any], *, new: bool) -> None:
        """A row of an earlier life; a `new` one was written after its last account: its step is added."""
        if PRODUCTIVE in row:
            self._mark(row["step"], row[PRODUCTIVE])
        elif new and "time/step_s" in row:
            self._productive_s += row["time/step_s"] - row["time/data_wait_s"]
            self._mark(row["step"], self._productive_s)

    @contextmanager
    def spent(self, cause: str, *, hidden: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Charge this block's time to `cause`, less what nested blocks charge.

        Nothing is charged if `hidden()` is true at the end: the devices were busy all the while.

        Raises:
            KeyError: CAUSES has no such cause.
        """
        began = self._now()
        charged_before_s = self._charged_s
        try:
            yield
        finally:
            ended = self._now()
            if not hidden():
                nested_s = self._charged_s - charged_before_s
                own_s = ended - began - nested_s
                self._charged_s += own_s
                self._lost_s[cause] += own_s
                # one span stands for this block and those nested in it
                self._spans = [span for span in self._spans if span[1] <= began]
                self._spans.append((began, ended))
                if own_s >= EVENT_FROM_S:
                    self.event(cause, self._step, seconds=own_s)

    def stepped(self, number: int, seconds: float, *, lost_to: str | None = None) -> None:
        """Step `number` has ended just now, `seconds` after the one before.

        Blocks charged in that time are taken off. The rest counts, unless it is `lost_to` a cause. Of the
        first step of a life only as much counts as the second step takes: the rest is compiling.
        """
        now = self._now()
        step_began = now - seconds
        charged_s = sum(max(0.0, end - max(begin, step_began)) for begin, end in self._spans)
        # a block may have begun before the step it is seen in
        own_s = seconds - charged_s
        self._spans.clear()
        self._step = number
        self._charge_rest(self._unexplained, until=now - own_s)
        if self._first_step_s is None:
            self._first_step_s = own_s
        else:
            if self._unexplained == "start":  # the second step of a life
                self._unexplained = "other"
                # The second step shows how long a step takes once it is compiled.
                computing_s = min(self._first_step_s, own_s)
                self._productive_s += computing_s
                self._lost_s["start"] -= computing_s
            self._count(own_s, lost_to)
        self._mark(number, self._productive_s)

    def _count(self, seconds: float, lost_to: str | None) -> None:
        if lost_to is None:
            self._productive_s += seconds
        else:
            self._lost_s[lost_to] += seconds

    def back_to(self, step: int) -> None:
        """Charge the steps after `step` to "redone": training resumes from there."""
        last = len(self._productive_at) - 1
        if step < last:
            self._lost_s["redone"] += self._productive_s - self._productive_at[step]
            self._productive_s = self._productive_at[step]
            del self._productive_at[step + 1 :]
        self._step = step

    def event(self, name: str, step: int | None, /, **fields: Any) -> None:
        """Append a line to events.jsonl at once."""
        if self._active:
            append_event(self._folder, name, step, **fields)

    def row(self) -> dict[str, float]:
        """The account up to now: `goodput/frac`, `goodput/productive_s` and `goodput/lost_s/CAUSE`."""
        now = self._now()
        self._charge_rest(self._unexplained, until=now)
        lost = {f"goodput/lost_s/{cause}": seconds for cause, seconds in self._lost_s.items()}
        # A row right at the start must not divide by zero.
        elapsed_s = max(now - self._origin, 1e-9)
        return {
            "goodput/frac": self._productive_s / elapsed_s,
            PRODUCTIVE: self._productive_s,
            **lost,
        }

    def close(self) -> None:
        """Write the account down as an event: what comes after is no part of this life."""
        self.event("end", self._step, **self.row())

    def _now(self) -> float:
        """Unix time that never goes back, whatever is done to the system's clock."""
        return self._clock + time.perf_counter()

    def _charge_rest(self, cause: str, *, until: float) -> None:
        """Charge to `cause` all time up to `until` that has no cause yet."""
        self._lost_s[cause] += (
            until - self._origin - self._productive_s - sum(self._lost_s.values())
        )

    def _mark(self, number: int, productive_s: float) -> None:
        del self._productive_at[number:]
        # steps without a row of their own count as the one before them
        # the ledger may begin in the middle of a phase
        missing = number - len(self._productive_at)
        self._productive_at.extend([self._productive_at[-1]] * missing)
        self._productive_at.append(productive_s)


def _lost_in(account: dict[str, Any]) -> dict[str, float]:
    return {cause: account.get(f"goodput/lost_s/{cause}", 0.0) for cause in CAUSES}


def _accounted_s(account: dict[str, Any]) -> float:
    """Seconds from the first start to the moment of an account, which is written somewhat later."""
    return account[PRODUCTIVE] + sum(_lost_in(account).values())


def process_started() -> float:
    """The Unix time at which this process began."""
    created = psutil.Process().create_time()
    if not hasattr(time, "CLOCK_BOOTTIME"):  # macOS, where that is exact
        return created
    # Linux: psutil adds an exact time since boot to a boot time that is cut to whole seconds
    since_boot_s = created - psutil.boot_time()
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot_s
    return time.time() - age_s
