"""What a soak has found, a line a kind of fault."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

HEAD = ("fault", "injected", "survived", "steps lost", "detect s", "first step s")


class Outcome(NamedTuple):
    """Of one fault. The times are None where there was nothing to measure: the run did not end, or did not
    go on.

    Attributes:
        fault: Its name.
        step: The last one before it.
        code: With which the run ended; None = it went on.
        survived: Whether the run noticed and went on by itself or when started again.
        steps_lost: Made before and to be made again.
        detect_s: From the fault until the run had ended.
        restart_s: From the next start until its first step had ended.
    """

    fault: str
    step: int
    code: int | None
    survived: bool
    steps_lost: int | None = None
    detect_s: float | None = None
    restart_s: float | None = None


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """Lines: the kinds of faults, then all of them; mean and largest of what was measured."""
    kinds = {outcome.fault: [] for outcome in sorted(outcomes)}
    for outcome in outcomes:
        kinds[outcome.fault].append(outcome)
    body = [_line(kind, of) for kind, of in kinds.items()] + [_line("all", list(outcomes))]
    widths = [max(map(len, column)) for column in zip(HEAD, *body, strict=True)]
    return [
        "  ".join(
            cell.ljust(widths[0]) if i == 0 else cell.rjust(widths[i])
            for i, cell in enumerate(line)
        )
        for line in [HEAD, *body]
    ]


def _line(kind: str, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    measured = ("steps_lost", "detect_s", "restart_s")
    numbers = [[x for o in outcomes if (x := getattr(o, name)) is not None] for name in measured]
    return (
        kind,
        str(len(outcomes)),
        str(sum(o.survived for o in outcomes)),
        *map(_mean_and_most, numbers),
    )


def _mean_and_most(numbers: Sequence[float]) -> str:
    return f"{statistics.fmean(numbers):.1f} (max {max(numbers):.1f})" if numbers else "-"
