"""The words that documents are compared by, and their keys."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.clean import units
from data_pipeline.clean.canonical import (
    BASE,
    CHUNK_CHARS,
    canonical,
    chunks,
    mixed,
    without,
)
from data_pipeline.engine.tables import NO_KEY

TEXTS = st.lists(
    st.text(st.sampled_from("aBé\u0301 0٣.,_\n猫ไ한\ud800ﬁß–"), max_size=12), max_size=6
)


def keys(texts, n_words=2):
    words = canonical(texts)
    return words.keys(words.first[:-1], words.first[1:]), words.runs(n_words)


@given(st.text(st.characters(max_codepoint=127)))
def test_words_of_ascii_are_its_runs_of_letters_and_digits(text):
    assert canonical([text]).joined() == [" ".join(re.findall(r"[a-z0-9]+", text.lower()))]


def test_case_accents_spacing_and_punctuation_are_not_seen_and_numbers_where_asked():
    assert canonical(["Élan «VITAL» — e\u0301te\u0301\u00a0Йод ３4\n"]).joined() == [
        "elan vital ete йод 34"
    ]
    assert (
        canonical(["v12.50 in 2024"], numbers_alike=True).joined()
        == canonical(["v7.1 in 3"], numbers_alike=True).joined()
        == ["v0 0 in 0"]
    )


def test_every_character_of_a_script_without_spaces_is_a_word():
    assert canonical(["猫が好き。Tom很好", "ไทย", "한국어 말"]).joined() == [
        "猫 が 好 き tom 很 好",
        "ไ ท ย",
        "한국어 말",
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("мой", "мои"),  # Russian: й is no и with an accent
        ("її", "іі"),  # Ukrainian
        ("ўсё", "усё"),  # Belarusian
        ("かき", "がき"),  # Japanese
        ("ハハ", "パパ"),
        ("কে", "কো"),  # Bengali: the sign of o is written as two
        ("கெ", "கொ"),  # Tamil
        ("കെ", "കൊ"),  # Malayalam
        ("ಕೆ", "ಕೊ"),  # Kannada
        ("කෙ", "කො"),  # Sinhala
        ("कम", "काम"),  # Hindi
        ("ดี", "ดำ"),  # Thai
        ("ကို", "ကု"),  # Burmese
        ("가", "각"),  # Korean
    ],
)
def test_signs_that_make_another_letter_are_seen(one, other):
    assert keys([one])[0] != keys([other])[0]


@pytest.mark.parametrize(
    ("one", "other"), [("élève", "ELEVE"), ("ёлка", "елка"), ("Ελλάδα", "ελλαδα"), ("שָׁלוֹם", "שלום")]
)
def test_accents_that_people_leave_out_are_not_seen(one, other):
    assert keys([one])[0] == keys([other])[0]


@given(TEXTS)
def test_texts_of_a_batch_have_the_words_and_keys_each_has_alone(texts):
    together, alone = canonical(texts), [canonical([text]) for text in texts]
    assert together.joined() == [text for words in alone for text in words.joined()]
    assert keys(texts)[0].tolist() == [key for text in texts for key in keys([text])[0]]
    assert keys(texts)[1][1].tolist() == [key for text in texts for key in keys([text])[1][1]]


@given(TEXTS, TEXTS)
def test_keys_are_equal_exactly_where_the_words_are(one, other):
    texts = [*one, *other]
    words = canonical(texts).joined()
    found = keys(texts)[0].tolist()
    assert all(
        (a == b) == (v == w)
        for a, v in zip(found, words, strict=True)
        for b, w in zip(found, words, strict=True)
    )
    assert all((key == NO_KEY) == (not text) for key, text in zip(found, words, strict=True))


def test_a_key_is_the_stated_polynomial():
    total = sum(ord(c) * BASE**i for i, c in enumerate("one two")) % 2**64
    assert keys(["-One-two!"])[0].tolist() == mixed(np.array([total], np.uint64)).tolist()


def test_a_text_longer_than_a_chunk_has_the_keys_of_its_words():
    words = canonical(["one two " * 30_000, "one two"])
    _, runs = words.runs(2)
    assert (
        len(words.codes) > 3 * CHUNK_CHARS and len(set(runs.tolist())) == 2 and runs[-1] == runs[0]
    )


def test_runs_lie_within_one_text():
    first, _ = canonical(["a b c", "d", "", "e f"]).runs(2)
    assert first.tolist() == [0, 1, 4]
    assert not len(canonical(["a b", "c"]).runs(3)[0])


@given(st.text(st.sampled_from("ab é\u0301.\n猫"), max_size=20))
def test_the_place_of_a_word_holds_that_word_alone(text):
    words = canonical([text])
    index = np.arange(len(words.starts))
    places = zip(*(bounds.tolist() for bounds in words.places(index, index + 1)), strict=True)
    assert [canonical([text[start:end]]).joined()[0] for start, end in places] == words.joined()[
        0
    ].split()


@given(TEXTS)
def test_chunks_are_the_texts_in_order(texts):
    assert [text for chunk in chunks([*texts, "x" * 70_000, "y"]) for text in chunk] == [
        *texts,
        "x" * 70_000,
        "y",
    ]


@given(TEXTS)
def test_lines_are_those_of_split_and_paragraphs_and_lines_cover_all_words(texts):
    found = units.lines(texts, canonical(texts))
    expected = [
        (i, line)
        for i, text in enumerate(texts)
        for line in text.split("\n")
        if canonical([line]).joined()[0]
    ]
    assert [
        (i, texts[i][start:end].rstrip("\n"))
        for i, start, end, *_ in zip(*(v.tolist() for v in found), strict=True)
    ] == expected
    for parts in (found, units.paragraphs(texts, canonical(texts))):
        assert (parts.last - parts.first).sum() == len(canonical(texts).starts)


def test_sentences_end_at_marks_with_white_space_behind():
    text = "He came at 3.5 pm. “Did he?” Yes! 我来。你走！\nNo end"
    parts = units.parted([text], canonical([text]), units.sentence_ends)
    found = [text[start:end].strip() for start, end in zip(parts.start, parts.end, strict=True)]
    assert found == ["He came at 3.5 pm.", "“Did he?”", "Yes!", "我来。", "你走！", "No end"]
    assert len(units.sentence_spans([text, "One. Two."], canonical([text, "One. Two."])).text) == 4


def test_overlapping_spans_are_cut_once():
    assert without("0123456789", [(4, 6), (1, 3), (2, 5), (2, 3)]) == "06789"
