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
    for first, last in UNSPACED_BLOCKS:
        table[first : last + 1] |= UNSPACED
        # A vowel sign or tone mark belongs to the letter it sits on, so it does not make a word of its own.
        marks = [
            code
            for code in range(first, last + 1)
            if unicodedata.category(chr(code)) in ("Mn", "Mc")
        ]
        table[marks] |= MARK
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
