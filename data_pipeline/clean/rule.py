"""The contract of a cleaning rule."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from data_pipeline.document import Document
from data_pipeline.drops import Drops

Check = Callable[[Document], Document | None]  # the document, perhaps rewritten, or None: dropped, and its reason counted


@runtime_checkable
class Rule(Protocol):
    """A frozen component; what it must remember from document to document lives in the check that `start` returns."""

    sources: tuple[str, ...]

    def start(self, drops: Drops) -> Check:
        """A check for one pass over the documents, writing what it drops to `drops`."""
        ...
