"""Gopher's page rules: every signal is the plain formula's, every limit names itself, in every language
with an entry.
"""

import math

import pytest
from hypothesis import given

from data_pipeline.clean.languages import LANGUAGES
from data_pipeline.clean.quality import GopherQuality, TooShort
from tests.data_pipeline.texts import (
    ENGLISH,
    LAW,
    REAL,
    TEXTS,
    assert_alone_as_in_a_batch,
    documents_of,
    has_alphanumeric,
    is_letter,
    lines_of,
    signals_of,
    verdict,
    words_of,
)

RULE = GopherQuality(sources=("web",))
LONG = ENGLISH + ENGLISH.replace("list", "tree")


def reference(text: str, language: str) -> dict[str, float]:
    tokens, lines = words_of(text), lines_of(text)
    words = [token for token in tokens if has_alphanumeric(token)]
    scale = LANGUAGES[language].chars_per_word if language in LANGUAGES else 1
    bullets = ("•", "-", "*", *(LANGUAGES[language].bullets if language in LANGUAGES else ""))
    n_words, n_lines = max(1, len(words) / scale), max(1, len(lines))
    stop_words = math.nan
    if language in LANGUAGES:
        stop_words = sum(
            bool({word, word.capitalize(), word.upper()} & set(tokens))
            for word in LANGUAGES[language].stop_words
        )
    return {
        "n_words": len(words) / scale,
        "mean_word_chars": sum(map(len, words)) / max(1, len(words)),
        "hash_word_ratio": text.count("#") / n_words,
        "ellipsis_word_ratio": (text.count("...") + text.count("…")) / n_words,
        "bullet_line_frac": sum(line.startswith(bullets) for line in lines) / n_lines,
        "ellipsis_line_frac": sum(line.endswith(("...", "…")) for line in lines) / n_lines,
        "alphabetic_word_frac": sum(any(map(is_letter, token)) for token in tokens)
        / max(1, len(tokens)),
        "n_stop_words": stop_words,
    }


@LAW
@given(TEXTS)
def test_signals_are_those_of_the_plain_formula(pairs):
    _, signals = RULE.annotate(documents_of(pairs))
    for number, (text, language) in enumerate(pairs):
        assert {name: values[number] for name, values in signals.items()} == pytest.approx(
            reference(text, language), nan_ok=True, rel=1e-12
        )


@pytest.mark.parametrize("language", REAL)
def test_signals_of_real_text_are_those_of_the_plain_formula(language):
    assert signals_of(RULE, REAL[language], language) == pytest.approx(
        reference(REAL[language], language), nan_ok=True, rel=1e-12
    )


@LAW
@given(TEXTS)
def test_a_document_is_measured_alone(pairs):
    assert_alone_as_in_a_batch(RULE, documents_of(pairs))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LONG, None),
        ("A few of the words.", "gopher_words"),
        ("- " + LONG.replace("\n", "\n- ").removesuffix("- "), "gopher_bullets"),
        (
            LONG.replace(".\n", "...\n").replace("an\n", "an...\n").replace("most\n", "most…\n"),
            "gopher_ellipses",
        ),
        (LONG.replace(" of ", " # of # # ").replace(" the ", " # the # "), "gopher_symbols"),
        (" ".join(f"{word} = 1234" for word in LONG.split()), "gopher_alphabetic"),
        (" ".join("incomprehensibilities" for _ in range(60)), "gopher_word_length"),
        ("go up so we do if no us am is it he by an at " * 8, "gopher_word_length"),
        ("apple banana cherry orange melon grape lemon peach " * 8, "gopher_stop_words"),
    ],
)
def test_gopher_names_the_first_limit_a_page_breaks(text, reason):
    assert verdict(RULE, text)[1] == reason


@pytest.mark.parametrize("language", ["ru", "zh", "ja"])
def test_good_pages_in_other_languages_pass_by_their_own_bounds_and_not_as_english(language):
    text = REAL[language] * 2
    assert verdict(RULE, text, language)[1] is None
    assert verdict(RULE, text, "en")[1] is not None


def test_a_language_without_an_entry_is_held_to_the_loosest_bounds_and_to_no_stop_words():
    german_words = "Donaudampfschifffahrtsgesellschaft " * 60
    assert verdict(RULE, LONG, "xx")[1] is None and math.isnan(
        signals_of(RULE, LONG, "xx")["n_stop_words"]
    )
    assert verdict(RULE, german_words, "xx")[1] == "gopher_word_length"


def test_thresholds_are_late_and_those_of_the_paper():
    defaults = {
        name: field.default
        for name, field in GopherQuality.model_fields.items()
        if name not in ("sources", "skip_code")
    }
    assert set(defaults) == GopherQuality.LATE
    assert list(defaults.values()) == [50, 100_000, 0.1, 0.9, 0.3, 0.8, 2]
    assert (LANGUAGES["en"].word_chars, LANGUAGES["en"].stop_words) == (
        (3, 10),
        frozenset("the be to of and that have with".split()),
    )


def test_too_short_counts_what_stands_between_spaces():
    rule = TooShort(sources=("web",), min_words=3)
    assert (
        verdict(rule, "two words")[1] == "too_short" and verdict(rule, "three - words")[1] is None
    )
    assert verdict(rule, "软件包包", "zh")[1] == "too_short"


def test_no_documents_have_no_signals():
    _, signals = RULE.annotate([])
    assert set(signals) == set(reference("", "en")) and all(
        values.shape == (0,) for values in signals.values()
    )
