"""Pages worth reading by Gopher's rules on words, symbols and lines (Rae et al. 2021, A1.1)."""

from typing import ClassVar

import numpy as np
from pydantic import BaseModel

from data_pipeline.clean.characters import LETTER, codes
from data_pipeline.clean.languages import (
    LANGUAGES,
    by_language,
    chars_per_word,
    forms,
    own,
    per_language,
)
from data_pipeline.clean.line_cuts import without_code
from data_pipeline.clean.rule import Limit, Signals
from data_pipeline.clean.words import Layout, hash_of, measured
from data_pipeline.documents.document import Document

BULLETS = "•-*"
# Three dots and the single character: Gopher's code counts both.
ELLIPSES = ("...", "…")


class TooShort(BaseModel, frozen=True, extra="forbid", strict=True):
    """Drops documents of fewer than `min_words` words, words being what stands between white space."""

    VERSION: ClassVar[int] = 1
    LATE: ClassVar[frozenset[str]] = frozenset({"min_words"})
    EDITS: ClassVar[bool] = False
    sources: tuple[str, ...]
    min_words: int

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """Measures `n_words`, words of the language's own kind."""
        return documents, measured(
            documents,
            lambda layout, languages: {
                "n_words": np.diff(layout.first) / chars_per_word(languages)
            },
        )

    def limits(self) -> tuple[Limit, ...]:
        """The limit on the number of words."""
        return (Limit("too_short", "n_words", least=self.min_words),)


class GopherQuality(BaseModel, frozen=True, extra="forbid", strict=True):
    """Gopher's page rules. A word counts when it has a letter or digit, as in datatrove; lines are those
    that are not blank.

    Bounds of word length are the language's. Stop words are counted as in datatrove (different ones, not
    occurrences), in lower case, capitalised or in capitals; a text in a language without an entry has no
    such count and stays.

    Attributes:
        sources: The sources it applies to.
        min_words, max_words: Of a document.
        max_symbol_word_ratio: Of `#` to words and of ellipses to words, each.
        max_bullet_line_frac, max_ellipsis_line_frac: Of lines that begin with a bullet, that end in an
        ellipsis.
        min_alphabetic_word_frac: Of words, marks standing alone included, that have a letter.
        min_stop_words: Of the language's.
        skip_code: Measured without code blocks.
    """

    VERSION: ClassVar[int] = 2
    LATE: ClassVar[frozenset[str]] = frozenset(
        {
            "min_words",
            "max_words",
            "max_symbol_word_ratio",
            "max_bullet_line_frac",
            "max_ellipsis_line_frac",
            "min_alphabetic_word_frac",
            "min_stop_words",
        }
    )
    EDITS: ClassVar[bool] = False
    sources: tuple[str, ...]
    # Gopher's published thresholds (A1.1).
    min_words: int = 50
    max_words: int = 100_000
    max_symbol_word_ratio: float = 0.1
    max_bullet_line_frac: float = 0.9
    max_ellipsis_line_frac: float = 0.3
    min_alphabetic_word_frac: float = 0.8
    min_stop_words: int = 2
    skip_code: bool = False

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """Measures one signal for each limit."""
        prose = without_code(documents, self.skip_code)
        signals = measured(
            prose,
            lambda layout, languages: {
                **word_signals(layout, languages),
                **line_signals(layout, languages),
            },
        )
        # A text without words divides by one, and fails the limit on words anyway.
        n_words = np.maximum(1, signals["n_words"])
        hashes = np.array([document.text.count("#") for document in prose], np.float64)
        ellipses = np.array(
            [sum(map(document.text.count, ELLIPSES)) for document in prose], np.float64
        )
        return documents, {
            **signals,
            "hash_word_ratio": hashes / n_words,
            "ellipsis_word_ratio": ellipses / n_words,
        }

    def limits(self) -> tuple[Limit, ...]:
        """The limits in the order of the paper, with a language's own bounds."""
        return (
            Limit("gopher_words", "n_words", self.min_words, self.max_words),
            *per_language("gopher_word_length", "mean_word_chars", lambda entry: entry.word_chars),
            Limit("gopher_symbols", "hash_word_ratio", most=self.max_symbol_word_ratio),
            Limit("gopher_symbols", "ellipsis_word_ratio", most=self.max_symbol_word_ratio),
            Limit("gopher_bullets", "bullet_line_frac", most=self.max_bullet_line_frac),
            Limit("gopher_ellipses", "ellipsis_line_frac", most=self.max_ellipsis_line_frac),
            *per_language(
                "gopher_alphabetic",
                "alphabetic_word_frac",
                lambda entry: (
                    own(entry.min_alphabetic_word_frac, self.min_alphabetic_word_frac),
                    np.inf,
                ),
            ),
            Limit("gopher_stop_words", "n_stop_words", least=self.min_stop_words),
        )


def word_signals(layout: Layout, languages: tuple[str, ...]) -> Signals:
    """What is counted in words."""
    chars = layout.per_text(np.where(layout.is_word, layout.end - layout.start, 0))
    # Of all that stands between white space: a page of `=` and `->` is no prose.
    alphabetic = layout.per_text((layout.flags & LETTER) != 0)
    return {
        "n_words": layout.n_words / chars_per_word(languages),
        "mean_word_chars": chars / np.maximum(1, layout.n_words),
        "alphabetic_word_frac": alphabetic / np.maximum(1, np.diff(layout.first)),
        "n_stop_words": stop_words(layout, languages),
    }


def stop_words(layout: Layout, languages: tuple[str, ...]) -> np.ndarray:
    """How many different stop words of its language each text has, [n]; NaN where the language has no
    entry.
    """
    n_different = np.full(layout.n, np.nan)
    for language, texts in by_language(languages).items():
        if language not in LANGUAGES:
            continue
        known = sorted(
            (hash_of(form), number)
            for number, word in enumerate(LANGUAGES[language].stop_words)
            for form in forms(word)
        )
        hashes, numbers = (
            np.array([key for key, _ in known], np.uint64),
            np.array([number for _, number in known]),
        )
        # A hash above all others would be looked up past the end.
        place = np.minimum(np.searchsorted(hashes, layout.hashes), len(hashes) - 1)
        hit = np.flatnonzero(hashes[place] == layout.hashes)
        # Different stop words are counted, not occurrences: one `the` a hundred times is one.
        present = np.zeros((layout.n, len(LANGUAGES[language].stop_words)), bool)
        present[layout.document[hit], numbers[place[hit]]] = True
        n_different[texts] = present.sum(1)[texts]
    return n_different


def line_signals(layout: Layout, languages: tuple[str, ...]) -> Signals:
    """What is counted in lines."""
    lines = layout.lines
    n_lines = np.maximum(1, np.bincount(lines.document, minlength=layout.n))
    begins, ends = layout.chars[layout.start[lines.first]], layout.end[lines.stop - 1]
    bullets = np.isin(begins, codes(BULLETS))
    for language in set(languages) & LANGUAGES.keys():
        if LANGUAGES[language].bullets:
            in_it = np.array(languages) == language
            bullets |= np.isin(begins, codes(LANGUAGES[language].bullets)) & in_it[lines.document]
    return {
        "bullet_line_frac": layout.per_line_text(bullets) / n_lines,
        "ellipsis_line_frac": layout.per_line_text(is_ellipsis(layout, ends)) / n_lines,
    }


def is_ellipsis(layout: Layout, ends: np.ndarray) -> np.ndarray:
    """Which of the words that end at `ends` do so in an ellipsis."""
    last = layout.chars[ends - 1]
    # Indices before the text wrap to its end, where the layout has a newline: no dot.
    dots = (
        (last == ord("."))
        & (layout.chars[ends - 2] == ord("."))
        & (layout.chars[ends - 3] == ord("."))
    )
    return dots | (last == ord("…"))
