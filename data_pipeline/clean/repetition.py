"""Pages that say the same thing again and again, by Gopher's rules (Rae et al. 2021, Table A1)."""

from typing import ClassVar

import numpy as np
from pydantic import BaseModel

from data_pipeline.clean.code_blocks import paragraphs_of
from data_pipeline.clean.languages import Entry, chars_per_word, own, per_language
from data_pipeline.clean.line_cuts import without_code
from data_pipeline.clean.rule import Limit, Signals
from data_pipeline.clean.words import Layout, Runs, grouped, measured, salts
from data_pipeline.documents.document import Document

TOP = (2, 3, 4)
REPEATED = (5, 6, 7, 8, 9, 10)


class GopherRepetition(BaseModel, frozen=True, extra="forbid", strict=True):
    """Gopher's limits on repeated lines, paragraphs and n-grams of words.

    Lines and paragraphs (lines without a blank one between them) count from the second time on, blank lines
    and differences of spacing do not. The paper leaves the rest open and implementations differ; here
    n-grams are measured by coverage: a word inside any occurrence of an n-gram that the text has twice or
    more is marked, once, and the signal is the share of marked characters among those of all words (white
    space and marks standing alone are in neither). datatrove counts from the second occurrence on, skips n
    words at each, and divides by all characters; dolma counts overlaps each time. For the top n-gram only
    its own occurrences are marked; of equally frequent ones the one with the most characters counts.

    Attributes:
        sources: The sources it applies to.
        max_repeated_line_frac, max_repeated_paragraph_frac: Of lines, of paragraphs.
        max_repeated_line_char_frac, max_repeated_paragraph_char_frac: Of their characters.
        max_top_gram_fracs: Of characters, in the most frequent run of 2, 3, 4 words.
        max_repeated_gram_fracs: Of characters, in repeated runs of 5 to 10 words.
        as_in_datatrove: Repeated runs of 5 to 10 words are counted as FineWeb's limits were set: from their
        second occurrence on, among all characters, white space too.
        skip_code: Measured without code blocks.
    """

    VERSION: ClassVar[int] = 2
    LATE: ClassVar[frozenset[str]] = frozenset(
        {
            "max_repeated_line_frac",
            "max_repeated_paragraph_frac",
            "max_repeated_line_char_frac",
            "max_repeated_paragraph_char_frac",
            "max_top_gram_fracs",
            "max_repeated_gram_fracs",
        }
    )
    EDITS: ClassVar[bool] = False
    sources: tuple[str, ...]
    max_repeated_line_frac: float = 0.30
    max_repeated_paragraph_frac: float = 0.30
    max_repeated_line_char_frac: float = 0.20
    max_repeated_paragraph_char_frac: float = 0.20
    max_top_gram_fracs: tuple[float, float, float] = (0.20, 0.18, 0.16)
    max_repeated_gram_fracs: tuple[float, float, float, float, float, float] = (
        0.15,
        0.14,
        0.13,
        0.12,
        0.11,
        0.10,
    )
    as_in_datatrove: bool = False
    skip_code: bool = False

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """Measures one signal for each limit."""
        return documents, measured(
            without_code(documents, self.skip_code),
            lambda layout, languages: {
                **stretch_signals(layout),
                **gram_signals(layout, languages, as_in_datatrove=self.as_in_datatrove),
            },
        )

    def limits(self) -> tuple[Limit, ...]:
        """Paragraphs, lines, then n-grams from short to long."""
        top = [
            per_language(
                f"gopher_top_{n}_gram",
                f"top_{n}_gram_frac",
                lambda entry, i=i: (0, self.most_top(entry)[i]),
            )
            for i, n in enumerate(TOP)
        ]
        repeated = [
            per_language(
                f"gopher_repeated_{n}_grams",
                f"repeated_{n}_gram_frac",
                lambda entry, i=i: (0, self.most_repeated(entry)[i]),
            )
            for i, n in enumerate(REPEATED)
        ]
        return (
            Limit(
                "gopher_repeated_paragraph",
                "repeated_paragraph_frac",
                most=self.max_repeated_paragraph_frac,
            ),
            Limit(
                "gopher_repeated_paragraph",
                "repeated_paragraph_char_frac",
                most=self.max_repeated_paragraph_char_frac,
            ),
            *per_language(
                "gopher_repeated_line",
                "repeated_line_frac",
                lambda entry: (0, own(entry.max_repeated_line_frac, self.max_repeated_line_frac)),
            ),
            Limit(
                "gopher_repeated_line",
                "repeated_line_char_frac",
                most=self.max_repeated_line_char_frac,
            ),
            *sum(top + repeated, ()),
        )

    def most_top(self, entry: Entry) -> tuple[float, ...]:
        """The limits of the top n-grams in a language."""
        return own(entry.max_top_gram_fracs, self.max_top_gram_fracs)

    def most_repeated(self, entry: Entry) -> tuple[float, ...]:
        """The limits of repeated n-grams in a language."""
        return own(entry.max_repeated_gram_fracs, self.max_repeated_gram_fracs)


def stretch_signals(layout: Layout) -> Signals:
    """Shares of repeated lines and paragraphs, of their number and of their characters."""
    lines = layout.lines
    repeated, chars = layout.repeated_lines
    begin = np.flatnonzero(np.diff(paragraphs_of(layout), prepend=-1))
    last = np.append(begin[1:], len(lines.first))[: len(begin)] - 1
    document = lines.document[begin]
    # A paragraph is its stretch of words, whatever line breaks lie inside.
    paragraph_repeated = layout.repeated(lines.first[begin], lines.stop[last], document)
    paragraph_chars = np.add.reduceat(chars, begin) if len(begin) else chars

    def share(flags: np.ndarray, weights: np.ndarray, texts: np.ndarray) -> np.ndarray:
        return np.bincount(texts, flags * weights, layout.n) / np.maximum(
            1, np.bincount(texts, weights, layout.n)
        )

    return {
        "repeated_line_frac": share(repeated, np.ones(len(repeated)), lines.document),
        "repeated_line_char_frac": share(repeated, chars, lines.document),
        "repeated_paragraph_frac": share(paragraph_repeated, np.ones(len(document)), document),
        "repeated_paragraph_char_frac": share(paragraph_repeated, paragraph_chars, document),
    }


def gram_signals(
    layout: Layout, languages: tuple[str, ...], *, as_in_datatrove: bool = False
) -> Signals:
    """Shares of characters in repeated n-grams; n counts words of the language, several characters each
    without spaces.
    """
    signals: Signals = {}
    scales = chars_per_word(languages)
    # Languages of one scale together; mostly there is one, and this is a single pass.
    for scale in np.unique(scales) if len(scales) else [1]:
        shares = Grams(layout, scales == scale).signals(int(scale), as_in_datatrove=as_in_datatrove)
        for name, values in shares.items():
            signals[name] = np.where(scales == scale, values, signals.get(name, 0.0))
    return signals


class Grams:
    """The words of the chosen texts of a batch, and the n-grams that repeat in each; `chosen` is bool [n]."""

    def __init__(self, layout: Layout, chosen: np.ndarray):
        counted = layout.is_word if chosen.all() else layout.is_word & chosen[layout.document]
        self.n = layout.n
        self.document = layout.document[counted]
        self.runs = Runs(layout.hashes[counted])
        # characters before each word
        self.chars = np.concatenate([[0], np.cumsum((layout.end - layout.start)[counted])])
        self.n_chars = np.maximum(1, np.bincount(self.document, np.diff(self.chars), self.n))
        self.n_all_chars = np.maximum(1, layout.text_end - layout.text_start)
        self.salt = salts(self.n)[self.document]

    def signals(self, scale: int, *, as_in_datatrove: bool) -> Signals:
        """The shares, [n] each; n-grams have `scale` times as many words."""
        signals: Signals = {}
        # An n-gram can repeat only if its shorter ones do, so each length looks at few places (as in
        # Apriori).
        at = np.arange(len(self.document))  # starts of n-grams that repeat at the length before
        before = 0
        for n in (*TOP, *REPEATED):
            size = n * scale
            at = self.extended(at, before, size)
            # The text's salt makes equal n-grams of two texts differ, so all texts are grouped in one sort.
            order, same = grouped(self.runs(at, at + size) + self.salt.take(at))
            # `same` marks all but the first of a group; the first is the one whose next is `same`.
            same_next = np.append(same[1:], False)[: len(same)]
            repeats = same | same_next  # in order of (n-gram, place)
            if n in TOP:
                signals[f"top_{n}_gram_frac"] = (
                    self.top(at[order[repeats]], same[repeats], size) / self.n_chars
                )
            again = np.sort(at[order[same]])
            at, before = np.sort(at[order[repeats]]), size
            if n in REPEATED:
                counted = again if as_in_datatrove else at
                marked = self.new_chars(counted, size)
                n_marked = np.bincount(self.document[counted], marked, self.n)
                of_chars = self.n_all_chars if as_in_datatrove else self.n_chars
                signals[f"repeated_{n}_gram_frac"] = n_marked / of_chars
        return signals

    def extended(self, at: np.ndarray, before: int, size: int) -> np.ndarray:
        """Starts of n-grams of `size` words that may repeat: those whose first and last `before` words do."""
        fits = at[at + size <= len(self.document)]
        # The last word must be of the same text as the first.
        fits = fits[self.document[fits + size - 1] == self.document[fits]]
        if not before:
            return fits
        known = np.zeros(len(self.document), bool)
        known[at] = True
        return fits[known[fits + size - before]]

    def new_chars(self, at: np.ndarray, size: int) -> np.ndarray:
        """Characters that each n-gram marks and the one before it in the list has not; starts ascend within
        a text.
        """
        # Overlapping n-grams mark a character once: each counts from where the one before it ended.
        stop, fresh = at + size, at.copy()
        fresh[1:] = np.maximum(at[1:], stop[:-1])
        return self.chars[stop] - self.chars[fresh]

    def top(self, at: np.ndarray, same: np.ndarray, size: int) -> np.ndarray:
        """Characters that the most frequent n-gram of each text marks, [n]; `at` is in order of (n-gram,
        place).
        """
        best = np.zeros(self.n, np.int64)
        begin = np.flatnonzero(~same)
        if not len(begin):
            return best
        marked = np.where(same, self.new_chars(at, size), self.chars[at + size] - self.chars[at])
        # Count in the high bits, characters in the low 40: one maximum finds the most frequent n-gram and
        # its characters.
        rank = (np.diff(np.append(begin, len(at))) << 40) | np.add.reduceat(marked, begin)
        np.maximum.at(best, self.document[at[begin]], rank)
        return best & ((1 << 40) - 1)
