"""C4's rules against its reference code, line by line."""

import re

import pytest
from hypothesis import given

from data_pipeline.clean.c4 import NOTICES, C4EndMarks, C4Lines, C4Page
from data_pipeline.clean.languages import LANGUAGES
from data_pipeline.clean.recipe import standard_recipe
from tests.data_pipeline.texts import (
    ENGLISH,
    LAW,
    PLAYED,
    REAL,
    TEXTS,
    assert_alone_as_in_a_batch,
    documents_of,
    verdict,
    words_of,
)

LINES, END_MARKS, PAGE = (
    C4Lines(sources=("web",)),
    C4EndMarks(sources=("web",)),
    C4Page(sources=("web",)),
)


def reference_lines(text: str, language: str) -> tuple[str, dict[str, int]]:
    """The lines kept, blank ones too, and how many were cut for each reason."""
    entry = LANGUAGES.get(language)
    scale, notices = (entry.chars_per_word, entry.notices) if entry else (1, ())
    text, n_marks = re.subn(r"\[\d*\]|\[edit\]|\[citation needed\]", "", text)
    counts = {"wiki_mark_spans": n_marks, "long_word_lines": 0, "short_lines": 0, "notice_lines": 0}
    kept = []
    for line in text.split("\n"):
        words = words_of(line)
        if not words:
            kept.append(line)
        elif max(map(len, words)) > 1_000:
            counts["long_word_lines"] += 1
        elif len(words) / scale < 5:
            counts["short_lines"] += 1
        elif any(phrase in line.lower() for phrase in (*NOTICES, *notices)):
            counts["notice_lines"] += 1
        else:
            kept.append(line)
    return "\n".join(kept), counts


def reference_sentences(text: str) -> int:
    n = 0
    for line in filter(str.strip, text.split("\n")):
        for number, word in enumerate(words := words_of(line)):
            closed = len(word) > 1 and word[-1] in "\"'”’»›)]}」』）］】〉》*_"
            n += (
                number == len(words) - 1
                or (word[:-1] if closed else word)[-1] in ".?!…。．！？؟۔।။"
            )
    return n


@LAW
@given(TEXTS)
def test_lines_are_cut_as_in_the_reference_code(pairs):
    documents, signals = LINES.annotate(documents_of(pairs))
    for number, (text, language) in enumerate(pairs):
        left, counts = reference_lines(text, language)
        assert {name: values[number] for name, values in signals.items()} == counts
        assert (
            documents[number].text == left
            or not left.strip()
            and not documents[number].text.strip()
        )


@LAW
@given(TEXTS)
def test_a_document_is_cut_and_measured_alone(pairs):
    for rule in (LINES, END_MARKS, PAGE):
        assert_alone_as_in_a_batch(rule, documents_of(pairs))


@LAW
@given(PLAYED)
def test_lines_without_an_end_mark_go(text):
    left, _ = verdict(END_MARKS, text)
    kept = [
        line
        for line in text.split("\n")
        if line.strip().endswith((".", "?", "!", '"')) and not line.strip().endswith("...")
    ]
    assert [line for line in left.split("\n") if line.strip()] == kept


def test_end_marks_are_the_languages_own():
    assert verdict(END_MARKS, "他说：“好。”\n标题\n结束。\n", "zh")[0] == "他说：“好。”\n结束。\n"
    assert (
        verdict(END_MARKS, "Он сказал: «да»\nЗаголовок\nИ так далее…\n", "ru")[0]
        == "Он сказал: «да»\nИ так далее…\n"
    )


@LAW
@given(PLAYED)
def test_sentences_are_counted_by_end_marks_and_lines(text):
    _, signals = PAGE.annotate(documents_of([(text, "en")]))
    assert signals["n_sentences"][0] == reference_sentences(text)


@pytest.mark.parametrize("language", REAL)
def test_real_text_is_counted_as_by_the_reference(language):
    _, signals = PAGE.annotate(documents_of([(REAL[language], language)]))
    assert signals["n_sentences"][0] == reference_sentences(REAL[language])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ENGLISH, None),
        ("Lorem Ipsum dolor sit amet. " + ENGLISH, "lorem_ipsum"),
        (ENGLISH + "for (;;) { }\n", "curly_bracket"),
        ("One sentence. And another.", "few_sentences"),
        ("", "few_sentences"),
    ],
)
def test_a_page_is_dropped_for_placeholders_code_and_few_sentences(text, reason):
    assert verdict(PAGE, text)[1] == reason


def test_a_page_of_notices_alone_becomes_empty():
    assert verdict(LINES, "We use cookies to serve you better.\n\n") == ("", None)


def test_russian_notices_go_from_russian_pages():
    text = (
        "Политика конфиденциальности описывает сбор данных на сайте.\nНаш сайт использует файлы cookie для своей работы.\n"
        + REAL["ru"]
    )
    left, _ = verdict(C4Lines(sources=("web",), min_line_words=0), text, "ru")
    assert left == REAL["ru"]


def test_the_standard_recipe_cuts_notices_and_marks_but_not_long_prose():
    rule = next(rule for rule in standard_recipe() if isinstance(rule, C4Lines))
    prose = "This module documents how a server announces its privacy policy. " * 8
    text = f"A fact.[1] Another.[edit]\nWe use cookies to serve you.\n{prose}\n{'x' * 1001}\nEnd."
    assert verdict(rule, text)[0] == f"A fact. Another.\n{prose}\nEnd."


def test_thresholds_are_those_of_the_reference_code():
    assert (LINES.min_line_words, LINES.max_word_chars, LINES.max_notice_chars) == (5, 1_000, None)
    assert (PAGE.max_curly_word_ratio, PAGE.min_sentences) == (0, 3)
