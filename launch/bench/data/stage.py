"""A stage of the data bench."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Stage(NamedTuple):
    """What is measured.

    Attributes:
        name: In the table.
        amount: In `unit`, that `work` goes through.
        unit: Of the amount; the speed is per CPU-second.
        work: Does it once.
        bound: Name of a stage that does the least of the kind; "" for such a bound itself.
        note: What a bound does, or what came out.
    """

    name: str
    amount: float
    unit: str
    work: Callable[[], Any]
    bound: str = ""
    note: str = ""
