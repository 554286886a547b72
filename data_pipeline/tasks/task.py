"""The contract of an evaluation task towards the corpus: texts that training must not have seen."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable


@runtime_checkable
class Task(Protocol):
    """A frozen component.

    Attributes:
        name: Unique among the tasks of a run: letters, digits and underscores.
    """

    name: str

    def texts(self) -> Iterator[str]:
        """Every text to protect: a question, and with its answer where that gives it away. No text that is an answer alone.

        Raises:
            OSError, ValueError: the task cannot be read; one sentence with field, value, rule and remedy.
        """
        ...

    def fingerprint(self) -> str:
        """Hex digits that change with any of the texts."""
        ...
