"""FineWeb's page rules against their formulas."""

import pytest
from hypothesis import given

from data_pipeline.clean.fineweb import FineWeb
from data_pipeline.clean.languages import LANGUAGES
from tests.data_pipeline.texts import (
    ENGLISH,
    LAW,
    REAL,
    TEXTS,
    assert_alone_as_in_a_batch,
    documents_of,
    has_alphanumeric,
    lines_of,
    signals_of,
    verdict,
    words_of,
)

RULE = FineWeb(sources=("web",))


def reference(text: str, language: str) -> dict[str, float]:
    lines = lines_of(text)
    keys = [tuple(words_of(line)) for line in lines]
    again = sum(len(line) for number, line in enumerate(lines) if keys[number] in keys[:number])
    scale = LANGUAGES[language].chars_per_word if language in LANGUAGES else 1
    return {
        "punctuated_line_frac": sum(line.endswith(tuple(".?!…。．！？؟۔।။")) for line in lines)
        / max(1, len(lines)),
        "short_line_frac": sum(len(line) <= 30 for line in lines) / max(1, len(lines)),
        "repeated_line_char_frac": again / max(1, sum(map(len, lines))),
        "newline_word_ratio": (max(1, len(lines)) - 1)
        / max(1, sum(map(has_alphanumeric, words_of(text))) / scale),
    }


@LAW
@given(TEXTS)
def test_signals_are_those_of_the_plain_formula(pairs):
    _, signals = RULE.annotate(documents_of(pairs))
    for number, (text, language) in enumerate(pairs):
        assert {name: values[number] for name, values in signals.items()} == pytest.approx(
            reference(text, language), rel=1e-12
        )


@pytest.mark.parametrize("language", REAL)
def test_signals_of_real_text_are_those_of_the_plain_formula(language):
    assert signals_of(RULE, REAL[language], language) == pytest.approx(
        reference(REAL[language], language), rel=1e-12
    )


@LAW
@given(TEXTS)
def test_a_document_is_measured_alone(pairs):
    assert_alone_as_in_a_batch(RULE, documents_of(pairs))


@pytest.mark.parametrize(
    ("text", "language", "reason"),
    [
        (ENGLISH, "en", None),
        (ENGLISH.replace(".\n", "\n"), "en", "fineweb_punctuation"),
        (
            ENGLISH + "Home.\nNews.\nSports.\nHelp.\nAbout.\nTerms.\nSearch.\nLog in.\nMore.\n",
            "en",
            "fineweb_short_line",
        ),
        (ENGLISH + ENGLISH, "en", "fineweb_repeated_line"),
        (
            "\n\n".join(
                f"Internationalization internationalize{'abcdefghi'[n]}." for n in range(9)
            ),
            "en",
            "fineweb_newlines",
        ),
        (REAL["ru"], "ru", None),
        # Blank lines between paragraphs are no lines of their own.
        ("\n\n\n".join(f"A line of seven words stands here, {n}." for n in range(9)), "en", None),
    ],
)
def test_a_page_is_dropped_for_the_first_limit_it_breaks(text, language, reason):
    assert verdict(RULE, text, language)[1] == reason


def test_russian_is_held_to_the_bounds_of_russian():
    paragraphs = [" ".join(part.split("\n")) for part in REAL["ru"].split("\n\n")]
    headings = [f"Глава номер {n} о правилах и о пакетах, которым она посвящена" for n in range(9)]
    text = "\n".join([*paragraphs, *headings])  # 2 of 13 lines end a sentence
    assert (
        verdict(RULE, text, "ru")[1] == "fineweb_punctuation"
        and verdict(RULE, text, "en")[1] is None
    )


def test_thresholds_are_those_of_the_paper():
    fields = (
        RULE.min_punctuated_line_frac,
        RULE.max_short_line_frac,
        RULE.max_repeated_line_char_frac,
        RULE.max_newline_word_ratio,
    )
    assert fields == (0.12, 0.67, 0.01, 0.3) and RULE.short_line_chars == 30
