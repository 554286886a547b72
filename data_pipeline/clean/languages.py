"""What differs from language to language: one table that every rule reads."""

import functools
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import numpy as np

from data_pipeline.clean.rule import UNKNOWN, Limit


class Entry(NamedTuple):
    """A language. A bound that is None is the one in the rule's own field, which is the published one for
    English.

    Attributes:
        stop_words: Lower case; in a script without spaces, single characters (with their marks).
        word_chars: Least and most mean length of a word in characters.
        chars_per_word: How many words of `words.py` make a word: 1 where spaces part words, else characters
        of a mean word.
        min_probability: From which the language identifier is believed.
        end_marks: Characters that may end a line of running text.
        bullets: Characters that begin a line of a list, besides •, - and *.
        notices: Phrases of cookie and policy notices, lower case.
        min_alphabetic_word_frac: Gopher's share of words with a letter.
        max_repeated_line_frac, max_top_gram_fracs, max_repeated_gram_fracs: Gopher's repetition, as in
        `GopherRepetition`.
        min_punctuated_line_frac, max_repeated_line_char_frac, max_newline_word_ratio: FineWeb's, as in
        `FineWeb`.
    """

    stop_words: frozenset[str]
    word_chars: tuple[float, float]
    chars_per_word: int = 1
    min_probability: float | None = None
    end_marks: str = '.?!"…”»'
    bullets: str = ""
    notices: tuple[str, ...] = ()
    min_alphabetic_word_frac: float | None = None
    max_repeated_line_frac: float | None = None
    max_top_gram_fracs: tuple[float, float, float] | None = None
    max_repeated_gram_fracs: tuple[float, float, float, float, float, float] | None = None
    min_punctuated_line_frac: float | None = None
    max_repeated_line_char_frac: float | None = 0.1  # of every language but English in FineWeb-2
    max_newline_word_ratio: float | None = None


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# English: Gopher (Rae et al. 2021), C4 (Raffel et al. 2020). The others: FineWeb-2 (Penedo et al. 2025), its
# settings of each language. Where that takes a bound from another segmentation (mean characters of Chinese
# words), ours is in the units of `words.py`.
LANGUAGES: dict[str, Entry] = {
    "en": Entry(
        stop_words=_words("the be to of and that have with"),
        word_chars=(3, 10),
        end_marks='.?!"',
        max_repeated_line_char_frac=None,
    ),
    "ru": Entry(
        stop_words=_words(
            "в и на с года по году из был к не от что за для его как а он также до после"
        ),
        word_chars=(3, 11),
        notices=(
            "политика конфиденциальности",
            "политикой конфиденциальности",
            "политику конфиденциальности",
            "политике конфиденциальности",
            "пользовательское соглашение",
            "пользовательского соглашения",
            "условия использования",
            "использует cookie",
            "использует файлы cookie",
            "используем cookie",
            "используем файлы cookie",
            "использование файлов cookie",
            "использованием файлов cookie",
            "включите javascript",
        ),
        min_alphabetic_word_frac=0.713,
        max_repeated_line_frac=0.322,
        max_top_gram_fracs=(0.184, 0.164, 0.146),
        max_repeated_gram_fracs=(0.168, 0.156, 0.145, 0.133, 0.121, 0.109),
        min_punctuated_line_frac=0.231,
        max_newline_word_ratio=0.139,
    ),
    "uk": Entry(
        stop_words=_words("у в на і з та до року за що"),
        word_chars=(3, 11),
        min_alphabetic_word_frac=0.694,
        max_repeated_line_frac=0.333,
        max_top_gram_fracs=(0.086, 0.108, 0.129),
        max_repeated_gram_fracs=(0.176, 0.157, 0.139, 0.125, 0.113, 0.102),
        min_punctuated_line_frac=0.308,
        max_newline_word_ratio=0.211,
    ),
    "de": Entry(
        stop_words=_words("der und die in von im den des mit das er dem als wurde für"),
        word_chars=(0, 15),
        end_marks='.?!"…“«',
        min_alphabetic_word_frac=0.774,
        max_repeated_line_frac=0.263,
        max_top_gram_fracs=(0.169, 0.153, 0.137),
        max_repeated_gram_fracs=(0.141, 0.134, 0.126, 0.117, 0.108, 0.098),
        min_punctuated_line_frac=0.0,
        max_newline_word_ratio=0.152,
    ),
    "fr": Entry(
        stop_words=_words("de la le et à en des du les est un une il dans par au"),
        word_chars=(2, 11),
        min_alphabetic_word_frac=0.812,
        max_repeated_line_frac=0.264,
        max_top_gram_fracs=(0.161, 0.149, 0.134),
        max_repeated_gram_fracs=(0.150, 0.141, 0.131, 0.121, 0.111, 0.100),
        min_punctuated_line_frac=0.1,
        max_newline_word_ratio=0.185,
    ),
    "es": Entry(
        stop_words=_words("de la en el y a que del los se por un con una las su"),
        word_chars=(4, 14),
        min_alphabetic_word_frac=0.825,
        max_repeated_line_frac=0.265,
        max_top_gram_fracs=(0.077, 0.097, 0.112),
        max_repeated_gram_fracs=(0.152, 0.137, 0.123, 0.114, 0.107, 0.099),
        min_punctuated_line_frac=0.3,
        max_newline_word_ratio=0.171,
    ),
    "zh": Entry(
        stop_words=_words("的 年 在 月 是 和 日 了 於 為 有 被 人 中 为 他 與 後 也 而 由"),
        word_chars=(1, 5),
        chars_per_word=2,
        end_marks="。．！？｡…”」』.?!",
        bullets="·・●■◆",
        min_alphabetic_word_frac=0.735,
        max_repeated_line_frac=0.287,
        max_top_gram_fracs=(0.256, 0.201, 0.171),
        max_repeated_gram_fracs=(0.198, 0.182, 0.167, 0.154, 0.140, 0.127),
        min_punctuated_line_frac=0.106,
        max_newline_word_ratio=0.178,
    ),
    "ja": Entry(
        stop_words=_words("の に を は た て が と で 年 し 月 れ さ"),
        word_chars=(1, 5),
        chars_per_word=2,
        end_marks="。．！？｡…”」』.?!",
        bullets="·・●■◆",
        min_alphabetic_word_frac=0.759,
        max_repeated_line_frac=0.375,
        max_top_gram_fracs=(0.121, 0.129, 0.145),
        max_repeated_gram_fracs=(0.307, 0.283, 0.264, 0.248, 0.234, 0.223),
        min_punctuated_line_frac=0.167,
        max_newline_word_ratio=0.162,
    ),
    "th": Entry(
        # Single characters with their marks; Thai words (ใน, และ, ของ) are several characters.
        stop_words=_words("ที่ มี ก็ นี้ นั้ ผู้ ซึ่ ว่"),
        word_chars=(1, 10),
        chars_per_word=3,
        end_marks='.?!"…”ฯๆ',
        max_repeated_line_frac=0.349,
        max_top_gram_fracs=(0.221, 0.197, 0.162),
        max_repeated_gram_fracs=(0.185, 0.168, 0.152, 0.137, 0.124, 0.111),
        min_punctuated_line_frac=0.0,
        max_newline_word_ratio=0.153,
    ),
}


def per_language(
    reason: str, signal: str, bounds: Callable[[Entry], tuple[float, float]]
) -> tuple[Limit, ...]:
    """The limits of one signal where the bounds (least, most) differ by language.

    The first holds for every text, and is the loosest there is, so a language without an entry is held to
    that; then each language that has a stricter one, and the strictest of all for a text of which no
    language is known: it is more often a list or a mixture than prose.
    """
    bounds_of = {code: bounds(entry) for code, entry in LANGUAGES.items()}
    loosest = (
        min(least for least, _ in bounds_of.values()),
        max(most for _, most in bounds_of.values()),
    )
    stricter = [
        Limit(reason, signal, *bound, language=code)
        for code, bound in bounds_of.items()
        if bound != loosest
    ]
    return (
        Limit(reason, signal, *loosest),
        *stricter,
        *_strictest(reason, signal, bounds_of.values()),
    )


def _strictest(reason: str, signal: str, bounds: Collection[tuple]) -> tuple[Limit, ...]:
    """The limit of texts of no known language; none where it would be the loosest, or no range at all."""
    least = max(least for least, _ in bounds)
    most = min(most for _, most in bounds)
    # With two ends (the length of a word) what the scripts have in common is no language's.
    has_two_ends = least > 0 and most < np.inf
    if has_two_ends or len(set(bounds)) == 1:
        return ()
    return (Limit(reason, signal, least, most, language=UNKNOWN),)


def own[T](value: T | None, default: T) -> T:
    """A language's value where it has one, else the rule's."""
    return default if value is None else value


def chars_per_word(languages: Iterable[str]) -> np.ndarray:
    """Of each text's language, int64; 1 for a language without an entry."""
    return np.array(
        [LANGUAGES[code].chars_per_word if code in LANGUAGES else 1 for code in languages], np.int64
    )


def by_language(languages: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Language → indices of the texts in it."""
    names = np.array(languages, object)
    return {code: np.flatnonzero(names == code) for code in dict.fromkeys(languages)}


@functools.cache
def forms(word: str) -> tuple[str, ...]:
    """The ways a stop word is written: `the`, `The`, `THE`."""
    return tuple(dict.fromkeys((word, word.capitalize(), word.upper())))
