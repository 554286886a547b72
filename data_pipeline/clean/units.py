"""The lines, paragraphs and sentences of texts, as places and as stretches of words."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from data_pipeline.clean.canonical import Canonical, code_points

NEWLINE = 10
# An end mark ends a sentence where white space follows, a full stop of Han script always.
END_MARK, FULL_STOP, CLOSER, WHITE = 1, 2, 4, 8
CHARACTERS = {
    END_MARK: ".!?…",
    FULL_STOP: "。！？",
    CLOSER: "\"')]”’»",
    WHITE: "\t\n\r \u00a0\u3000",
}
SPAN_SENTENCES = 3  # C4's (Raffel et al. 2020)


class Units(NamedTuple):
    """Parts of texts that have words, in order.

    Attributes:
        text: The number of the text of each, int64 [u].
        start: In characters of that text, int64 [u].
        end: After its last character, the end of the line among them, int64 [u].
        first: Its first word in the batch, int64 [u].
        last: After its last word, int64 [u].
    """

    text: np.ndarray
    start: np.ndarray
    end: np.ndarray
    first: np.ndarray
    last: np.ndarray

    def where(self, chosen: np.ndarray | slice) -> "Units":
        """Those of the parts that `chosen` selects."""
        return Units(*(values[chosen] for values in self))


def parted(
    texts: Sequence[str], words: Canonical, ends_part: Callable[[np.ndarray], np.ndarray]
) -> Units:
    """The parts of the texts, whose words are `words`, where `ends_part` of all characters tells which are
    a part's last.
    """
    row = code_points(texts)
    is_last = ends_part(row)
    # The newline that joins two texts ends the last part of the first.
    is_last[words.offsets[1:] - 1] = True
    end = np.flatnonzero(is_last) + 1
    start = np.append(0, end)[:-1]
    text = np.searchsorted(words.offsets, start, "right") - 1
    # Words before each part's start: the differences are the words inside.
    bounds = np.searchsorted(words.origin[words.starts], np.append(start, len(row)))
    offset, length = words.offsets[text], np.diff(words.offsets)[text] - 1
    units = Units(text, start - offset, np.minimum(end - offset, length), bounds[:-1], bounds[1:])
    # Parts without a word (blank lines, rules of dashes) are left out.
    return units.where(units.last > units.first)


def lines(texts: Sequence[str], words: Canonical) -> Units:
    """The lines of the texts that have words."""
    return parted(texts, words, lambda row: row == NEWLINE)


def paragraphs(texts: Sequence[str], words: Canonical) -> Units:
    """The paragraphs of the texts, parted by blank lines."""
    return parted(texts, words, lambda row: (row == NEWLINE) & followed_by(row == NEWLINE))


def sentence_spans(texts: Sequence[str], words: Canonical) -> Units:
    """Each run of three sentences; they overlap."""
    units = parted(texts, words, sentence_ends)
    # Three neighbours make a span; those that reach into the next text are left out below.
    n = max(len(units.text) - SPAN_SENTENCES + 1, 0)
    first, last = (units.where(slice(begin, begin + n)) for begin in (0, SPAN_SENTENCES - 1))
    spans = Units(first.text, first.start, last.end, first.first, last.last)
    return spans.where(first.text == last.text)


def sentence_ends(row: np.ndarray) -> np.ndarray:
    """The last characters of sentences: the white space after an end mark, perhaps closed by a quote; a
    newline ends one too.
    """
    kinds = kind_of_characters().take(row, mode="clip")
    marks = (kinds & END_MARK) != 0
    closed = ((kinds & CLOSER) != 0) & after(marks)
    white = ((kinds & WHITE) != 0) & after(marks | closed)
    return white | (row == NEWLINE) | ((kinds & FULL_STOP) != 0)


@functools.cache
def kind_of_characters() -> np.ndarray:
    """The kind of each, uint8; the last entry is of all others."""
    table = np.zeros(1 << 16, np.uint8)
    for kind, characters in CHARACTERS.items():
        table[[ord(character) for character in characters]] = kind
    return table


def followed_by(flags: np.ndarray) -> np.ndarray:
    """Whether the flag of the next character is set."""
    return np.append(flags[1:], False)


def after(flags: np.ndarray) -> np.ndarray:
    """Whether the flag of the character before is set."""
    return np.append(False, flags[:-1])
