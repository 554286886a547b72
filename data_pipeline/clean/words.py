"""A batch of texts as arrays of words and lines, made once and shared by all rules that measure them.

A word is what stands between white space. In scripts written without spaces (Han, kana, Thai, Lao, Khmer,
Myanmar) every character is a
word of its own, with the marks that sit on it: n-grams of words are n-grams of characters there
(`chars_per_word` in `languages.py`).
"""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from data_pipeline.clean.characters import (
    ALPHANUMERIC,
    MARK,
    SPACE,
    UNSPACED,
    codes,
    hash_values,
    kinds,
)
from data_pipeline.clean.rule import Signals
from data_pipeline.documents.document import Document

CHUNK_CHARS = 1 << 19  # of texts whose arrays are made together: what a core's cache can hold
BLOCK_WORDS = 1 << 14  # whose characters are hashed together
BASE = 0x5851F42D4C957F2D  # odd, so it has an inverse modulo 2^64


class Lines(NamedTuple):
    """The lines that are not blank, in order.

    Attributes:
        first: Index of its first word.
        stop: Index after its last word.
        number: Of the line in its text, blank ones counted, from 0.
        document: Index of its text.
        begin: Index of its first character, white space counted.
        end: Index of the newline after it.
    """

    first: np.ndarray
    stop: np.ndarray
    number: np.ndarray
    document: np.ndarray
    begin: np.ndarray
    end: np.ndarray


class Layout:
    """Texts as arrays; `start` and `end` index `chars`, where the texts stand one after another with a
    newline after each.

    Attributes:
        n: How many texts.
        chars: Code points, uint32.
        kinds: Flags of each (`characters.py`), uint8.
        text_start, text_end: Of each text, the newline after it left out.
        start, end: Of each word.
        first: Index of each text's first word; the last entry is the number of words.
    """

    def __init__(self, texts: Iterable[str]):
        texts = list(texts)
        self.n = len(texts)
        # A newline after every text, so that no word and no line spans two texts.
        self.chars = codes("\n".join([*texts, ""]))
        self.kinds = kinds().take(self.chars)
        lengths = np.fromiter(map(len, texts), np.int64, self.n)
        self.text_end = np.cumsum(lengths + 1) - 1
        self.text_start = self.text_end - lengths
        self.start, self.end = boundaries(self.kinds)
        # Words are sorted by start, so a text's words are a slice.
        self.first = np.append(np.searchsorted(self.start, self.text_start), len(self.start))

    @functools.cached_property
    def flags(self) -> np.ndarray:
        """All flags of the characters of each word, uint8."""
        return (
            np.bitwise_or.reduceat(self.kinds, self.start)
            if len(self.start)
            else np.zeros(0, np.uint8)
        )

    @functools.cached_property
    def document(self) -> np.ndarray:
        """Index of each word's text."""
        return np.repeat(np.arange(self.n), np.diff(self.first))

    @functools.cached_property
    def is_word(self) -> np.ndarray:
        """Which words have a letter or a digit; the rest are marks standing alone."""
        return (self.flags & ALPHANUMERIC) != 0

    @functools.cached_property
    def n_words(self) -> np.ndarray:
        """Words with a letter or digit of each text, int64 [n]."""
        return self.per_text(self.is_word)

    @functools.cached_property
    def hashes(self) -> np.ndarray:
        """64 bits of each word: Σ value(character i) · BASE^i."""
        hashes = np.empty(len(self.start), np.uint64)
        values = hash_values()
        for begin in range(0, len(hashes), BLOCK_WORDS):
            starts = self.start[begin : begin + BLOCK_WORDS]
            # Powers start at 0 in every block; dividing by BASE^start makes the hash independent of the
            # place.
            offset, stop = starts[0], self.end[begin : begin + BLOCK_WORDS][-1]
            power, inverse = powers(int(stop - offset))
            terms = values.take(self.chars[offset:stop])
            terms *= power[: stop - offset]
            hashes[begin : begin + BLOCK_WORDS] = (
                np.add.reduceat(terms, starts - offset) * inverse[starts - offset]
            )
        return hashes

    @functools.cached_property
    def lines(self) -> Lines:
        """The lines with something on them."""
        newline = np.flatnonzero(self.chars == ord("\n"))
        stop = np.searchsorted(self.start, newline)
        first = shifted(stop)
        document = np.searchsorted(self.text_end, newline)
        number = np.arange(len(newline)) - np.searchsorted(newline, self.text_start)[document]
        # Lines without words are left out, but `number` has counted them.
        has_words = stop > first
        return Lines(
            *(
                values[has_words]
                for values in (first, stop, number, document, shifted(newline + 1), newline)
            )
        )

    @property
    def line_bounds(self) -> np.ndarray:
        """`line_bounds[i] : line_bounds[i + 1]` are those of `lines` that are of text i."""
        return np.searchsorted(self.lines.document, np.arange(self.n + 1))

    @functools.cached_property
    def repeated_lines(self) -> tuple[np.ndarray, np.ndarray]:
        """Of `lines`: whether an earlier line of the text has the same words; characters from its first
        word to its last.
        """
        lines = self.lines
        return self.repeated(lines.first, lines.stop, lines.document), self.end[
            lines.stop - 1
        ] - self.start[lines.first]

    def repeated(self, first: np.ndarray, stop: np.ndarray, document: np.ndarray) -> np.ndarray:
        """Which of the stretches of words `first:stop` have the same words as an earlier one of their
        text.
        """
        order, same = grouped(Runs(self.hashes)(first, stop) + salts(self.n)[document])
        repeated = np.zeros(len(first), bool)
        repeated[order[same]] = True
        return repeated

    def per_text(self, values: np.ndarray) -> np.ndarray:
        """Sums over the words of each text, int64 [n]."""
        sums = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
        return sums[self.first[1:]] - sums[self.first[:-1]]

    def per_line_text(self, values: np.ndarray) -> np.ndarray:
        """Sums over `lines` of each text, float64 [n]; whole numbers stay exact."""
        # bincount gives int64 where there is no line at all.
        return np.bincount(self.lines.document, weights=values, minlength=self.n).astype(np.float64)


# Two batches: the texts as they are, and what is left of them without code.
@functools.lru_cache(maxsize=2)
def layouts(texts: tuple[str, ...]) -> tuple[Layout, ...]:
    """The batch in chunks of some hundred thousand characters; kept for the rules that follow."""
    chunks: list[list[str]] = [[]]
    n_chars = 0
    for text in texts:
        if n_chars + len(text) > CHUNK_CHARS and chunks[-1]:
            chunks.append([])
            n_chars = 0
        chunks[-1].append(text)
        n_chars += len(text)
    return tuple(map(Layout, chunks))


def measured(
    documents: list[Document], measure: Callable[[Layout, tuple[str, ...]], Signals]
) -> Signals:
    """What `measure` finds in each chunk of the documents, given its languages too, joined."""
    languages = [document.language for document in documents]
    chunk_signals, position = [], 0
    for layout in layouts(tuple(document.text for document in documents)):
        chunk_signals.append(measure(layout, tuple(languages[position : position + layout.n])))
        position += layout.n
    return {
        name: np.concatenate([signals[name] for signals in chunk_signals])
        for name in chunk_signals[0]
    }


def boundaries(flags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and end of every word; the last character must be white space."""
    inside = (flags & SPACE) == 0
    # A word starts where the character before is white space, and ends after its last one.
    before = shifted(inside)
    start, end = inside & ~before, before & ~inside
    if (flags & UNSPACED).any():
        alone = (flags & UNSPACED) != 0
        # Between two letters of which one is of an unspaced script, a word ends and another begins; marks
        # stay with their letter.
        split = before & inside & ((flags & MARK) == 0) & (alone | shifted(alone))
        start |= split
        end |= split
    return np.flatnonzero(start), np.flatnonzero(end)


def shifted(values: np.ndarray) -> np.ndarray:
    """The value of the element before each; 0 for the first."""
    before = np.zeros_like(values)
    before[1:] = values[:-1]
    return before


@functools.lru_cache(maxsize=2)
def _powers(n: int) -> tuple[np.ndarray, np.ndarray]:
    def of(base: int) -> np.ndarray:
        factors = np.full(n, base, np.uint64)
        factors[0] = 1
        return np.multiply.accumulate(factors)

    return of(BASE), of(pow(BASE, -1, 1 << 64))


def powers(n: int) -> tuple[np.ndarray, np.ndarray]:
    """BASE^i and BASE^-i modulo 2^64 for at least i < n."""
    # Rounded up, so that the cache holds one or two tables and not one a chunk.
    return _powers(max(1 << 18, 1 << n.bit_length()))


class Runs:
    """Hashes of runs of words: 64 bits, equal for equal runs wherever they stand."""

    def __init__(self, hashes: np.ndarray):
        power, self.inverse = powers(len(hashes))
        self.sums = np.zeros(len(hashes) + 1, np.uint64)
        np.cumsum(hashes * power[: len(hashes)], out=self.sums[1:])

    def __call__(self, first: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """Of each run `first:stop`."""
        return (self.sums.take(stop) - self.sums.take(first)) * self.inverse.take(first)


def salts(n: int) -> np.ndarray:
    """A number for each text, so that equal runs of two texts differ."""
    return np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)


def grouped(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices ordered by (key, index), and whether each has the key of the one before it.

    One sort of numbers, the index in the low bits of the key, is several times faster than an argsort; the
    cut keys are compared whole afterwards.
    """
    bits = np.uint64(len(keys).bit_length())
    low = (np.uint64(1) << bits) - np.uint64(1)
    # The low bits of a key give way to its index; equal keys then stand in order of index.
    packed = np.sort((keys & ~low) | np.arange(len(keys), dtype=np.uint64))
    order = (packed & low).astype(np.int64)
    same = np.zeros(len(keys), bool)
    same[1:] = (packed[1:] ^ packed[:-1]) <= low
    again = np.flatnonzero(same)
    # Rare: two keys that differ only in the bits that were cut off.
    if (keys[order[again]] != keys[order[again - 1]]).any():
        order = np.lexsort((np.arange(len(keys)), keys))
        same[1:] = keys[order[1:]] == keys[order[:-1]]
    return order, same


def hash_of(word: str) -> int:
    """The hash that `Layout.hashes` gives the word."""
    values, (power, _) = hash_values()[codes(word)], powers(len(word))
    return int((values * power[: len(word)]).sum(dtype=np.uint64))
