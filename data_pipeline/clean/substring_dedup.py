"""Long stretches of text that occur twice, found exactly by a suffix array (Lee et al. 2022); needs the
extra `[substring]`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field, PositiveInt

from data_pipeline.clean.dedup import require_most_left
from data_pipeline.clean.rule import Limit, Signals
from data_pipeline.documents.document import Document
from data_pipeline.engine import tables

MAX_BYTES = (1 << 31) - 1  # what 32-bit positions can tell apart
SEPARATOR = b"\xff"  # in no UTF-8


class SubstringDedup(BaseModel, frozen=True, extra="forbid", strict=True):
    """Cuts every stretch of `min_bytes` that occurred before, in the same document or a lower one; the
    first place stays.

    One process compares all texts of its sources, 2 GiB at most, in 25 bytes of memory a byte of text.

    Attributes:
        sources: The sources whose documents are compared, with one another.
        min_bytes: Of UTF-8; Lee et al. cut from 50 tokens on, about 200 bytes.
        max_removed_frac: More of the characters gone is an error.
    """

    VERSION: ClassVar[int] = 1

    sources: tuple[str, ...]
    min_bytes: PositiveInt
    max_removed_frac: float = Field(gt=0, le=1)

    LATE: ClassVar[frozenset[str]] = frozenset({"min_bytes", "max_removed_frac"})
    EDITS: ClassVar[bool] = False
    REASON: ClassVar[str] = "repeated_substring"

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """`text`: the text as it is at this rule."""
        return documents, {"text": [document.text for document in documents]}

    def limits(self) -> tuple[Limit, ...]:
        """None: the verdict depends on other documents."""
        return ()

    def resolve(self, keys: Sequence[Path], out: Path) -> None:
        """Verdicts: `document`, `start`, `end` of what to cut, in characters.

        Raises:
            ValueError: more than 2 GiB of text, or more than `max_removed_frac` of the characters would go.
        """
        documents, row, starts = read_texts(self, keys)
        # UTF-8 continuation bytes are 0b10xxxxxx; every other byte begins a character.
        character = np.cumsum((row & 0xC0) != 0x80, dtype=np.int32) - 1  # that each byte is part of
        # A difference array over characters: occurrences overlap, and their union is cut.
        change = np.zeros(len(row) + 1, np.int32)
        occurrences = repeated(row, starts, self.min_bytes)
        np.add.at(change, character[occurrences], 1)
        # Where an occurrence ends inside a character, that character stays.
        np.add.at(change, character[occurrences + self.min_bytes], -1)
        # Edges come in pairs: each stretch begins at one and ends at the next.
        edges = np.flatnonzero(np.diff(np.cumsum(change) > 0, prepend=False))
        begin, end = edges[::2], edges[1::2]
        place = np.searchsorted(character[starts], begin, "right") - 1
        before = character[starts][place] if len(begin) else begin
        require_most_left(
            self,
            int((end - begin).sum()),
            # The number of the last character plus 1, without the separators.
            int(character[-1:].sum()) + 1 - len(starts),
            "characters",
        )
        tables.write_table(
            out,
            pa.table(
                {tables.DOCUMENT: documents[place], "start": begin - before, "end": end - before}
            ),
        )

    def dropped(self, verdicts: Mapping[str, np.ndarray]) -> np.ndarray:
        """No document goes whole: only repeated stretches are cut."""
        return np.zeros(0, np.int64)

    def spans(
        self, document: Document, verdicts: Mapping[str, np.ndarray]
    ) -> list[tuple[int, int]]:
        """The stretches to cut, [start, end) in characters."""
        return list(zip(verdicts["start"].tolist(), verdicts["end"].tolist(), strict=True))


def read_texts(
    rule: SubstringDedup, keys: Sequence[Path]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(documents sorted, their texts with a separator after each as uint8, where each starts).

    Raises:
        ValueError: more than 2 GiB.
    """
    texts: dict[int, bytes] = {}
    n_bytes = 0
    for path in keys:
        for batch in tables.batches([path], "text"):
            for document, text in zip(
                batch[tables.DOCUMENT].to_pylist(), batch["text"].to_pylist(), strict=True
            ):
                texts[document] = text.encode() + SEPARATOR
                n_bytes += len(texts[document])
            if n_bytes > MAX_BYTES:
                sources = ", ".join(rule.sources)
                raise ValueError(
                    f"SubstringDedup compares at most {MAX_BYTES:,} bytes and {sources} have more; "
                    "give it fewer sources, or use LineDedup, which knows no limit"
                )
    documents = sorted(texts)
    row = np.frombuffer(bytearray().join(texts[document] for document in documents), np.uint8)
    lengths = [len(texts[document]) for document in documents]
    return np.array(documents, np.int64), row, np.cumsum([0, *lengths])[:-1]


def repeated(row: np.ndarray, starts: np.ndarray, n_bytes: int) -> np.ndarray:
    """Where `n_bytes` begin that stood before, whole characters from the first, within one text, and not
    over that first place.
    """
    from pydivsufsort import divsufsort, kasai

    if not len(row):
        return np.zeros(0, np.int64)
    # All suffixes in order: equal stretches are neighbours, and Kasai gives how long neighbours agree.
    suffixes = divsufsort(row)
    same_as_next = np.asarray(kasai(row, suffixes)) >= n_bytes
    same_as_last = np.append(False, same_as_next[:-1])
    # A run is a group of suffixes that all begin with the same `n_bytes`.
    in_run = same_as_next | same_as_last
    place, run = suffixes[in_run].astype(np.int64), np.cumsum(~same_as_last[in_run])
    # A stretch may not reach over its text's separator.
    text_end = np.append(starts[1:], len(row))[np.searchsorted(starts, place, "right") - 1] - 1
    is_inside = (place + n_bytes <= text_end) & ((row[place] & 0xC0) != 0x80)
    place, run = place[is_inside], run[is_inside]
    bounds = np.flatnonzero(np.diff(run, prepend=0))
    first = (
        np.repeat(np.minimum.reduceat(place, bounds), np.diff(np.append(bounds, len(run))))
        if len(run)
        else place
    )
    # In `aaaa…` occurrences overlap the first one, which must stay whole.
    return np.sort(place[place >= first + n_bytes])
