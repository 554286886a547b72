"""Documents that are the same but for case, accents, spacing and punctuation (code: but for white space);
and what all rules across documents have in common.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import xxhash
from pydantic import BaseModel, Field

from data_pipeline.clean.canonical import canonical, chunks
from data_pipeline.clean.rule import AcrossRule, Limit, Signals
from data_pipeline.documents.document import Document
from data_pipeline.engine import tables
from data_pipeline.readers.languages import PROGRAMMING_LANGUAGES

# Lines as code has them and prose has not; a text is code when a third of its lines are such.
CODE_LINE = re.compile(
    r"^(?:.*[;{}][ \t]*|[ \t]*(?:def |class |import |from \w+ import |return\b|if\b.*:|elif\b.*:|else:"
    r"|for\b.*:|while\b.*:|with\b.*:|try:|except\b.*:|#include|func |fn |function\b|var |let "
    r"|const |package ).*"
    r"|[ \t]*[\w.\[\]]+ ?[-+*/%|&^]?=[^=].*)$",
    re.MULTILINE,
)
CODE_FRAC = 1 / 3


class ExactDedup(BaseModel, frozen=True, extra="forbid", strict=True):
    """Keeps the first of equal documents, across all its sources.

    Two of 10^9 different documents share a key with probability 0.03.

    Attributes:
        sources: The sources whose documents are compared, with one another.
        max_removed_frac: More of the documents gone is an error: a broken reader makes all documents equal.
    """

    VERSION: ClassVar[int] = 3

    sources: tuple[str, ...]
    max_removed_frac: float = Field(gt=0, le=1)

    LATE: ClassVar[frozenset[str]] = frozenset({"max_removed_frac"})
    EDITS: ClassVar[bool] = False
    REASON: ClassVar[str] = "exact_duplicate"

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """`key`: of all words of a document, of code of all its characters, uint64 [n]."""
        languages = [document.language for document in documents]
        return documents, {"key": text_keys([document.text for document in documents], languages)}

    def limits(self) -> tuple[Limit, ...]:
        """None: the verdict depends on other documents."""
        return ()

    def resolve(self, keys: Sequence[Path], out: Path) -> None:
        """Verdicts: `document`, `cluster` (its lowest document), `size`; documents alone in their cluster
        are not listed.

        Raises:
            ValueError: more than `max_removed_frac` would go.
        """
        resolve_clusters(self, keys, ("key",), out)

    def dropped(self, verdicts: Mapping[str, np.ndarray]) -> np.ndarray:
        """All documents of a cluster but the lowest."""
        return repeats(verdicts)

    def spans(
        self, document: Document, verdicts: Mapping[str, np.ndarray]
    ) -> list[tuple[int, int]]:
        """None: documents stay or go whole."""
        return []


def text_keys(texts: Sequence[str], languages: Sequence[str] | None = None) -> np.ndarray:
    """A key for all words of each text, and for all characters but white space of code, uint64 [n]."""
    chunk_keys = [np.zeros(0, np.uint64)]
    for chunk in chunks(texts):
        words = canonical(chunk)
        # All words of a text are one stretch: from its first word to the next text's first.
        chunk_keys.append(words.keys(words.first[:-1], words.first[1:]))
    keys = np.concatenate(chunk_keys)
    for number, text in enumerate(texts):
        # An operator, a bracket or a capital makes other code.
        if keys[number] != tables.NO_KEY and is_code(text, languages[number] if languages else ""):
            keys[number] = (
                xxhash.xxh3_64_intdigest("".join(text.split()).encode(errors="replace")) or 1
            )
    return keys


def is_code(text: str, language: str) -> bool:
    """Whether a text is source code, as its reader says or by the form of its lines."""
    # Columns of data sets write Python and C++ with capitals.
    if language.lower() in PROGRAMMING_LANGUAGES:
        return True
    # The first lines are enough: a text of code is code from its beginning.
    head = text[:4000]
    n_lines = sum(1 for line in head.split("\n") if line.strip())
    return n_lines > 0 and len(CODE_LINE.findall(head)) >= CODE_FRAC * n_lines


def resolve_clusters(
    rule: AcrossRule, keys: Sequence[Path], columns: Sequence[str], out: Path
) -> None:
    """Write the clusters of documents that share a value in one of the columns.

    Raises:
        ValueError: more than the rule's `max_removed_frac` would go.
    """
    # Connected components: documents that share a key with a third one are in its cluster too.
    clusters = tables.clusters(keys, columns)
    require_most_left(
        rule,
        int((clusters["cluster"] != clusters[tables.DOCUMENT]).sum()),
        tables.n_rows(keys),
        "documents",
    )
    tables.write_table(out, pa.table(clusters))


def require_most_left(rule: AcrossRule, n_removed: int, n: int, unit: str) -> None:
    """Raises ValueError when the rule removes more than its `max_removed_frac`."""
    if n_removed > rule.max_removed_frac * n:
        sources = ", ".join(rule.sources)
        removed = f"{n_removed:,} of {n:,} {unit} ({n_removed / n:.1%}) of {sources}"
        raise ValueError(
            f"{type(rule).__name__} would remove {removed}, "
            f"more than max_removed_frac={rule.max_removed_frac}; "
            "look at the source for repeated pages, or raise max_removed_frac"
        )


def repeats(verdicts: Mapping[str, np.ndarray]) -> np.ndarray:
    """All documents of a cluster but the lowest."""
    return verdicts[tables.DOCUMENT][verdicts["cluster"] != verdicts[tables.DOCUMENT]]
