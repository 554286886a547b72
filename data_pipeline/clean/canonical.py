"""The words of texts whatever their case, accents, spacing and punctuation, and 64-bit keys of any stretch
of them, in numpy.

Everything that compares documents (duplicates, repeated lines, evaluation tasks) compares these words. In
scripts without spaces every character is a word.
"""

import functools
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.engine.tables import NO_KEY

SPACE, ZERO = 32, 48
ALONE = np.uint32(1 << 31)  # marks a character that is a word by itself
# Syllables, which the decomposition that strips accents would take apart.
HANGUL = range(0xAC00, 0xD7A4)
UNSPACED = (  # Thai and Lao, Myanmar, Khmer, kana, Han with its compatibility forms and extensions
    range(0x0E00, 0x0F00),
    range(0x1000, 0x10A0),
    range(0x1780, 0x1800),
    range(0x3040, 0x3100),
    range(0x3400, 0x4DC0),
    range(0x4E00, 0xA000),
    range(0xF900, 0xFB00),
    range(0xFF66, 0xFF9E),
    range(0x20000, 0x323B0),
)
# The large blocks of letters without case or accents, which stand for themselves.
THEMSELVES = (HANGUL, *(characters for characters in UNSPACED if len(characters) > 5000))
# Beginnings of the names of letters whose accents are left out; CJK: compatibility forms.
FOLDED = ("LATIN", "GREEK", "ARABIC", "HEBREW", "CJK")
LAST = 0x323B0  # from here on there are no letters
# The arrays of one chunk stay in the processor's cache: a quarter faster than whole batches.
CHUNK_CHARS = 1 << 16
# Keys are polynomials in an odd base modulo 2^64, so that subtracting two prefix sums gives the key of what
# lies between
BASE = 0x9E3779B97F4A7C15
INVERSE = pow(BASE, -1, 1 << 64)


@dataclass(frozen=True)
class Canonical:
    """The words of a few texts in one row of characters, a space after each.

    Attributes:
        codes: Characters, uint32 [m].
        origin: The place of each in the texts joined by newlines, int64 [m].
        starts: Of the words in `codes`, int64 [w].
        ends: After their last characters, int64 [w].
        first: The first word of each text, then w, int64 [n + 1].
        offsets: Where each text starts in the joined texts, then their end, int64 [n + 1].
    """

    codes: np.ndarray
    origin: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    first: np.ndarray
    offsets: np.ndarray

    @functools.cached_property
    def sums(self) -> np.ndarray:
        """Prefix sums of codes[i] · BASE^i, uint64 [m + 1]."""
        sums = np.zeros(len(self.codes) + 1, np.uint64)
        np.cumsum(self.codes * powers(BASE, len(self.codes)), out=sums[1:])
        return sums

    @functools.cached_property
    def scale(self) -> np.ndarray:
        """INVERSE^start of each word, uint64 [w]."""
        return powers(INVERSE, len(self.codes))[self.starts]

    def keys(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """uint64 keys of the stretches of words `first` to `last` (exclusive), NO_KEY where a stretch is
        empty.
        """
        keys = np.full(len(first), NO_KEY, np.uint64)
        full = np.flatnonzero(last > first)
        # (prefix[end] - prefix[start]) · BASE^-start is the polynomial of the stretch alone, wherever it
        # stands.
        start, end = self.starts[first[full]], self.ends[last[full] - 1]
        keys[full] = nonzero((self.sums[end] - self.sums[start]) * self.scale[first[full]])
        return keys

    def runs(self, n_words: int) -> tuple[np.ndarray, np.ndarray]:
        """(first word, key) of every run of `n_words` words that lies in one text."""
        n = max(len(self.starts) - n_words + 1, 0)
        keys = nonzero(
            (self.sums[self.ends[n_words - 1 :]] - self.sums[self.starts[:n]]) * self.scale[:n]
        )
        # Runs that begin in one text and end in the next are no runs of either.
        inside = np.ones(n, bool)
        for bound in self.first[1:-1].tolist():
            inside[max(bound - n_words + 1, 0) : bound] = False
        return np.flatnonzero(inside), keys[inside]

    def places(self, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(start, end) of stretches of words that are not empty, in characters of the joined texts."""
        return self.origin[self.starts[first]], self.origin[self.ends[last - 1]]

    def joined(self) -> list[str]:
        """Each text as its words with a space between."""
        row = self.codes.tobytes().decode("utf-32-le")
        # Each text ends one character before the next one's first word: the space between them.
        bounds = np.append(self.starts, len(row))[self.first].tolist()
        return [
            row[start : max(end - 1, start)] for start, end in zip(bounds, bounds[1:], strict=False)
        ]


def canonical(texts: Sequence[str], *, numbers_alike: bool = False) -> Canonical:
    """The words of `texts`; with `numbers_alike` every number is 0."""
    offsets = np.cumsum([0, *(len(text) + 1 for text in texts)])
    # `clip` sends characters beyond the table to its last entry, which stands for itself: a symbol of no
    # script.
    codes = letters(numbers_alike).take(code_points(texts), mode="clip")
    # Zeros (accents, joiners) disappear here; `origin` remembers where the others stood.
    origin = np.flatnonzero(codes)
    codes, origin = one_space(*stand_alone(codes[origin], origin), numbers_alike)
    ends = np.flatnonzero(codes == SPACE)
    # Every word ends in one space, so the next word begins right behind it.
    starts = np.append(0, ends + 1)[:-1] if len(ends) else ends
    return Canonical(codes, origin, starts, ends, np.searchsorted(origin[starts], offsets), offsets)


def code_points(texts: Sequence[str]) -> np.ndarray:
    """The characters of the texts, a newline after each, uint32."""
    return np.frombuffer("\n".join([*texts, ""]).encode("utf-32-le", "surrogatepass"), np.uint32)


def chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Neighbours, of CHUNK_CHARS characters together or one text."""
    begin = n_chars = 0
    for i, text in enumerate(texts):
        # A text longer than a chunk is a chunk of its own.
        if n_chars and n_chars + len(text) > CHUNK_CHARS:
            yield texts[begin:i]
            begin, n_chars = i, 0
        n_chars += len(text)
    if begin < len(texts):
        yield texts[begin:]


def stand_alone(codes: np.ndarray, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both with a space on either side of each character that is a word by itself."""
    alone = codes >= ALONE
    if not alone.any():
        return codes, origin
    # A character that is a word by itself becomes three: space, character, space.
    width = 1 + 2 * alone
    # Index of the first of the three in the widened array.
    place = (np.cumsum(width) - width)[alone]
    codes, origin = np.repeat(codes & ~ALONE, width), np.repeat(origin, width)
    codes[place] = codes[place + 2] = SPACE
    # The space after it has the position after the character.
    origin[place + 2] += 1
    return codes, origin


def one_space(
    codes: np.ndarray, origin: np.ndarray, numbers_alike: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Both without a space at the start or after a space; and with one digit for a number."""
    keep = np.empty(len(codes), bool)
    space = codes == SPACE
    # No space at the very start, and of several in a row the last only.
    keep[:1] = ~space[:1]
    np.logical_not(space[1:] & space[:-1], out=keep[1:])
    if numbers_alike:
        # With numbers alike every digit is 0 already; here a run of them becomes a single one.
        zero = codes == ZERO
        keep[1:] &= ~(zero[1:] & zero[:-1])
    return codes[keep], origin[keep]


@functools.cache
def letters(numbers_alike: bool) -> np.ndarray:
    """For each character: 0 = nothing (accents, joiners), SPACE, or the letter that stands for it; uint32
    [LAST + 1].
    """
    table = np.arange(LAST + 1, dtype=np.uint32)
    # `unicodedata` is asked once a character, so the large blocks that map to themselves are left out.
    others = np.setdiff1d(table, np.concatenate(THEMSELVES))
    table[others] = [letter(chr(code), numbers_alike) for code in others.tolist()]
    for characters in UNSPACED:
        part = table[characters.start : characters.stop]
        # Marks of these scripts are 0 or letters like others; what counts as a letter is a word by itself.
        part[part > SPACE] |= ALONE
    return table


def letter(character: str, numbers_alike: bool) -> int:
    """The code that stands for a character: lower case, without accents, digits of all scripts alike."""
    kind = unicodedata.category(character)
    # From Devanagari on, vowel signs and viramas are as much of a word as its consonants.
    if kind == "Mn" and ord(character) >= 0x0900 and not is_accent(ord(character)):
        return ord(character)
    if kind in ("Mn", "Me", "Cf"):
        # U+200B, a space without width, separates words in scripts that have no other space.
        return SPACE if character == "\u200b" else 0
    if kind == "Nd":
        return ZERO + (0 if numbers_alike else unicodedata.digit(character))
    if kind[0] not in "LN" and kind != "Mc":
        return SPACE
    lower = character.lower()
    base = unicodedata.normalize("NFD", lower)[0]
    # Accents are left out in the scripts that people also write without them. Elsewhere what Unicode takes
    # apart is another letter: й, が, the Bengali o. Of Cyrillic only ё is also written without.
    folded = unicodedata.name(base, "").startswith(FOLDED) or lower == "ё"
    return ord(base if folded else lower[0])


def is_accent(code: int) -> bool:
    """Whether a mark beyond the scripts that have accents is none of a script's letters: variation selectors
    and the blocks of combining marks for any letter.
    """
    blocks = ((0x1AB0, 0x1B00), (0x1DC0, 0x1E00), (0x20D0, 0x2100), (0xFE00, 0xFE30))
    return any(first <= code < end for first, end in blocks)


def nonzero(sums: np.ndarray) -> np.ndarray:
    """Keys of polynomial sums: mixed, and never NO_KEY."""
    # 0 is NO_KEY, and must be the key of nothing else.
    return np.maximum(mixed(sums), 1)


def mixed(keys: np.ndarray) -> np.ndarray:
    """Keys with every bit depending on every bit (the finaliser of MurmurHash3)."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        keys = keys ^ (keys >> np.uint64(33))
        keys *= np.uint64(factor)
    return keys ^ (keys >> np.uint64(33))


def powers(base: int, n: int) -> np.ndarray:
    """base^0 … base^(n - 1) modulo 2^64."""
    low = low_powers(base)
    if n <= len(low):
        return low[:n]
    # base^(i + j·len(low)) = base^i · (base^len(low))^j: an outer product instead of n multiplications in a
    # row.
    high = np.full(-(-n // len(low)), pow(base, len(low), 1 << 64), np.uint64)
    high[0] = 1
    return np.multiply.outer(np.multiply.accumulate(high), low).ravel()[:n]


@functools.cache
def low_powers(base: int) -> np.ndarray:
    """Enough of them for a chunk; a table for a text longer than that is not kept."""
    factors = np.full(2 * CHUNK_CHARS, base, np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)


def without(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text without the characters of `spans` (start, end), which may overlap."""
    pieces, position = [], 0
    for start, end in sorted(spans):
        pieces.append(text[position:start])  # empty where spans overlap
        position = max(position, end)
    return "".join([*pieces, text[position:]])
