"""FineWeb's own page rules (Penedo et al. 2024, §3.6): lists, menus and repeated lines that Gopher and C4
let through.
"""

from typing import ClassVar

import numpy as np
from pydantic import BaseModel

from data_pipeline.clean.characters import TERMINAL
from data_pipeline.clean.languages import chars_per_word, own, per_language
from data_pipeline.clean.line_cuts import without_code
from data_pipeline.clean.rule import Limit, Signals
from data_pipeline.clean.words import Layout, measured
from data_pipeline.documents.document import Document


class FineWeb(BaseModel, frozen=True, extra="forbid", strict=True):
    """Limits on lines that are not blank, without the white space around them.

    Attributes:
        sources: The sources it applies to.
        short_line_chars: Up to which a line is short.
        min_punctuated_line_frac: Of lines that end a sentence (any script's marks, no quotes, as in
        datatrove).
        max_short_line_frac: Of lines.
        max_repeated_line_char_frac: Of the lines' characters, in lines that repeat an earlier one; the
        paper's text has 0.1, its code 0.01.
        max_newline_word_ratio: Of newlines between lines to words.
        skip_code: Measured without code blocks.
    """

    VERSION: ClassVar[int] = 3
    LATE: ClassVar[frozenset[str]] = frozenset(
        {
            "min_punctuated_line_frac",
            "max_short_line_frac",
            "max_repeated_line_char_frac",
            "max_newline_word_ratio",
        }
    )
    EDITS: ClassVar[bool] = False
    sources: tuple[str, ...]
    short_line_chars: int = 30
    min_punctuated_line_frac: float = 0.12
    max_short_line_frac: float = 0.67
    max_repeated_line_char_frac: float = 0.01
    max_newline_word_ratio: float = 0.3
    skip_code: bool = False

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """Measures one signal for each limit."""
        return documents, measured(without_code(documents, self.skip_code), self.signals)

    def signals(self, layout: Layout, languages: tuple[str, ...]) -> Signals:
        """The signals of the texts of one chunk, [n] each."""
        lines = layout.lines
        repeated, chars = layout.repeated_lines
        # At least 1: a text without lines would be divided by 0.
        n_lines = np.maximum(1, np.bincount(lines.document, minlength=layout.n))
        punctuated = (layout.kinds[layout.end[lines.stop - 1] - 1] & TERMINAL) != 0
        return {
            "punctuated_line_frac": layout.per_line_text(punctuated) / n_lines,
            "short_line_frac": layout.per_line_text(chars <= self.short_line_chars) / n_lines,
            "repeated_line_char_frac": layout.per_line_text(repeated * chars)
            / np.maximum(1, layout.per_line_text(chars)),
            # Blank lines do not count: trafilatura, whose text FineWeb measured, writes none.
            "newline_word_ratio": (n_lines - 1)
            / np.maximum(1, layout.n_words / chars_per_word(languages)),
        }

    def limits(self) -> tuple[Limit, ...]:
        """The limits in datatrove's order, with a language's own bounds where it has them."""
        return (
            *per_language(
                "fineweb_punctuation",
                "punctuated_line_frac",
                lambda entry: (
                    own(entry.min_punctuated_line_frac, self.min_punctuated_line_frac),
                    np.inf,
                ),
            ),
            Limit("fineweb_short_line", "short_line_frac", most=self.max_short_line_frac),
            *per_language(
                "fineweb_repeated_line",
                "repeated_line_char_frac",
                lambda entry: (
                    0,
                    own(entry.max_repeated_line_char_frac, self.max_repeated_line_char_frac),
                ),
            ),
            *per_language(
                "fineweb_newlines",
                "newline_word_ratio",
                lambda entry: (0, own(entry.max_newline_word_ratio, self.max_newline_word_ratio)),
            ),
        )
