"""Books and chapters worth reading: dolma's rules for Project Gutenberg (Soldaini et al. 2024), and a limit
for scanned pages.
"""

from typing import ClassVar

import numpy as np
from pydantic import BaseModel

from data_pipeline.clean.characters import LETTER, SPACE
from data_pipeline.clean.identify import model, probabilities
from data_pipeline.clean.languages import chars_per_word
from data_pipeline.clean.rule import Limit, Signals
from data_pipeline.clean.spans import paragraphs
from data_pipeline.clean.words import Layout, measured
from data_pipeline.documents.document import Document

PARAGRAPH_CHARS = 800  # of each that are looked at


class BookQuality(BaseModel, frozen=True, extra="forbid", strict=True):
    """Limits on length, on how sure the language of its paragraphs is, and on letters: scanning leaves
    marks where letters were.

    Attributes:
        sources: The sources it applies to.
        min_letter_frac: Of characters that are not white space; dolma has none, running text has 0.9 and
        more.
        n_paragraphs: At most so many paragraphs of a document are looked at, evenly spaced; dolma looks at
        all.
        min_words: With a letter or digit.
        min_paragraph_language_probability: Of the document's language (`Language` names it, or the reader),
        mean over its paragraphs.
    """

    VERSION: ClassVar[int] = 2
    LATE: ClassVar[frozenset[str]] = frozenset(
        {"min_letter_frac", "min_words", "min_paragraph_language_probability"}
    )
    EDITS: ClassVar[bool] = False
    sources: tuple[str, ...]
    min_letter_frac: float
    n_paragraphs: int
    min_words: int = 25
    min_paragraph_language_probability: float = 0.5

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """One signal a limit; a document of unknown language has no paragraph score."""
        scores = [self.score(document) for document in documents]
        return documents, {
            **measured(documents, letters),
            "paragraph_language_probability": np.array(scores, np.float64),
        }

    def score(self, document: Document) -> float:
        """Mean probability of the document's language over its paragraphs."""
        labels, parts = model().labels, paragraphs(document.text)
        if document.language not in labels or not parts:
            return np.nan
        # Evenly over the book: the first pages alone would be title, contents and licence.
        chosen = np.unique(np.linspace(0, len(parts) - 1, self.n_paragraphs).round().astype(int))
        paragraph_probabilities = probabilities(
            [" ".join(parts[number][:PARAGRAPH_CHARS].split()) for number in chosen]
        )
        return float(paragraph_probabilities[:, labels.index(document.language)].mean())

    def limits(self) -> tuple[Limit, ...]:
        """One limit a field, each with a drop reason of its own."""
        return (
            Limit("book_words", "n_words", least=self.min_words),
            Limit("book_letters", "letter_frac", least=self.min_letter_frac),
            Limit(
                "book_language",
                "paragraph_language_probability",
                least=self.min_paragraph_language_probability,
            ),
        )


def letters(layout: Layout, languages: tuple[str, ...]) -> Signals:
    """Words with a letter or digit, and the share of letters."""

    def count(flags: np.ndarray) -> np.ndarray:
        sums = np.concatenate([[0], np.cumsum(flags)])
        return sums[layout.text_end] - sums[layout.text_start]

    # White space is left out, else a table's indentation would count against a page.
    solid = count((layout.kinds & SPACE) == 0)
    return {
        "n_words": layout.n_words / chars_per_word(languages),
        "letter_frac": count((layout.kinds & LETTER) != 0) / np.maximum(1, solid),
    }
