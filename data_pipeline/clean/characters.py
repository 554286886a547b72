"""What each Unicode character is, as tables over code points: built once a process, looked up for whole
batches of text.
"""

import functools
import unicodedata

import numpy as np

# One bit each, so that a single table look-up answers all questions about a character.
SPACE, LETTER, ALPHANUMERIC, UPPER, DIGIT, UNSPACED, MARK, TERMINAL = (1 << bit for bit in range(8))
# Sentence ends: of Unicode's Sentence_Terminal those in living use, and the ellipsis.
TERMINALS = ".?!…。．！？｡﹒﹖﹗‼‽⁇⁈⁉؟۔؝؞।॥။၊።፧፨։՜՞។៕᠃᠉"
CLOSERS = "\"'”’»›)]}」』）］】〉》*_"  # may follow the mark that ends a sentence
# Scripts written without spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han (with its extensions),
# half-width kana.
UNSPACED_BLOCKS = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3005, 0x3007),
    (0x3041, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x20000, 0x323AF),
)
N_CODES = 0x110000
MARK_CODES = (0x0300, 0x1F000)  # between them all marks that letters have
VARIATIONS = range(0xFE00, 0xFE10)  # say how a sign is drawn, mostly of pictures


@functools.cache
def marks() -> list[int]:
    """Code points of the marks that belong to letters, ascending."""
    codes_of_marks = []
    for code in range(*MARK_CODES):
        if code not in VARIATIONS and unicodedata.category(chr(code)) in ("Mn", "Mc"):
            codes_of_marks.append(code)
    return codes_of_marks


def mark_ranges() -> str:
    """The same as the inside of a regular expression's character class."""
    ranges: list[list[int]] = []
    for code in marks():
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


@functools.cache
def kinds() -> np.ndarray:
    """Flags of every character, uint8 [N_CODES]."""
    table = np.zeros(N_CODES, np.uint8)
    # numpy reads the numbers as strings of one character, so its string functions classify all of Unicode
    # at once.
    characters = np.arange(N_CODES, dtype=np.uint32).view("U1")
    tests = {
        SPACE: np.strings.isspace,
        LETTER: np.strings.isalpha,
        ALPHANUMERIC: np.strings.isalnum,
        UPPER: np.strings.isupper,
        DIGIT: np.strings.isdigit,
    }
    for flag, test in tests.items():
        table[test(characters)] |= flag
    # A vowel sign or accent is as much of a word as the letter that it sits on.
    table[marks()] |= LETTER | ALPHANUMERIC
    for first, last in UNSPACED_BLOCKS:
        table[first : last + 1] |= UNSPACED
        # A vowel sign or tone mark belongs to the letter it sits on, so it does not make a word of its own.
        table[[code for code in marks() if first <= code <= last]] |= MARK
    table[codes(TERMINALS)] |= TERMINAL
    return table


@functools.cache
def hash_values() -> np.ndarray:
    """A random-looking 64-bit number for every character, 0 for white space: splitmix64 of the code point."""
    value = (np.arange(N_CODES, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    value ^= value >> np.uint64(31)
    # Then a hash over a line is that of its words, whatever white space lies between.
    value[(kinds() & SPACE) != 0] = 0
    return value


def codes(text: str) -> np.ndarray:
    """Code points, uint32; a lone surrogate is one of them."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
