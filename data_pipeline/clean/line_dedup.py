"""Lines, paragraphs or sentences that stand in many documents: menus, notices, licences."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field, PositiveInt

from data_pipeline.clean import units
from data_pipeline.clean.canonical import Canonical, canonical, chunks
from data_pipeline.clean.dedup import require_most_left
from data_pipeline.clean.rule import Limit, Signals
from data_pipeline.documents.document import Document
from data_pipeline.engine import tables

PARTS = {"line": units.lines, "paragraph": units.paragraphs, "3_sentences": units.sentence_spans}


class LineDedup(BaseModel, frozen=True, extra="forbid", strict=True):
    """Cuts what more than `max_documents` documents have, everywhere but in the lowest of them.

    Llama 3 (2024) cuts lines in more than 6 of 30 M web pages, C4 (Raffel et al. 2020) spans of 3 sentences
    in more than one.

    Attributes:
        sources: The sources whose documents are compared, with one another.
        part: What is compared and cut; paragraphs stand between blank lines, spans of 3 sentences overlap.
        max_documents: That may have the same.
        min_words: Parts with fewer words stay; `}` and `return None` say nothing.
        max_removed_frac: More of the parts gone is an error.
    """

    VERSION: ClassVar[int] = 3

    sources: tuple[str, ...]
    part: Literal["line", "paragraph", "3_sentences"]
    max_documents: PositiveInt
    min_words: PositiveInt
    max_removed_frac: float = Field(gt=0, le=1)

    LATE: ClassVar[frozenset[str]] = frozenset({"max_documents", "max_removed_frac"})
    EDITS: ClassVar[bool] = False
    REASON: ClassVar[str] = "repeated_lines"

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """`lines`: a list of keys a document, of its parts with words enough, in order."""
        keys: list[np.ndarray] = []
        for chunk in chunks([document.text for document in documents]):
            words = canonical(chunk)
            parts = self._parts(chunk, words)
            # Parts come in the order of the texts: these bounds split their keys by document.
            bounds = np.searchsorted(parts.text, np.arange(1, len(chunk)))
            keys += np.split(words.keys(parts.first, parts.last), bounds)
        return documents, {"lines": keys}

    def _parts(self, texts: Sequence[str], words: Canonical) -> units.Units:
        parts = PARTS[self.part](texts, words)
        return parts.where(parts.last - parts.first >= self.min_words)

    def limits(self) -> tuple[Limit, ...]:
        """None: the verdict depends on other documents."""
        return ()

    def resolve(self, keys: Sequence[Path], out: Path) -> None:
        """Verdicts: `document`, `line` (number of the part to cut, among those with words enough).

        Raises:
            ValueError: more than `max_removed_frac` of the parts would go.
        """
        common = tables.shared(keys, "lines", more_than=self.max_documents)
        n, cuts = 0, [np.zeros((2, 0), np.int64)]
        for batch in tables.batches(keys, "lines"):
            document, number, key = tables.flat(batch, "lines")
            n += len(key)
            # `common` holds the keys that too many documents have, with the lowest of those documents.
            is_shared, place = common.find(key)
            # The lowest document keeps its part, so that a notice stays in the corpus once.
            cut = is_shared & (common.first[place] != document) if len(common.keys) else is_shared
            cuts.append(np.stack([document[cut], number[cut]]))
        document, number = np.concatenate(cuts, axis=1)
        require_most_left(self, len(document), n, f"parts ({self.part})")
        write_cuts(out, document, number)

    def dropped(self, verdicts: Mapping[str, np.ndarray]) -> np.ndarray:
        """No document goes whole: only its repeated parts are cut."""
        return np.zeros(0, np.int64)

    def spans(
        self, document: Document, verdicts: Mapping[str, np.ndarray]
    ) -> list[tuple[int, int]]:
        """The places of the parts to cut."""
        # Parts are numbered as `annotate` numbered them, by the same function on the same text.
        parts = self._parts([document.text], canonical([document.text])).where(verdicts["line"])
        return list(zip(parts.start.tolist(), parts.end.tolist(), strict=True))


def write_cuts(out: Path, document: np.ndarray, number: np.ndarray) -> None:
    """Verdicts of a rule that cuts lines: which documents, and which of their lines, int64 [cuts] both."""
    # One order however the keys are spread over files: the verdicts are the same bytes.
    order = np.lexsort((number, document))
    tables.write_table(out, pa.table({tables.DOCUMENT: document[order], "line": number[order]}))
