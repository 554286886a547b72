"""Words and short runs of words as 64-bit hashes, for many texts at once: what blocklists look up and
linear classifiers weigh.

A word is a run of letters and digits in lower case; `words.py` has words as white space parts them, with
their punctuation and case.
The hashes may never change: they are the indices of a trained model's weights.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from data_pipeline.clean.characters import ALPHANUMERIC, MARK, SPACE, codes, kinds
from data_pipeline.clean.words import boundaries

# Characters whose arrays are made together; longer texts are cut here, so that memory does not grow with
# them.
CHUNK_CHARS = 1 << 17
BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64


class Ngrams(NamedTuple):
    """All n-grams of one order.

    Attributes:
        text: Index of the text of each, int64, ascending.
        hashes: uint64, the same for the same words everywhere.
    """

    text: np.ndarray
    hashes: np.ndarray


def ngrams(texts: Iterable[str], n: int) -> Iterator[list[Ngrams]]:
    """For one chunk of the texts after another: its n-grams of 1, …, `n` words."""
    for indices, pieces in chunks(texts):
        text, words = words_of(indices, pieces)
        run = runs(words)
        orders = [Ngrams(text, words)]
        for order in range(2, n + 1):
            # Only runs whose first and last word are of the same piece: no n-gram spans two texts.
            first = np.flatnonzero(text[order - 1 :] == text[: max(len(text) - order + 1, 0)])
            orders.append(Ngrams(text[first], run(first, first + order)))
        yield orders


def words_of(indices: list[int], pieces: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Of every word, the index that belongs to its piece, and its hash."""
    lowered = [piece.lower() for piece in pieces]
    chars = codes("\n".join([*lowered, ""]))
    flags = kinds()[chars]
    # Punctuation parts words like white space does: `don't` is two words here.
    flags[(flags & (ALPHANUMERIC | MARK)) == 0] |= SPACE
    start, end = boundaries(flags)
    # Where each piece ends in the joined text, its newline counted: a word's piece is found by its start.
    ends = np.cumsum([len(piece) + 1 for piece in lowered])
    return np.array(indices, np.int64)[np.searchsorted(ends, start, "right")], runs(
        chars.astype(np.uint64)
    )(start, end)


def runs(values: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A function that hashes stretches `first:stop` of uint64 values: Σ values[first + i] · BASE^i, mixed."""
    # Rounded up to a power of two, so that the cache holds a few sizes and not one for every text.
    power, inverse = powers(1 << len(values).bit_length())
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * power[: len(values)], out=sums[1:])
    return lambda first, stop: mixed((sums[stop] - sums[first]) * inverse[first])


@functools.lru_cache(maxsize=4)
def powers(n: int) -> tuple[np.ndarray, np.ndarray]:
    """BASE^i and BASE^-i modulo 2^64 for i < n."""
    factors = np.full((2, n), [[BASE], [pow(BASE, -1, 1 << 64)]], np.uint64)
    factors[:, 0] = 1
    return tuple(np.multiply.accumulate(factors, axis=1))


def mixed(hashes: np.ndarray) -> np.ndarray:
    """So that every bit depends on all others: the low ones choose a bucket (the last steps of SplitMix64;
    Steele et al. 2014).
    """
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def chunks(texts: Iterable[str]) -> Iterator[tuple[list[int], list[str]]]:
    """(indices of the texts, texts or pieces of long ones) of about `CHUNK_CHARS` characters."""
    indices, pieces, n_chars = [], [], 0
    for i, text in enumerate(texts):
        for start in range(0, len(text), CHUNK_CHARS):
            piece = text[start : start + CHUNK_CHARS]
            if pieces and n_chars + len(piece) > CHUNK_CHARS:
                yield indices, pieces
                indices, pieces, n_chars = [], [], 0
            indices.append(i)
            pieces.append(piece)
            n_chars += len(piece)
    if pieces:
        yield indices, pieces
