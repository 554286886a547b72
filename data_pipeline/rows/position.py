"""Row numbers in sequence, without windows of them that are skipped."""

from collections.abc import Iterable, Sequence

Window = Sequence[int]  # [first, stop)


def rows_of(first: int, n: int, skipped: Iterable[Window], *, offset: int = 0) -> list[int]:
    """Of the rows from row `first` on that lie in no window, the n from number `offset` on."""
    # a window that began before `first` skips only what of it is left
    windows = [(max(start, first), stop) for start, stop in united(skipped) if stop > first]
    return [_past_windows(first + offset + i, windows) for i in range(n)]


def after(first: int, n: int, skipped: Iterable[Window]) -> int:
    """Rows consumed when the next n are read: up to the last of them, windows before it included."""
    return rows_of(first, 1, skipped, offset=n - 1)[0] + 1 if n else first


def united(windows: Iterable[Window]) -> list[list[int]]:
    """The windows in order, those that touch as one."""
    joined: list[list[int]] = []
    for first, stop in sorted((first, stop) for first, stop in windows):
        if joined and first <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], stop)
        else:
            joined.append([first, stop])
    return joined


def _past_windows(row: int, windows: Sequence[Window]) -> int:
    """The row number that `row` becomes when windows, in order, are stepped over."""
    for start, stop in windows:
        # Windows are in order: a row pushed past one may fall into the next.
        if start <= row:
            row += stop - start
    return row
