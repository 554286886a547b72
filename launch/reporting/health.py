"""Whether a run is well: what went wrong, where its time went, what happened when."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from launch.reporting.charts import COLOURS, value_text
from launch.reporting.page import Cell, bar, fold, paragraph, table
from launch.reporting.record import PhaseRecord
from launch.terminal.console import duration
from trainer.events import is_number

# Words in the names of events, because the log may have kinds of events that this page does not know.
FATAL = re.compile("hang|hung|stuck|lost|diverg")  # an event that ends a run
TROUBLE = re.compile(
    f"{FATAL.pattern}|fail|damag|low_|spike|rollback|skipped|straggl|corrupt|differ|bad|error|not finite"
)
COUNTERS = {
    "skipped": "guard/skipped",
    "spike": "guard/spikes",
    "rollback": "guard/rollbacks",
    "save_failed": "checkpoint/failed",
    "bad_record": "data/bad_records",
}
# From the best to the worst.
WORDS = {
    "": "Not begun",
    "good": "Healthy",
    "warn": "Recovered",
    "bad": "In trouble",
}
LOST = "goodput/lost_s/"
MANY_SPIKES = 0.02  # of the steps
SHOWN = 100  # events on the page before the older ones are folded away
# Fields of an event that have a column; `began` repeats the time.
OWN_COLUMNS = ("time", "life", "step", "event", "began")


def incidents(phase: PhaseRecord) -> dict[str, int]:
    """How often what went wrong, by the event log and by the counters."""
    # A line that another program wrote may have no `event`.
    counts = Counter(str(event["event"]) for event in phase.events if "event" in event)
    for word, name in COUNTERS.items():
        last = phase.last(name)
        in_metrics = int(last) if last is not None and math.isfinite(last) else 0
        # Both count the same incidents, and a crash may have lost lines of either.
        counts[word] = max(counts[word], in_metrics)
    counts["loss is not finite"] = not_finite(phase)
    return {name: n for name, n in counts.items() if n and TROUBLE.search(name)}


def not_finite(phase: PhaseRecord) -> int:
    """Rows whose training loss is NaN or infinite."""
    if "loss/train" not in phase.columns:
        return 0
    return sum(not math.isfinite(value) for value in phase.columns["loss/train"].values)


def verdict(phase: PhaseRecord) -> str:
    """`good`: nothing went wrong; `warn`: something did, and training went on; `bad`: it is so now;
    empty: not begun.
    """
    if not phase.trained:
        return "good" if phase.done else ""
    last_loss = phase.last("loss/train")
    streak = phase.last("guard/streak")  # unhealthy steps in a row, up to now
    last_event = str(phase.events[-1].get("event")) if phase.events else ""
    stopped = not phase.done and bool(FATAL.search(last_event))
    loss_is_lost = last_loss is not None and not math.isfinite(last_loss)
    if stopped or streak or loss_is_lost:
        return "bad"
    counts = incidents(phase)
    # The guard dropped their updates: some spikes are no trouble, many are.
    few_spikes = counts.get("spike", 0) <= MANY_SPIKES * phase.step
    return "good" if few_spikes and counts.keys() <= {"spike"} else "warn"


def verdict_cell(phases: Sequence[PhaseRecord]) -> Cell:
    """The worst verdict of all, in a word."""
    verdicts = [verdict(phase) for phase in phases]
    # WORDS goes from the best to the worst, so the highest index is the worst.
    worst = max(verdicts, key=list(WORDS).index, default="")
    return Cell(WORDS[worst], worst)


def summed(phases: Sequence[PhaseRecord]) -> Counter[str]:
    """How often each thing went wrong in all phases together."""
    return sum((Counter(incidents(phase)) for phase in phases), Counter())


def counted(counts: Mapping[str, int]) -> str:
    """Counts of incidents in words, such as `2 × spike, 1 × rollback`."""
    # Non-breaking spaces keep a count and its name on one line.
    times = "\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}"
    texts = []
    for name, n in counts.items():
        words = "spike (update dropped)" if name == "spike" else name.replace("_", " ")
        texts.append(f"{n:,}{times}{words}")
    return ", ".join(texts)


def goodput(phase: PhaseRecord) -> str:
    """A bar of the time since the phase began: what went into steps that count, and what was lost by
    cause.
    """
    useful = phase.last("goodput/frac")
    if useful is None:
        return ""
    lost_s = {}
    for name, column in phase.columns.items():
        if name.startswith(LOST) and column.last > 0:
            lost_s[name.removeprefix(LOST)] = column.last
    total_s = sum(lost_s.values())

    # COLOURS[2] is green; the losses have the others.
    shares = [(f"steps that count {useful:.1%}", useful, COLOURS[2])]
    other_colours = [*COLOURS[:2], *COLOURS[3:]]
    largest_first = sorted(lost_s.items(), key=lambda item: -item[1])
    for i, (cause, seconds) in enumerate(largest_first):
        # Lost seconds are scaled to 1 - useful, so that the bar is full.
        share = (1 - useful) * seconds / total_s
        text = f"{cause} {duration(seconds)}, {share:.1%}"
        shares.append((text, share, other_colours[i % len(other_colours)]))

    return bar(shares)


def events(phase: PhaseRecord) -> str:
    """The event log, newest first, trouble in colour; what happens all the time is only counted."""
    counts = Counter(str(event.get("event", "")) for event in phase.events)
    often = {}
    for name, n in counts.items():
        # Frequent events such as saves would hide rare ones.
        if n > SHOWN // 10 and not TROUBLE.search(name):
            often[name] = n
    logged = [event for event in phase.events if event.get("event") not in often]
    in_order = sorted([*logged, *dropped_steps(phase)], key=_time_of)
    rows = [_event(event) for event in reversed(in_order)]

    heads = ("time (UTC)", "life", "step", "event", "what")
    first = table(heads, rows[:SHOWN], n_text=5)
    # Beyond five times as many the page would grow without end.
    older = table(heads, rows[SHOWN : 5 * SHOWN], n_text=5)
    left_out = paragraph(f"Not in the table: {counted(often)}.") if often else ""
    return first + left_out + fold("Older events (all of them stand in events.jsonl)", older)


def _time_of(event: Mapping[str, Any]) -> float:
    # Of other versions a log may hold lines without a time: they stay at its beginning.
    time = event.get("time")
    return time if is_number(time) else 0.0


def dropped_steps(phase: PhaseRecord) -> list[dict[str, Any]]:
    """The steps whose update the guard dropped, as events with their loss and gradient norm: they stand in
    metrics.jsonl alone.
    """
    found = []
    for name, counter in (("spike", "guard/spikes"), ("skipped", "guard/skipped")):
        if counter not in phase.columns:
            continue
        steps, counts = phase.columns[counter]
        # The counters add up over the phase: a step raised one if it is more than in the row before.
        for step in steps[np.diff(counts, prepend=0.0) > 0].tolist():
            event = {"time": _at_step(phase, "time", step), "event": name, "step": step}
            for field, metric in (("loss", "loss/train"), ("gradient norm", "optimizer/grad_norm")):
                event[field] = _at_step(phase, metric, step)
            found.append(event | {"its update": "dropped"})
    return found


def _at_step(phase: PhaseRecord, name: str, step: int) -> float | None:
    """A metric at a step; None where it was not written."""
    column = phase.columns.get(name)
    if column is None:
        return None
    found = column.values[column.steps == step]
    return float(found[0]) if len(found) else None


def _event(event: Mapping[str, Any]) -> tuple[str | Cell, ...]:
    name = str(event.get("event", ""))

    fields = []
    for key, value in event.items():
        # Keys with a slash are metrics, which have charts.
        is_metric = "/" in key
        if not is_metric and key not in OWN_COLUMNS:
            fields.append(f"{key}: {_plain(value)}")
    mark = "warn" if TROUBLE.search(name) and name != "spike" else ""
    return (
        clock(event.get("time")),
        str(event.get("life", "")),
        _plain(event.get("step", "")),
        Cell(name, mark),
        Cell(", ".join(fields), "wrap"),
    )


def _plain(value: Any) -> str:
    if isinstance(value, str) or value is None:
        return value or ""
    # NaN too, which is a finding; bool is a subclass of int in Python.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value_text(value)
    return json.dumps(value)


def clock(seconds: Any) -> str:
    """Unix seconds as a date and time of day, UTC; empty where they are none."""
    if not is_number(seconds):
        return ""
    try:
        # UTC, because a reader may be in another time zone than the machines.
        moment = datetime.fromtimestamp(seconds, UTC)
    except (
        ValueError,
        OverflowError,
        OSError,
    ):  # beyond the years of the calendar, or of the system
        return ""
    return moment.strftime("%Y-%m-%d %H:%M:%S")
