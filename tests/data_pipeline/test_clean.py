"""Cleaning rules: each keeps what its source's formula keeps, names what it drops, and leaves other sources alone."""

import ast
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.clean.dedup import ExactDedup
from data_pipeline.clean.language import Language
from data_pipeline.clean.normalise import Normalise
from data_pipeline.clean.quality import CodeQuality, GopherQuality, TooShort, WebLines
from data_pipeline.clean.recipe import run_recipe, standard_recipe
from data_pipeline.document import Document, content_id
from data_pipeline.drops import Drops

PROSE = """The bisect module keeps a list in sorted order without having to sort the list after each insertion.
For long lists of items with expensive comparison operations, this can be an improvement over the more common approach.
The module is called bisect because it uses a basic bisection algorithm to do its work, and the source code may be most
useful as a working example of the algorithm that you have read about in a book.
"""


def document(text: str, source: str = "web", path: str = "p", group: str = "g") -> Document:
    return Document(content_id(text), text, source, path, group)


def clean(rule, *texts: str, source: str = "web"):
    drops = Drops()
    kept = list(run_recipe((rule,), [document(text, source, f"p{i}") for i, text in enumerate(texts)], drops))
    return [d.text for d in kept], dict(drops.counts.get(source, {}))


NORMALISE = Normalise(sources=("web",), repair_mojibake=True)


@given(st.text(max_size=60))
def test_normalising_twice_is_normalising_once(text):
    once = clean(NORMALISE, text)[0]
    assert not once or clean(NORMALISE, once[0])[0] == once
    assert not once or unicodedata.is_normalized("NFC", once[0])


def test_normalise_repairs_characters_and_keeps_indentation():
    texts, _ = clean(NORMALISE, "\ufeffcafe\u0301\r\n  indented\x00 \t\r\n\n\n\n\n\n\tcafÃ© donâ€™t\n\n")
    assert texts == ["café\n  indented\n\n\n\tcafé don’t\n"]


def test_mojibake_is_left_alone_where_the_rule_says_so():
    assert clean(Normalise(sources=("web",), repair_mojibake=False), "cafÃ©\n")[0] == ["cafÃ©\n"]


def test_a_document_that_normalises_to_nothing_is_dropped_as_empty():
    assert clean(NORMALISE, " \x00\n\u200b") == ([], {"empty": 1})


def test_an_id_follows_the_text():
    kept = next(run_recipe((NORMALISE,), [document("a \n")], Drops()))
    assert kept.text == "a\n" and kept.id == content_id("a\n")


def test_language_keeps_english_and_drops_the_rest_with_its_name():
    german = "Das Modul hält eine Liste in sortierter Reihenfolge, ohne dass sie nach jedem Einfügen neu sortiert werden muss.\n" * 3
    rule = Language(sources=("web",), language="en", min_probability=0.65, first_chars=800)
    drops = Drops()
    kept = list(run_recipe((rule,), [document(PROSE), document(german)], drops))
    assert [d.text for d in kept] == [PROSE] and drops.counts["web"]["language"] == 1
    assert drops.examples["language"][0].startswith("de ")


def test_an_unknown_language_is_one_clear_error():
    with pytest.raises(ValueError, match="language='klingon' is none that py3langid knows; give an ISO 639-1 code"):
        clean(Language(sources=("web",), language="klingon", min_probability=0.5, first_chars=800), PROSE)


GOPHER = next(rule for rule in standard_recipe() if isinstance(rule, GopherQuality))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE, None),
        ("- " + PROSE.replace("\n", "\n- ").removesuffix("- "), "bullets"),
        (PROSE.replace(".\n", "...\n").replace("an\n", "an...\n").replace("most\n", "most…\n"), "ellipses"),
        (PROSE.replace(" of ", " # of # ").replace(" the ", " the # "), "symbols"),
        (" ".join(f"{word} = 1234" for word in PROSE.split()), "alphabetic"),
        (" ".join("incomprehensibilities" for _ in range(60)), "word_length"),
        ("go up so we do if no us am is it he by an at " * 8, "word_length"),
        ("apple banana cherry orange melon grape lemon peach " * 8, "stop_words"),
    ],
)
def test_gopher_names_the_first_limit_a_page_breaks(text, reason):
    assert GOPHER.first_broken(text) == reason


def test_web_lines_cuts_notices_and_marks_but_not_long_prose():
    long_prose = "This module documents how a server announces its privacy policy. " * 8
    texts, counts = clean(
        WebLines(sources=("web",)), f"A fact.[1] Another.[edit]\nWe use cookies to serve you.\n{long_prose}\n{'x' * 1001}\nEnd."
    )
    assert texts == [f"A fact. Another.\n{long_prose}\nEnd."] and counts == {"policy_lines": 2}
    assert clean(WebLines(sources=("web",)), "Lorem ipsum dolor sit amet.")[1] == {"lorem_ipsum": 1}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def f(x):\n    return x + 1\n", None),
        ("x = '" + "a" * 1000 + "'\n" + "y = 1\n" * 99, "code_long_line"),
        (("x = '" + "a" * 120 + "'\n") * 9, "code_mean_line"),
        ("# ---------------------\n" * 9 + "x = 1\n", "code_alphanumeric"),
    ],
)
def test_code_is_dropped_for_lines_and_symbols_as_in_starcoder(text, reason):
    rule = CodeQuality(sources=("code",), max_line_chars=1_000, max_mean_line_chars=100.0, min_alphanumeric_frac=0.25)
    assert clean(rule, text, source="code") == (([text], {}) if reason is None else ([], {reason: 1}))


def test_of_equal_documents_the_first_stays_whatever_case_and_spacing():
    texts, counts = clean(ExactDedup(sources=("web",)), "One text,\nhere.", "another", "one  TEXT here", "another")
    assert texts == ["One text,\nhere.", "another"] and counts == {"exact_duplicate": 2}


def test_a_rule_leaves_other_sources_alone():
    assert clean(TooShort(sources=("web",), min_words=9), "too short", source="books") == (["too short"], {})
    assert clean(TooShort(sources=("web",), min_words=9), "too short", source="web") == ([], {"too_short": 1})


def test_drops_keep_three_short_examples_a_reason():
    drops = Drops()
    for n in range(5):
        drops.add("web", "junk", f"text {n}\n" * 100)
    table = drops.as_json()
    assert table["dropped"] == {"web": {"junk": 5}}
    assert len(table["examples"]["junk"]) == 3 and all(len(text) <= 200 and "\n" not in text for text in table["examples"]["junk"])


def test_code_is_still_code_after_the_standard_recipe():
    code = 'def f(x):\r\n\t"""Double it."""\r\n\tif x:   \r\n\t\treturn 2 * x\r\n\treturn f(1) + 0  # the least it can be\r\n'
    kept = list(run_recipe(standard_recipe(), [document(code, "code", "f.py")], Drops()))
    assert ast.dump(ast.parse(kept[0].text)) == ast.dump(ast.parse(code))


def test_the_standard_recipe_keeps_prose_and_counts_every_drop():
    drops = Drops()
    documents = [document(PROSE, source, f"{source}{i}") for source in ("web", "books") for i in range(2)] + [document("x = 1", "code")]
    kept = list(run_recipe(standard_recipe(), documents, drops))
    assert [d.source for d in kept] == ["web"]
    assert {source: dict(counts) for source, counts in drops.counts.items()} == {
        "web": {"exact_duplicate": 1},
        "books": {"exact_duplicate": 2},
        "code": {"too_short": 1},
    }
