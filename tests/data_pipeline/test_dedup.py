"""Exact duplicates, repeated lines and repeated substrings across documents."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.clean.canonical import canonical, without
from data_pipeline.clean.dedup import ExactDedup, text_keys
from data_pipeline.clean.line_dedup import LineDedup
from data_pipeline.clean.rule import AcrossRule
from data_pipeline.clean.substring_dedup import SubstringDedup
from tests.data_pipeline.across import documents, left_of, verdicts_of, write_keys

EXACT = ExactDedup(sources=("web",), max_removed_frac=0.9)
TEXTS = st.lists(st.text(st.sampled_from("ab é\n."), max_size=8), min_size=1, max_size=8)


def lines(part="line", **fields):
    return LineDedup(
        sources=("web",),
        part=part,
        **{"max_documents": 1, "min_words": 1, "max_removed_frac": 1.0, **fields},
    )


def test_the_first_of_equal_documents_stays_whatever_their_case_and_punctuation(tmp_path):
    texts = ["One text,\nhere.", "another", "one  TEXT here", "another", "…", "", "!", ""]
    assert left_of(EXACT, texts, tmp_path) == [
        "One text,\nhere.",
        "another",
        None,
        None,
        "…",
        "",
        "!",
        "",
    ]


@settings(max_examples=10)
@given(TEXTS)
def test_exactly_one_of_each_set_of_equal_documents_stays(tmp_path_factory, texts):
    left = left_of(
        EXACT.model_copy(update={"max_removed_frac": 1.0}), texts, tmp_path_factory.mktemp("keys")
    )
    words = canonical(texts).joined()
    assert [text is None for text in left] == [
        bool(w) and w in words[:i] for i, w in enumerate(words)
    ]


def test_clusters_are_kept_with_their_sizes(tmp_path):
    found = verdicts_of(EXACT, ["a", "b", "A", "c", "a."], tmp_path)
    assert {name: values.tolist() for name, values in found.items()} == {
        "document": [0, 2, 4],
        "cluster": [0] * 3,
        "size": [3] * 3,
    }


def test_the_same_verdicts_for_any_number_of_files(tmp_path):
    texts = ["a b", "c\nd", "d", "A b", "c d", "d"] * 3
    for rule in (EXACT, lines()):
        found = []
        for n_files in (1, 2, 5):
            folder = tmp_path / f"{rule.REASON}-{n_files}"
            rule.resolve(write_keys(rule, texts, folder, n_files), folder / "out.parquet")
            found.append((folder / "out.parquet").read_bytes())
        assert len(set(found)) == 1


@pytest.mark.parametrize(
    "rule", [EXACT, lines(), SubstringDedup(sources=("web",), min_bytes=5, max_removed_frac=0.5)]
)
def test_rules_across_documents_keep_their_contract(rule):
    given_documents = documents("some words", "")
    kept, signals = rule.annotate(given_documents)
    assert isinstance(rule, AcrossRule) and kept == given_documents and rule.limits() == ()
    assert all(len(values) == 2 for values in signals.values())
    assert type(rule).model_validate_json(rule.model_dump_json()) == rule and hash(rule)


@pytest.mark.parametrize(
    "rule",
    [
        EXACT,
        lines(max_removed_frac=0.5),
        SubstringDedup(sources=("web",), min_bytes=5, max_removed_frac=0.5),
    ],
)
def test_removing_more_than_allowed_is_one_sentence_and_writes_nothing(rule, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"would remove \d+ of \d+ .* of web, more than max_removed_frac=0\.\d; look at the source .*",
    ):
        verdicts_of(rule, ["the same words"] * 20, tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_line_in_too_many_documents_stays_in_the_first_alone(tmp_path):
    texts = ["Home | About\nOne.\nOne.\n", "HOME about!\nTwo.", "One.\nHome, about", "}\nrest"]
    assert left_of(lines(), texts, tmp_path / "1") == [
        "Home | About\nOne.\nOne.\n",
        "Two.",
        "",
        "}\nrest",
    ]
    assert left_of(lines(max_documents=2), texts, tmp_path / "2") == [
        texts[0],
        "Two.",
        "One.\n",
        texts[3],
    ]
    assert left_of(lines(max_documents=3), texts, tmp_path / "3") == texts
    assert left_of(lines(min_words=2), texts, tmp_path / "4") == [
        texts[0],
        "Two.",
        "One.\n",
        texts[3],
    ]


def test_paragraphs_and_spans_of_three_sentences_are_cut_whole(tmp_path):
    notice = "All rights\nreserved.\n\n"
    assert (
        left_of(
            lines("paragraph"), [f"{notice}One.", f"Two.\n\n{notice}All rights"], tmp_path / "1"
        )[1]
        == "Two.\n\nAll rights"
    )
    texts = ["Zero. One. Two. Three. Four.", "Ha! One. Two. Three. Ho!", "One. Two. Four."]
    assert left_of(lines("3_sentences"), texts, tmp_path / "2") == [texts[0], "Ha! Ho!", texts[2]]


@settings(max_examples=10)
@given(TEXTS)
def test_after_cutting_lines_no_two_documents_share_one(tmp_path_factory, texts):
    left = left_of(lines(), texts, tmp_path_factory.mktemp("keys"))
    words = [{w for w in canonical(text.split("\n")).joined() if w} for text in left]
    before = [{w for w in canonical(text.split("\n")).joined() if w} for text in texts]
    assert all(not (a & b) for i, a in enumerate(words) for b in words[:i])
    assert set().union(*words) == set().union(*before)


def naive_repeats(texts, n_bytes):
    """Characters to cut, (text, character), by comparing every stretch of `n_bytes` with every earlier
    one.
    """
    places = [(i, k) for i, text in enumerate(texts) for k in range(len(text))]
    offset = [
        sum(len(text.encode()) + 1 for text in texts[:i]) + len(texts[i][:k].encode())
        for i, k in places
    ]
    stretches = [texts[i][k:].encode()[:n_bytes] for i, k in places]
    cut = set()
    for (i, k), begin, stretch in zip(places, offset, stretches, strict=True):
        first = offset[stretches.index(stretch)]
        if len(stretch) == n_bytes and first + n_bytes <= begin:
            whole = len(stretch.decode(errors="ignore"))
            cut |= {(i, k + j) for j in range(whole)}
    return cut


@settings(max_examples=40)
@given(st.lists(st.text(st.sampled_from("abé"), max_size=14), min_size=1, max_size=4))
def test_substrings_are_cut_exactly_where_they_stood_before(tmp_path_factory, texts):
    rule = SubstringDedup(sources=("web",), min_bytes=4, max_removed_frac=1.0)
    cut = naive_repeats(texts, 4)
    expected = [
        without(text, [(k, k + 1) for k in range(len(text)) if (i, k) in cut])
        for i, text in enumerate(texts)
    ]
    assert left_of(rule, texts, tmp_path_factory.mktemp("keys")) == expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("def f(a, b):\n    return a + b\n", "def f(a, b):\n    return a - b\n", False),
        ("x = a[1]\ny = b\n", "x = a(1)\ny = b\n", False),
        ("def f(a):\n\treturn a\n", "def f(a):\n    return a\n\n", True),
        ("Мой дом", "Мои дом", False),
        ("ёлка", "елка", True),
        ("कि", "कु", False),
        ("กัน", "กิน", False),
        ("Well-known text.", "well known TEXT", True),
        ("café", "cafe", True),
    ],
)
def test_operators_of_code_and_letters_of_all_scripts_tell_texts_apart(one, other, same):
    first, second = text_keys([one, other])
    assert bool(first == second) is same
