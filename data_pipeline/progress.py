"""How long work reports: a line of text, and units done of a total. The launcher shows them; by default
nobody looks.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Say = Callable[[str], None]
# progress(what, total=None, *, unit="") is a context that yields advance(n=1)
Progress = Callable[..., AbstractContextManager[Callable[..., None]]]


def silent(text: str) -> None:
    """Say nothing; where nobody reads."""


@contextmanager
def unseen(
    what: str, total: int | float | None = None, *, unit: str = "", done: int | float = 0
) -> Iterator[Callable[..., None]]:
    """Show nothing; where nobody looks."""
    yield lambda n=1, note="": None
