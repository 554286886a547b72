"""DCLM's line edits against a plain loop over lines."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.clean.line_edits import LineEdits
from tests.data_pipeline.texts import (
    ENGLISH,
    LAW,
    PLAYED,
    REAL,
    TEXTS,
    assert_alone_as_in_a_batch,
    documents_of,
    verdict,
)

RULE = LineEdits(sources=("web",))
THINGS = "likes shares comments retweets reposts quotes bookmarks upvotes downvotes downloads views followers".split()
COUNTER = rf"\W*\d(,|\.|\d)*[kmb]?\s+({'|'.join(THINGS)})\W*"
LINES = ("3 likes", "1.2K views!", "A B", "AB cd", "12 34", "99", "One more line.", "", " ")


def is_kept(line: str) -> bool:
    text = line.strip()
    if not text:
        return True
    upper, digits = sum(map(str.isupper, text)) / len(text), sum(map(str.isdigit, text)) / len(text)
    return (
        upper <= 0.5
        and digits <= 0.999999
        and len(text.split()) >= 2
        and not re.fullmatch(COUNTER, text, re.IGNORECASE)
    )


@LAW
@given(st.one_of(PLAYED, st.lists(st.sampled_from(LINES)).map("\n".join)))
def test_lines_are_cut_as_by_a_plain_loop(text):
    text = text.replace("Sign-in", "").translate(
        {code: None for code in map(ord, "的のที่データ软件包。ดี")}
    )
    left, _ = verdict(RULE, text)
    kept = "\n".join(filter(is_kept, text.split("\n")))
    assert left == kept or not kept.strip() and not left.strip()


@LAW
@given(TEXTS)
def test_a_document_is_cut_and_measured_alone(pairs):
    assert_alone_as_in_a_batch(RULE, documents_of(pairs))


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("3 items in cart for you", "3  for you\n"),
        ("What happened next Read more...", "What happened next \n"),
        ("Sign-in to see the rest", " to see the rest\n"),
        ("Read more...", ""),
        ("When you have ten or more words in a line it stays, read more...", None),
    ],
)
def test_buttons_are_cut_out_of_short_lines(line, left):
    assert (
        verdict(RULE, f"{ENGLISH}{line}\n{ENGLISH}")[0]
        == f"{ENGLISH}{line + chr(10) if left is None else left}{ENGLISH}"
    )


def test_a_page_that_lost_more_than_a_twentieth_of_its_words_is_dropped():
    assert verdict(RULE, ENGLISH + "3 likes\n")[1] is None
    assert verdict(RULE, ENGLISH + "BUY NOW\n" * 9)[1] == "line_edits"


def test_a_chinese_line_has_a_word_for_two_characters():
    assert verdict(RULE, "首页面\n首页面包\n" + REAL["zh"], "zh")[0].startswith("首页面包\n")
