"""How long work reports: a line of text, and units done of a total. The launcher shows them; by default
nobody looks.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Say = Callable[[str], None]
Progress = Callable[
    ..., AbstractContextManager[Callable[..., None]]
]  # progress(what, total=None, *, unit="") yields advance(n=1)


def silent(text: str) -> None:
    """Say nothing."""


@contextmanager
def unseen(
    what: str, total: int | float | None = None, *, unit: str = "", done: int | float = 0
) -> Iterator[Callable[..., None]]:
    """Show nothing."""
    yield lambda n=1, note="": None
