"""What a damaged disk, or a kill in the middle of a line, has taken from a phase's logs.

Logs are never needed to train: a phase goes on without them, and says once what is lost.
"""

from collections.abc import Callable
from pathlib import Path

from trainer.cluster.coordination import is_first
from trainer.events import EVENTS_FILE, has_step, is_event, keep_lines, parse_line, read_events
from trainer.records.metrics import METRICS_FILE, SAMPLES_FILE, read_metrics

LOST = "rows_lost"  # name of the event that says which steps have no row


def mend_logs(
    folder: Path, step: int, say: Callable[[str], None], event: Callable[..., None]
) -> None:
    """Call before the logs of a phase that resumes after `step` are opened; only process 0 does anything."""
    if is_first():
        set_damage_aside(folder, say)
        report_lost_rows(folder, step, event)


def set_damage_aside(folder: Path, say: Callable[[str], None]) -> None:
    """Move the lines of the logs that cannot be read to FILE.damaged, and say how many there are.

    Call it before anything reads or appends to them, in one process only.
    """
    for name, is_row in (
        (METRICS_FILE, has_step),
        (SAMPLES_FILE, has_step),
        (EVENTS_FILE, is_event),
    ):
        path = folder / name
        damaged = keep_lines(path, lambda line, is_row=is_row: is_row(parse_line(line) or {}))
        if damaged:
            aside = path.with_name(f"{name}.damaged")
            with aside.open("ab") as file:
                file.writelines(line + b"\n" for line in damaged)
            lines = "1 line" if len(damaged) == 1 else f"{len(damaged)} lines"
            say(f"  {path}: {lines} could not be read, moved to {aside.name}; training goes on")


def report_lost_rows(folder: Path, step: int, event: Callable[..., None]) -> None:
    """Record, once, which steps up to the checkpoint of `step` have no row in metrics.jsonl."""
    logged = {row["step"] for row in read_metrics(folder)}
    said = [past.get("steps") for past in read_events(folder) if past["event"] == LOST]
    lost = _ranges([number for number in range(1, step + 1) if number not in logged])
    # The lost rows stay lost, and every later start would find them again.
    if lost and lost not in said:
        event(LOST, step, steps=lost, remedy="none is needed, training goes on")


def _ranges(numbers: list[int]) -> str:
    """Ascending numbers in short: 3-7, 9."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
