"""Gopher's repetition rules against the definition by coverage, written word by word."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.clean.languages import LANGUAGES
from data_pipeline.clean.repetition import GopherRepetition
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

RULE = GopherRepetition(sources=("web",))


def reference(text: str, language: str) -> dict[str, float]:
    paragraphs: list[list[str]] = [[]]
    for line in text.split("\n"):
        if line.strip():
            paragraphs[-1].append(line.strip())
        elif paragraphs[-1]:
            paragraphs.append([])
    paragraphs = [lines for lines in paragraphs if lines]
    found = dict(
        zip(
            ("repeated_line_frac", "repeated_line_char_frac"),
            repeated([[line] for line in lines_of(text)]),
            strict=True,
        )
    )
    found |= dict(
        zip(
            ("repeated_paragraph_frac", "repeated_paragraph_char_frac"),
            repeated(paragraphs),
            strict=True,
        )
    )
    words = [word for word in words_of(text) if has_alphanumeric(word)]
    scale = LANGUAGES[language].chars_per_word if language in LANGUAGES else 1
    for n in range(2, 11):
        size = n * scale
        grams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
        counts = {gram: count for gram, count in Counter(grams).items() if count > 1}
        if n > 4:
            found[f"repeated_{n}_gram_frac"] = covered(words, grams, counts, size)
        else:
            most = max(counts.values(), default=0)
            tops = [gram for gram, count in counts.items() if count == most]
            found[f"top_{n}_gram_frac"] = max(
                (covered(words, grams, {gram}, size) for gram in tops), default=0
            )
    return found


def repeated(stretches: list[list[str]]) -> tuple[float, float]:
    keys = [tuple(words_of("\n".join(lines))) for lines in stretches]
    chars = [sum(map(len, lines)) for lines in stretches]
    again = [key in keys[:number] for number, key in enumerate(keys)]
    return sum(again) / max(1, len(keys)), sum(
        n for n, is_again in zip(chars, again, strict=True) if is_again
    ) / max(1, sum(chars))


def covered(words, grams, wanted, size: int) -> float:
    marked = {i + k for i, gram in enumerate(grams) if gram in wanted for k in range(size)}
    return sum(len(words[i]) for i in marked) / max(1, sum(map(len, words)))


@LAW
@given(TEXTS)
def test_signals_are_those_of_the_definition(pairs):
    _, signals = RULE.annotate(documents_of(pairs))
    for number, (text, language) in enumerate(pairs):
        assert {name: values[number] for name, values in signals.items()} == pytest.approx(
            reference(text, language), rel=1e-12
        )


@LAW
@given(st.lists(st.sampled_from("abc"), max_size=80).map(" ".join), st.sampled_from(["en", "zh"]))
def test_overlapping_repeats_are_marked_once(text, language):
    assert signals_of(RULE, text, language) == pytest.approx(reference(text, language), rel=1e-12)


@pytest.mark.parametrize("language", REAL)
def test_signals_of_real_text_are_those_of_the_definition(language):
    text = REAL[language] + REAL[language].split("\n")[0] + "\n\n" + REAL[language][100:260]
    assert signals_of(RULE, text, language) == pytest.approx(reference(text, language), rel=1e-12)


@LAW
@given(TEXTS)
def test_a_document_is_measured_alone(pairs):
    assert_alone_as_in_a_batch(RULE, documents_of(pairs))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ENGLISH, None),
        ("\n\n".join([ENGLISH] * 2), "gopher_repeated_paragraph"),
        ("\n".join(f"{number}\nbuy now" for number in range(9)) + "\n", "gopher_repeated_line"),
        (ENGLISH + "one two " + " three one two ".join(map(str, range(30))), "gopher_top_2_gram"),
        (ENGLISH + "here we are " + " here we are ".join(map(str, range(10))), "gopher_top_3_gram"),
        (
            ENGLISH + " and ".join(["a text with ten words that stands here three times"] * 3),
            "gopher_repeated_5_grams",
        ),
    ],
)
def test_a_page_that_repeats_itself_is_dropped_for_what_it_repeats(text, reason):
    assert verdict(RULE, text)[1] == reason


def test_datatrove_counts_from_the_second_occurrence_on_among_all_characters():
    run = " ".join(f"a{n}" for n in range(9))
    text = f"{run} b1 b2 {run} c1 c2 {run}"
    ours = signals_of(RULE, text)["repeated_5_gram_frac"]
    as_there = signals_of(RULE.model_copy(update={"as_in_datatrove": True}), text)
    assert ours == pytest.approx(27 / 31)
    assert as_there["repeated_5_gram_frac"] == pytest.approx(2 * 18 / len(text))


def test_repeated_chinese_is_found_without_spaces():
    assert verdict(RULE, REAL["zh"], "zh")[1] is None
    assert (
        verdict(RULE, REAL["zh"] + REAL["zh"].replace("\n", "，"), "zh")[1]
        == "gopher_repeated_5_grams"
    )


def test_thresholds_are_late_and_those_of_the_paper():
    defaults = {
        name: field.default
        for name, field in GopherRepetition.model_fields.items()
        if name not in ("sources", "as_in_datatrove", "skip_code")
    }
    assert set(defaults) == GopherRepetition.LATE
    assert list(defaults.values()) == [
        0.30,
        0.30,
        0.20,
        0.20,
        (0.20, 0.18, 0.16),
        (0.15, 0.14, 0.13, 0.12, 0.11, 0.10),
    ]
