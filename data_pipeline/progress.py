"""How work that takes long reports: lines of text, and units done of a total. The launcher shows them; by
default nothing is shown.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Say = Callable[[str], None]
# progress(what, total=None, *, unit="") is a context that yields advance(n=1)
Progress = Callable[..., AbstractContextManager[Callable[..., None]]]


def silent(text: str) -> None:
    """Print nothing: the default of `say`."""


@contextmanager
def unseen(
    what: str, total: int | float | None = None, *, unit: str = "", done: int | float = 0
) -> Iterator[Callable[..., None]]:
    """Show nothing: the default of `progress`."""
    yield lambda n=1, note="": None
