"""Code blocks in the text of pages: told by their form, neither cut nor measured."""

import numpy as np
import pytest

from data_pipeline.clean.c4 import C4Lines, C4Page
from data_pipeline.clean.code_blocks import code_lines
from data_pipeline.clean.fineweb import FineWeb
from data_pipeline.clean.line_cuts import without_code
from data_pipeline.clean.quality import GopherQuality
from data_pipeline.clean.repetition import GopherRepetition
from data_pipeline.clean.words import Layout
from tests.data_pipeline.texts import ENGLISH, REAL, document, verdict

PYTHON = """def fold(paper, times):
    \"\"\"Fold it as often as said.\"\"\"
    for _ in range(times):
        paper = paper[0]

    if not paper:
        raise ValueError
    else:
        return paper"""
SHELL = """$ ls -l
total 12
drwxr-xr-x 2 root root 4096 Nov 30 10:00 bin
$ make
done"""
SETTINGS = """[server]
port = 8080
name = example

[log]
level = info"""
MARKUP = """<ul>
  <li>One</li>
  <li>Two</li>
</ul>"""
C = """int main(void)
{
    int a[] = {1, 2};
    return a[0];
}"""
SQL = """SELECT name, price
FROM fruit
WHERE price < 3
ORDER BY name;"""
MAKEFILE = """all: x.o
\tcc -o x x.o

clean:
\trm -f x"""
CODE = {
    "python": PYTHON,
    "shell": SHELL,
    "settings": SETTINGS,
    "markup": MARKUP,
    "c": C,
    "sql": SQL,
    "makefile": MAKEFILE,
}
LISTS = {
    "ingredients": "200 g flour\n1 egg\n2 spoons of sugar\na pinch of salt",
    "items": "• Mix the flour with water\n• Knead the dough\n• Wait for an hour",
    "verse": "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate:\n"
    "Rough winds do shake the darling buds of May,\nAnd summer's lease hath all too short a date;",
    "talk": "Anna: Are you coming?\nBen: In a minute.\nAnna: We are late (as always).",
    "dates": "1914 The war begins\n1916 The battle of the Somme\n1918 The war ends",
}


@pytest.mark.parametrize("name", CODE)
def test_a_code_block_between_paragraphs_is_seen_whole(name):
    text = f"{ENGLISH}\n{CODE[name]}\n\n{ENGLISH}"
    layout = Layout([text])
    first = ENGLISH.count("\n")
    n_code = sum(bool(line.strip()) for line in CODE[name].split("\n"))
    expected = [False] * first + [True] * n_code + [False] * first
    assert code_lines(layout).tolist() == expected


@pytest.mark.parametrize("text", [*REAL.values(), *LISTS.values()])
def test_prose_lists_and_verse_are_no_code(text):
    assert not code_lines(Layout([text])).any()


def test_code_is_found_in_each_text_alone():
    texts = [ENGLISH, PYTHON, "", SHELL, ENGLISH]
    together = code_lines(Layout(texts))
    assert together.tolist() == np.concatenate([code_lines(Layout([t])) for t in texts]).tolist()


@pytest.mark.parametrize("name", CODE)
def test_c4_cuts_no_line_and_no_index_of_a_code_block(name):
    page = f"{ENGLISH}\n{CODE[name]}\n\n{ENGLISH}"
    rule = C4Lines(sources=("web",), min_line_words=3, skip_code=True)
    assert verdict(rule, f"Home\n\n{page}")[0].strip() == page.strip()
    assert verdict(rule, f"A fact of note.[1]\n\n{C}")[0] == f"A fact of note.\n\n{C}"


def test_rules_measure_the_prose_around_code_alone():
    page = f"{ENGLISH}\n{PYTHON}\n\n{C}\n\n{C}\n\n{C}\n"
    prose = without_code([document(page)], True)[0].text
    assert prose.split() == ENGLISH.split()
    for kind in (GopherQuality, GopherRepetition, FineWeb, C4Page):
        plain, skipping = kind(sources=("web",)), kind(sources=("web",), skip_code=True)
        assert verdict(skipping, page)[1] == verdict(plain, ENGLISH)[1] is None
    assert verdict(C4Page(sources=("web",)), page)[1] == "curly_bracket"


def test_one_bracket_in_a_long_text_is_no_code_and_a_page_of_code_is():
    rule = C4Page(sources=("web",), max_curly_word_ratio=0.01, skip_code=True)
    assert verdict(rule, ENGLISH * 3 + "He wrote {sic} here.\n")[1] is None
    assert verdict(rule, ENGLISH + "Write {a} or {b} for the words of it.\n")[1] == "curly_bracket"
    formulas = r"The mean is $\frac{a}{b}$ of $x_{1}$ and $x^{2}$, or \sqrt{n}." + "\n"
    assert verdict(rule, ENGLISH + formulas)[1] is None
