"""What a check of a device reports; a check that fails becomes a row too, and does not end the command."""

import gc
from collections.abc import Callable
from typing import Literal, NamedTuple

Status = Literal["passed", "failed", "measured", "skipped"]
LONGEST_REASON = 300  # characters; XLA's messages list every buffer


class Row(NamedTuple):
    """One line of the table. `figures` are numbers by name, units in the names; `note` says how or why."""

    check: str
    status: Status
    figures: dict[str, float]
    note: str = ""


class Check(NamedTuple):
    """Something to do on the device.

    `compares`: its failure fails the whole command. `alone`: it needs most of the memory, so it gets a
    process of its own, whose memory no earlier check has cut into pieces.
    """

    name: str
    run: Callable[[], Row]
    compares: bool
    alone: bool = False


class Skip(Exception):
    """Raised by a check that cannot run here, such as a divided row on a single device."""


def row_of(check: Check) -> Row:
    """The row of a check, whatever happens in it."""
    try:
        row = check.run()
    except Skip as reason:
        row = Row(check.name, "skipped", {}, str(reason))
    except Exception as error:  # an unsupported kernel, a compiler error, memory that is too small
        row = Row(check.name, "failed", {}, reason_of(error))
    # The next check needs the memory of this one's arrays. Not in the except branch, where the
    # traceback still refers to them.
    gc.collect()
    return row


def reason_of(error: Exception) -> str:
    """The kind of an error and the first line of its message."""
    first = (str(error).strip().splitlines() or ["no message"])[0]
    if "RESOURCE_EXHAUSTED" in first:
        # XLA reports a lack of memory with this status on every device.
        return f"out of device memory: {first}"[:LONGEST_REASON]
    return f"{type(error).__name__}: {first}"[:LONGEST_REASON]


def compared(check: str, errors: dict[str, float], bounds: dict[str, float]) -> Row:
    """A row that passes if every error is at most its bound."""
    # `<=` is false for NaN, so a NaN fails.
    passed = all(errors[name] <= bounds[name] for name in errors)
    if len(set(bounds.values())) == 1:
        rule = f"each at most {next(iter(bounds.values())):.2g}"
    else:
        rule = ", ".join(f"{name} at most {bound:.2g}" for name, bound in bounds.items())
    return Row(check, "passed" if passed else "failed", errors, rule)
