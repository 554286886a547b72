"""Normalising: the same characters for the same text, and double encoding undone where it happened."""

import ast
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_pipeline.clean.normalise import Normalise, retext
from tests.data_pipeline.texts import ANY, LAW, PLAYED, REAL, document

RULE = Normalise(sources=("web",), repair_mojibake=True)


def normalised(text: str, rule: Normalise = RULE) -> str:
    return rule.annotate([document(text)])[0][0].text


@LAW
@example("Â\x08¡")
@given(
    st.one_of(
        ANY, PLAYED, st.text(st.sampled_from("aÃ©Ð¸€™РСёџ \u0301\r\n\x85\x00\u2028"), max_size=12)
    )
)
def test_normalising_twice_is_normalising_once(text):
    once = normalised(text)
    assert normalised(once) == once and unicodedata.is_normalized("NFC", once)
    assert once == "" or once.endswith("\n") and once.strip() and "\n\n\n\n" not in once
    assert all(line == line.rstrip(" \t\u00a0") for line in once.split("\n"))


def test_characters_are_repaired_and_indentation_stays():
    assert (
        normalised("\ufeffcafe\u0301\r\n  indented\x00 \t\r\n\n\n\n\n\n\tcafÃ© donâ€™t\n\n")
        == "café\n  indented\n\n\n\tcafé don’t\n"
    )


@pytest.mark.parametrize("code", ["cp1252", "latin-1"])
def test_french_read_as_another_encoding_is_repaired(code):
    text = (
        "Le café où l’on s’est déjà rencontré, à l’été.\n"
        if code == "cp1252"
        else "Le café où tu es déjà allé.\n"
    )
    assert normalised(text.encode().decode(code, errors="replace")) == text


def test_russian_read_as_windows_1251_is_repaired():
    text = "Пакет Debian должен подчиняться правилам.\n"
    assert normalised(text.encode().decode("cp1251", errors="ignore")) != normalised("")
    assert normalised("РџСЂРёРІРµС‚, РєР°Рє РґРµР»Р°?\n") == "Привет, как дела?\n"


@pytest.mark.parametrize("language", REAL)
def test_real_text_stays_as_it_is(language):
    assert normalised(REAL[language]) == REAL[language]


def test_mojibake_is_left_alone_where_the_rule_says_so():
    assert normalised("cafÃ©\n", Normalise(sources=("web",), repair_mojibake=False)) == "cafÃ©\n"


def test_a_document_of_nothing_but_blanks_becomes_empty():
    assert normalised(" \x00\n\u200b") == ""


def test_an_id_stays_that_of_the_text_as_read():
    read = document("a \n")
    (kept,), _ = RULE.annotate([read])
    assert kept.text == "a\n" and kept.id == read.id and retext(read, read.text) is read


def test_code_keeps_the_line_ends_that_stand_in_its_strings():
    code = Normalise(sources=("code",), repair_mojibake=False)
    text = 'a = "x\u2028y\x85z\x0c"  \r\nb = 1\r\n'
    assert normalised(text, code) == 'a = "x\u2028y\x85z\x0c"\nb = 1\n'
    assert normalised("x\u2028y\n") == "x\ny\n"


CODE_RULE = Normalise(sources=("code",), repair_mojibake=False)
# What strings of code may hold: line ends and separators of prose, joiners, marks apart from their letters,
# control characters, tabs.
IN_STRINGS = st.text(
    st.one_of(
        st.sampled_from(
            "\u2028\u2029\x85\x0b\x0c\x1b\x1c\x1f\x7f\t\u00a0\u200b\u200c\u200d\u2060\ufeff\u0301йकि가가"
        ),
        st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0\\\"'{}"),
    ),
    max_size=12,
)


@LAW
@given(IN_STRINGS, st.sampled_from(("\n", "\r\n", "\r")), st.sampled_from(("", "\ufeff")))
def test_python_means_the_same_after_normalising(inside, line_end, mark):
    lines = [
        "def f(x):   ",
        f'\ts = "{inside}"\t ',
        "\x0c",
        "\tt = b'x' + \\",
        "\t\tx",
        "",
        "\treturn s",
    ]
    text = line_end.join(lines)
    after = normalised(mark + text, CODE_RULE)
    assert ast.dump(ast.parse(after)) == ast.dump(ast.parse(text))
    assert normalised(after, CODE_RULE) == after and "\r" not in after


@LAW
@given(st.one_of(ANY, st.text(st.sampled_from("a\\ \t\ufeff\0\r\n\u200b"), max_size=12)))
def test_normalising_code_twice_is_normalising_it_once(text):
    once = normalised(text, CODE_RULE)
    assert normalised(once, CODE_RULE) == once


def test_a_space_behind_a_backslash_keeps_the_next_line_apart():
    assert normalised("echo a\\  \necho b \\\n  c  \n", CODE_RULE) == "echo a\\ \necho b \\\n  c\n"
