"""The contract of a cleaning rule: it rewrites and measures; what is too much or too little stands apart,
as limits.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np

from data_pipeline.documents.document import Document

# In `Limit.language`; documents themselves have "" or a name that is no language's.
UNKNOWN = "unknown"
# Name → one value a document: numbers [n], or for what documents are compared by, keys [n] or lists of keys.
# A name that ends in _lines, _spans or _bytes counts what the rule cut or replaced; the sums are in the
# table of drops.
Signals = dict[str, Any]


class Limit(NamedTuple):
    """A document stays when least ≤ signal ≤ most; otherwise it is dropped for `reason`. NaN stays.

    With a `quantile` it is the least value: that quantile of the signal over all documents of the source
    that were measured.
    """

    reason: str
    signal: str
    least: float = -math.inf
    most: float = math.inf
    language: str = ""  # "" = documents of any language; UNKNOWN = of none that is known
    # Known only when the whole source was measured, so it is resolved between measuring and selecting.
    quantile: float | None = None


@runtime_checkable
class Rule(Protocol):
    """A frozen component. Documents pass the rules of a recipe in order; each sees what the ones before it
    wrote.

    One whose measurements depend on files of the user's has a method `fingerprint() -> str`, the hash of
    their content. One that measures several things each for itself may have `pieces() -> tuple of rules`,
    whose signals together are its own: a piece that is new is measured alone.

    Attributes:
        VERSION: Raised when the same fields and text give other signals, text or verdicts: what was measured
        is found again by it.
        sources: The sources whose documents it looks at.
        LATE: Names of the fields that `limits` alone reads: changing one measures nothing anew.
        EDITS: Whether `annotate` may rewrite documents.
    """

    VERSION: ClassVar[int]
    sources: tuple[str, ...]
    LATE: ClassVar[frozenset[str]]
    EDITS: ClassVar[bool]

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """The documents, perhaps rewritten (in the same order and number; text "" = nothing left of it),
        and what was measured.

        A function of each document alone. Texts may be empty.
        """
        ...

    def limits(self) -> tuple[Limit, ...]:
        """In the order they are tried; none for a rule that only rewrites."""
        ...


@runtime_checkable
class AcrossRule(Rule, Protocol):
    """A rule whose verdict on a document depends on the others: `annotate` measures keys, which are then
    compared.

    Keys stand in Parquet files with a row a document that is still there when it is the rule's turn:
    `document` (int64, unique; of equal documents the lowest is kept) and the columns of the signals of
    `annotate`. The same keys give the same bytes, however they are spread over files and whoever compares
    them.

    Attributes:
        REASON: Of what it drops or cuts.
    """

    REASON: ClassVar[str]

    def resolve(self, keys: Sequence[Path], out: Path) -> None:
        """Compare, and write one Parquet file of verdicts, sorted by `document`, several rows or none a
        document.

        Raises:
            ValueError: more would be removed than the rule allows.
        """
        ...

    def dropped(self, verdicts: Mapping[str, np.ndarray]) -> np.ndarray:
        """The numbers of the documents that go whole, of some rows of the verdicts."""
        ...

    def spans(
        self, document: Document, verdicts: Mapping[str, np.ndarray]
    ) -> list[tuple[int, int]]:
        """Characters [start, end) to cut out of a document, given its rows (≥ 1); its text must be the one
        that was annotated.
        """
        ...


def column(values: list[float]) -> np.ndarray:
    """A signal as float32 [n]."""
    return np.array(values, np.float32)
