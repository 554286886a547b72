"""Book rules: length, letters, and how sure the language of the paragraphs is."""

import math

import pytest
from hypothesis import given

from data_pipeline.clean.book import BookQuality
from data_pipeline.clean.identify import model, probabilities
from tests.data_pipeline.texts import (
    ENGLISH,
    LAW,
    REAL,
    TEXTS,
    assert_alone_as_in_a_batch,
    documents_of,
    has_alphanumeric,
    is_letter,
    signals_of,
    verdict,
    words_of,
)

RULE = BookQuality(sources=("web",), min_letter_frac=0.7, n_paragraphs=4)


@LAW
@given(TEXTS)
def test_words_and_letters_are_those_of_the_plain_formula(pairs):
    documents = documents_of((text, "") for text, _ in pairs)
    _, signals = RULE.annotate(documents)
    for number, (text, _) in enumerate(pairs):
        solid = "".join(text.split())
        assert signals["n_words"][number] == sum(map(has_alphanumeric, words_of(text)))
        assert signals["letter_frac"][number] == pytest.approx(
            sum(map(is_letter, solid)) / max(1, len(solid))
        )
    assert_alone_as_in_a_batch(RULE, documents)


@pytest.mark.parametrize(
    ("text", "language", "reason"),
    [
        (ENGLISH, "en", None),
        (REAL["ru"], "ru", None),
        ("Chapter One", "en", "book_words"),
        ("Tlic q^ick br0wn f*x ;;,. -- 1S ~~ | _ } l1ke 7his. " * 9, "en", "book_letters"),
        (
            "\n\n".join([ENGLISH, REAL["ru"].split("\n\n")[1], REAL["ru"].split("\n\n")[2]]),
            "en",
            "book_language",
        ),
    ],
)
def test_a_book_is_dropped_for_the_first_limit_it_breaks(text, language, reason):
    assert verdict(RULE, text, language)[1] == reason


def test_paragraph_language_is_the_mean_over_paragraphs():
    parts = [
        ENGLISH,
        "Das ist ein deutscher Absatz mit einigen Wörtern, die man versteht.",
        ENGLISH.upper(),
    ]
    column = model().labels.index("en")
    want = probabilities([" ".join(part.split()) for part in parts])[:, column].mean()
    assert signals_of(RULE, "\n\n".join(parts))["paragraph_language_probability"] == pytest.approx(
        want
    )


def test_a_document_of_unknown_language_has_no_paragraph_score_and_stays():
    assert (
        math.isnan(signals_of(RULE, ENGLISH, "")["paragraph_language_probability"])
        and verdict(RULE, ENGLISH, "")[1] is None
    )
