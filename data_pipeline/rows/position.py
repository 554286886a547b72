"""Row numbers behind one another, less windows of them that are left out."""

from collections.abc import Iterable, Sequence

Window = Sequence[int]  # [first, stop)


def rows_of(first: int, n: int, skipped: Iterable[Window], *, offset: int = 0) -> list[int]:
    """Of the rows from row `first` on that lie in no window the n from number `offset` on."""
    windows = [(max(start, first), stop) for start, stop in united(skipped) if stop > first]
    return [_row(first + offset + i, windows) for i in range(n)]


def after(first: int, n: int, skipped: Iterable[Window]) -> int:
    """Rows gone through when the next n are read: up to the last of them, windows before it included."""
    return rows_of(first, 1, skipped, offset=n - 1)[0] + 1 if n else first


def united(windows: Iterable[Window]) -> list[list[int]]:
    """The windows in order, those that touch as one."""
    found: list[list[int]] = []
    for first, stop in sorted((first, stop) for first, stop in windows):
        if found and first <= found[-1][1]:
            found[-1][1] = max(found[-1][1], stop)
        else:
            found.append([first, stop])
    return found


def _row(row: int, windows: Sequence[Window]) -> int:
    for start, stop in windows:
        if start <= row:
            row += stop - start
    return row
