"""Documents that are nearly the same: MinHash over runs of words, compared band by band."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, Field, PositiveInt

from data_pipeline.clean.canonical import canonical, chunks, mixed
from data_pipeline.clean.dedup import repeats, resolve_clusters
from data_pipeline.clean.rule import Limit, Signals
from data_pipeline.documents.document import Document
from data_pipeline.engine.tables import NO_KEY, minhash

SEED = 1  # of the permutations: any will do, another gives other keys


class NearDedup(BaseModel, frozen=True, extra="forbid", strict=True):
    """Keeps the lowest document of each cluster of near-duplicates (Broder 1997; the defaults are
    FineWeb's, Penedo et al. 2024).

    Two documents whose sets of shingles have Jaccard similarity J share a band, and so a cluster, with
    probability 1 − (1 − J^rows)^bands: .7 → 56 %, .8 → 92 %, .9 → 99.96 %. Case, accents and punctuation do
    not count, and every number is the same. A document with fewer words than a shingle is a duplicate only
    of one with the same words.

    Attributes:
        sources: The sources whose documents are compared, with one another.
        max_removed_frac: More of the documents gone is an error.
        shingle_words: Words of a shingle; characters in scripts without spaces.
        bands: Groups of permutations.
        rows: Permutations in a group.
    """

    VERSION: ClassVar[int] = 3

    sources: tuple[str, ...]
    max_removed_frac: float = Field(gt=0, le=1)
    shingle_words: PositiveInt = 5
    bands: PositiveInt = 14
    rows: PositiveInt = 8

    LATE: ClassVar[frozenset[str]] = frozenset({"max_removed_frac"})
    EDITS: ClassVar[bool] = False
    REASON: ClassVar[str] = "near_duplicate"

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """`band_00`, `band_01`, …: a key of each band, uint64 [n]."""
        bands = self.keys([document.text for document in documents])
        return documents, {name: bands[:, i].copy() for i, name in enumerate(self.columns())}

    def keys(self, texts: Sequence[str]) -> np.ndarray:
        """The band keys of each text, uint64 [n, bands]."""
        # Odd random factors, one a row: the same minima in another order are another band.
        factors = mixed(np.arange(1, self.rows + 1, dtype=np.uint64)) | np.uint64(1)
        chunk_keys = [np.zeros((0, self.bands), np.uint64)]
        for chunk in chunks(texts):
            # Pages that differ in dates and counters alone are duplicates too.
            words = canonical(chunk, numbers_alike=True)
            n_permutations = self.bands * self.rows
            least = minhash(
                words.joined(),
                n_permutations=n_permutations,
                shingle_words=self.shingle_words,
                seed=SEED,
            )
            # One key for the minima of a band, so that a band is compared as one number.
            keys = mixed(
                (least.reshape(-1, self.bands, self.rows) * factors).sum(-1, dtype=np.uint64)
            )
            # A text without words gets NO_KEY, and so equals nothing, not even another empty one.
            chunk_keys.append(
                np.where(np.diff(words.first)[:, None] > 0, np.maximum(keys, 1), np.uint64(NO_KEY))
            )
        return np.concatenate(chunk_keys)

    def columns(self) -> tuple[str, ...]:
        """The names of the keys."""
        return tuple(f"band_{i:02}" for i in range(self.bands))

    def limits(self) -> tuple[Limit, ...]:
        """None: the verdict depends on other documents."""
        return ()

    def resolve(self, keys: Sequence[Path], out: Path) -> None:
        """Verdicts: `document`, `cluster` (its lowest document), `size`; documents alone in their cluster
        are not listed.

        Raises:
            ValueError: more than `max_removed_frac` would go.
        """
        resolve_clusters(self, keys, self.columns(), out)

    def dropped(self, verdicts: Mapping[str, np.ndarray]) -> np.ndarray:
        """All documents of a cluster but the lowest."""
        return repeats(verdicts)

    def spans(
        self, document: Document, verdicts: Mapping[str, np.ndarray]
    ) -> list[tuple[int, int]]:
        """None: documents stay or go whole."""
        return []
