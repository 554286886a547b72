"""The contract of an evaluation task: texts that training must not have seen, questions to ask, and a grade
for each answer.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable


class Item(NamedTuple):
    """What is asked, and the answer as the data has it."""

    prompt: str
    answer: str


@runtime_checkable
class Task(Protocol):
    """A frozen component.

    Attributes:
        name: Unique among the tasks of a run: letters, digits and underscores.
    """

    name: str

    def texts(self) -> Iterator[str]:
        """Every text to protect: a question, and with its answer where that gives it away. No text that is
        an answer alone.

        Raises:
            OSError, ValueError: the task cannot be read; one sentence with field, value, rule and remedy.
        """
        ...

    def fingerprint(self) -> str:
        """Hex digits that change with any of the texts."""
        ...

    def items(self) -> Sequence[Item]:
        """All questions in the order of the data.

        Raises:
            OSError, ValueError: as in `texts`, or an answer cannot be graded.
        """
        ...

    def grade(self, item: Item, answer: str) -> float:
        """How right an answer is, from 0 to 1."""
        ...
