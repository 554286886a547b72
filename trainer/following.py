"""Following work that takes long: what launch shows as a bar, and nothing where nobody looks."""

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def no_progress(
    what: str, total: int | None = None, *, unit: str = "", done: int = 0
) -> Iterator[Callable[..., None]]:
    """Show nothing; the same call as `Console.progress`, which launch passes to a phase."""
    # Called as `advance(n, note)` after every unit of work.
    yield lambda n=1, note="": None
