"""What a run shows a person: one line a phase, bars with ETA on a terminal, a plain line now and then
elsewhere.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

LEAST_TEXT = 12  # columns that texts of a table keep on a narrow terminal
LINE_EVERY_S = 20.0  # in a log: few lines, yet often enough to see that the work goes on


class Console:
    """`say` prints a line, `progress` follows long work, `table` prints a table; a quiet console swallows
    everything.

    Pass it on as two callables: `say(text)` and `with progress(what, total, unit=…) as advance: advance(n,
    note)`. `advance(0, note)` says what is done before the first unit.
    """

    def __init__(self, *, quiet: bool = False):
        from rich.console import Console as RichConsole  # 0.1 s, which `--help` does without

        # A log has no width of its own; 140 columns hold our tables.
        width = None if sys.stdout.isatty() else 140
        self._rich = RichConsole(quiet=quiet, width=width, highlight=False, soft_wrap=False)
        self._bars: Any = None

    def say(self, text: str) -> None:
        """One line; it stands above bars that are in progress."""
        # No markup: text in square brackets would be taken for a style.
        self._rich.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def progress(
        self, what: str, total: int | None = None, *, unit: str = "", done: int = 0
    ) -> Iterator[Callable[..., None]]:
        """Follow `total` units of work (None = unknown), `done` of them before: yields `advance(n=1,
        note="")`.
        """
        # Bars redraw a line by control characters, which a log file would keep.
        follow = self._bar if self._rich.is_terminal and not self._rich.quiet else self._lines
        with follow(what, total, unit, done) as advance:
            yield advance

    @contextmanager
    def _bar(
        self, what: str, total: int | None, unit: str, done: int
    ) -> Iterator[Callable[..., None]]:
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        # One display for all bars, which are drawn below each other.
        if self._bars is None:
            count = "{task.completed:,.0f}/{task.fields[of]} {task.fields[unit]}"
            left = ("{task.description}", BarColumn(30), TextColumn(count))
            right = (TimeElapsedColumn(), "eta", TimeRemainingColumn(), "{task.fields[note]}")
            # transient: a finished bar disappears, and the line that the phase prints stays.
            self._bars = Progress(*left, *right, console=self._rich, transient=True)
            self._bars.start()
        bars = self._bars
        task = bars.add_task(
            what,
            total=total,
            completed=done,
            unit=unit,
            note="",
            of="?" if total is None else f"{total:,.0f}",
        )

        result = ""  # the last note about work that was done

        def advance(n: int = 1, note: str = "") -> None:
            nonlocal result
            # Without a new note the bar keeps the old one.
            bars.update(task, advance=n, **({"note": note} if note else {}))
            result = note if note and n else result

        try:
            yield advance
        finally:
            bars.remove_task(task)
            # The bar disappears, and with it the last loss, which a person wants to keep.
            if result:
                self.say(f"{what}: {result}")
            # The last one ends the display, or its thread would go on drawing.
            if not bars.tasks:
                bars.stop()
                self._bars = None

    @contextmanager
    def _lines(
        self, what: str, total: int | None, unit: str, done: int
    ) -> Iterator[Callable[..., None]]:
        start = last = time.monotonic()
        count = timed_from = done
        unsaid = ""  # the last note about work that was done, unless a line has said it

        def advance(n: int = 1, note: str = "") -> None:
            nonlocal start, last, count, timed_from, unsaid
            if not n:
                # what is done before the first unit, such as compiling
                self.say(f"{what}: {note}")
                return
            now = time.monotonic()
            if count == done:
                # The first unit took all that is done only once: the estimate begins after it.
                start, timed_from = now, done + n
            count += n
            unsaid = note or unsaid
            if now - last >= LINE_EVERY_S:
                last = now
                amount = f"{count:,.0f}" + (f"/{total:,.0f}" if total else "")
                line = f"{what}: {amount} {unit}".rstrip()
                if total and count > timed_from:
                    seconds_each = (now - start) / (count - timed_from)
                    line += f", {duration(seconds_each * (total - count))} left"
                self.say(f"{line}, {note}" if note else line)
                unsaid = ""

        try:
            yield advance
        finally:
            if unsaid:
                self.say(f"{what}: {unsaid}")

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        text_columns: int = 1,
    ) -> None:
        """A table: the first `text_columns` columns are text, the others numbers (to the right)."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(
            title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
        )
        can_fold = 0  # columns of the terminal that folding of texts saves
        for i, column in enumerate(columns):
            is_text = i < text_columns
            longest = max(len(each[i]) for each in (columns, *rows))
            can_fold += max(longest - LEAST_TEXT, 0) if is_text else 0
            # "fold" wraps a long text; the default would cut it with an ellipsis. A number on two
            # lines would be read as two.
            justify = "left" if is_text else "right"
            table.add_column(column, justify=justify, overflow="fold", no_wrap=not is_text)
        for row in rows:
            table.add_row(*row)
        unbounded = self._rich.options.update(width=10_000)
        needed = self._rich.measure(table, options=unbounded).maximum - can_fold
        # Wider than the terminal rather than cut.
        if needed > self._rich.width:
            table.width = needed
        self._rich.print(table, crop=False)


def even(*values: float | None) -> list[str]:
    """Numbers that stand beside each other, all with as many decimals as give the largest four digits; ""
    for None.
    """
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    # of the largest: 0 for thousands, 3 for 8.140
    decimals = 3 - math.floor(math.log10(max(sizes, default=1000.0)))
    # More than six would be mostly zeros: such numbers are told apart by their own digits.
    form = ".4g" if decimals > 6 else f",.{max(decimals, 0)}f"
    return ["" if value is None else f"{value:{form}}" for value in values]


def duration(seconds: int | float) -> str:
    """Seconds for a person: `42 s`, `3 min 20 s`, `5 h 03 min`."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
