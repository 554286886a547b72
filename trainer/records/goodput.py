"""Goodput: the share of a phase's time, restarts included, spent in steps that count; the rest by cause."""

import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from trainer.events import append_event, is_number, read_events
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
# events that only a Ledger writes
ACCOUNTED = ("start", "end", *CAUSES)
PRODUCTIVE = "goodput/productive_s"
EVENT_FROM_S = 0.5  # a shorter block gets no event of its own; the account includes it all the same


class Ledger:
    """An account of a phase's seconds by cause. Goodput is the time of steps that count, divided by all time
    since the first start; the causes and the steps that count always add up to all time.

    A life is the work of one process on the phase, from start to exit or kill. This life began at `started`
    (Unix time) and resumes after `first_step` steps. What earlier lives spent is read from events.jsonl and
    metrics.jsonl, so make the Ledger before the MetricsWriter, which removes rows. Exactly one process of a
    run is `active`; the others read and write nothing.
    """

    def __init__(self, folder: Path, first_step: int, *, active: bool, started: float):
        self._folder = folder
        self._active = active
        self._step = first_step
        # Offset from the monotonic clock to Unix time, read once: setting the clock later changes nothing.
        self._clock = time.time() - time.perf_counter()
        self._productive_s = 0.0
        self._lost_s = dict.fromkeys(CAUSES, 0.0)
        # Productive seconds up to a step, to which a rollback to that step returns. Two arrays, since
        # the steps have gaps where rows are lost.
        self._steps = array("q", [0])
        self._productive_at = array("d", [0.0])
        # (begin, end) of the blocks charged since the last step
        self._spans: list[tuple[float, float]] = []
        self._charged_s = 0.0  # by all blocks so far; a block subtracts what nested ones have added
        self._unexplained = "start"  # cause of time in which neither a step nor a block ran
        self._first_step_s: float | None = None  # of this life
        self._origin = started
        if active:
            folder.mkdir(parents=True, exist_ok=True)
            began = self._take_over(started)
            # The clock was set back between two lives, which then follow one another without a pause.
            self._clock += began - started
            self.back_to(first_step)
            self.event("start", first_step, began=began, **self.row())

    def _take_over(self, started: float) -> float:
        """Continue the newest account of the earlier lives, with what is recorded of the time after it.

        Returns when this life began by the clock of the account: `started`, or later where the system's
        clock has gone back since. Any of the records may be missing; then less of the time is known.
        """
        rows = [row for row in read_metrics(self._folder) if is_number(row.get("time"))]
        # Of this life's own events, from before its account, none is among ACCOUNTED.
        events = [
            event
            for event in read_events(self._folder)
            if event["event"] in ACCOUNTED or event["time"] <= started
        ]
        # an account is a row or an event with the fields of `row()`
        accounts = [entry for entry in (*rows, *events) if is_number(entry.get(PRODUCTIVE))]
        if not accounts:
            return started
        # The account that covers most time: rows and events are in two files.
        account = max(accounts, key=_accounted_s)
        starts = [event["began"] for event in events if is_number(event.get("began"))]
        # Where no start is recorded, the account itself says how long before it the phase began.
        self._origin = min(starts, default=account["time"] - _accounted_s(account))
        self._productive_s = account[PRODUCTIVE]
        self._lost_s = _lost_in(account)
        account_time = self._origin + _accounted_s(account)
        account_step = account["step"] or 0
        for row in rows:
            self._take_row(row, new=row["time"] > account_time and row["step"] > account_step)
        for event in events:
            is_loss = event["event"] in CAUSES and is_number(event.get("seconds"))
            if is_loss and event["time"] > account_time:
                self._lost_s[event["event"]] += event["seconds"]
        # What the earlier life did after its last record is lost and not known: that time is "down".
        # An account may be later than all records: their times are those of a clock that has gone back.
        last_sign = max(account_time, *(entry["time"] for entry in (*rows, *events)))
        began = max(started, last_sign)
        self._charge_rest("other", until=last_sign)
        self._charge_rest("down", until=began)
        return began

    def _take_row(self, row: dict[str, Any], *, new: bool) -> None:
        """Take over a row of an earlier life; `new`: it is newer than the account, so its step is added."""
        times = [row.get("time/step_s"), row.get("time/data_wait_s")]
        if is_number(row.get(PRODUCTIVE)):
            self._mark(row["step"], row[PRODUCTIVE])
        elif new and all(is_number(seconds) for seconds in times):
            self._productive_s += times[0] - times[1]
            self._mark(row["step"], self._productive_s)

    @contextmanager
    def spent(self, cause: str, *, hidden: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Charge this block's time to `cause`, less what nested blocks charge.

        Nothing is charged if `hidden()` is true at the end: the devices were busy all the time.

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
                # the span of this block replaces those of the blocks nested in it
                self._spans = [span for span in self._spans if span[1] <= began]
                self._spans.append((began, ended))
                if own_s >= EVENT_FROM_S:
                    self.event(cause, self._step, seconds=own_s)

    def stepped(self, number: int, seconds: float, *, lost_to: str | None = None) -> None:
        """Record that step `number` has just ended, `seconds` after the previous one.

        The blocks charged in that time are subtracted. The rest is productive, or charged to `lost_to`. Of a
        life's first step only as much is productive as the second step takes: the rest was compiling.
        """
        now = self._now()
        step_began = now - seconds
        charged_s = sum(max(0.0, end - max(begin, step_began)) for begin, end in self._spans)
        # max(begin, step_began) above: a block may have begun before this step did
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
        # How many entries are of steps up to this one; the first, of step 0, always is.
        n_kept = max(bisect_right(self._steps, step), 1)
        if n_kept < len(self._steps):
            self._lost_s["redone"] += self._productive_s - self._productive_at[n_kept - 1]
            self._productive_s = self._productive_at[n_kept - 1]
            del self._steps[n_kept:], self._productive_at[n_kept:]
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
        # max: a row at the very start must not divide by zero
        elapsed_s = max(now - self._origin, 1e-9)
        return {
            "goodput/frac": self._productive_s / elapsed_s,
            PRODUCTIVE: self._productive_s,
            **lost,
        }

    def close(self) -> None:
        """Append the account as an "end" event: time after it is charged to "down"."""
        self.event("end", self._step, **self.row())

    def _now(self) -> float:
        """Unix time that never goes back, even if the system's clock is set back."""
        return self._clock + time.perf_counter()

    def _charge_rest(self, cause: str, *, until: float) -> None:
        """Charge to `cause` all time up to `until` that has no cause yet."""
        self._lost_s[cause] += (
            until - self._origin - self._productive_s - sum(self._lost_s.values())
        )

    def _mark(self, number: int, productive_s: float) -> None:
        # A step that is made again replaces its old entry and those of all steps after it.
        n_before = bisect_left(self._steps, number)
        del self._steps[n_before:], self._productive_at[n_before:]
        self._steps.append(number)
        self._productive_at.append(productive_s)


def _lost_in(account: dict[str, Any]) -> dict[str, float]:
    lost = {cause: account.get(f"goodput/lost_s/{cause}") for cause in CAUSES}
    return {cause: seconds if is_number(seconds) else 0.0 for cause, seconds in lost.items()}


def _accounted_s(account: dict[str, Any]) -> float:
    """Seconds from the first start to the moment an account describes; it is written slightly later."""
    return account[PRODUCTIVE] + sum(_lost_in(account).values())


def process_started() -> float:
    """The Unix time at which this process began."""
    created = psutil.Process().create_time()
    if not hasattr(time, "CLOCK_BOOTTIME"):  # macOS, where that is exact
        return created
    # On Linux psutil adds the process's exact time since boot to a boot time in whole seconds; subtracting
    # that boot time again and using the boot clock gives the exact age.
    since_boot_s = created - psutil.boot_time()
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot_s
    return time.time() - age_s
