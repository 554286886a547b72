"""Main text of web pages, against pages whose text was written down by hand, and kind by kind."""

import gc
import re
from collections import Counter
from pathlib import Path

import pytest

from data_pipeline.readers.extract import text_of_page
from data_pipeline.readers.page_tree import Element

PAGES = Path(__file__).parents[1] / "data" / "web_pages"
NAMES = sorted(path.stem for path in PAGES.glob("*.html"))
# A letter of Chinese or Japanese counts as a word: no space stands between theirs.
WORD = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]|[^\W\u3040-\u30ff\u4e00-\u9fff]+")
LONG = "A paragraph with enough words to be the main text of this page, of that one may be sure, for it goes on and on."
CODE = 'def f(x):\n    if x:\n\n        return {\n            "a":  1,\n        }\n\treturn None'


def main_text(body: str, *, wrapped: bool = True) -> str:
    """The main text of a page; a wrapped body stands between two paragraphs of an article."""
    if wrapped:
        body = f"<main><article><h1>Bread</h1><p>{LONG}</p>{body}<p>{LONG} The end.</p></article></main>"
    return text_of_page(
        f"<html><head><title>Bread</title></head><body>{body}</body></html>", main=True
    )


def between(body: str) -> str:
    """What becomes of a body between two paragraphs."""
    return main_text(body).partition(LONG)[2].partition(LONG)[0].strip()


def word_f1(text: str, gold: str) -> float:
    """Harmonic mean of the shares of words that agree, each word as often as it stands there."""
    words, gold_words = (Counter(WORD.findall(each.lower())) for each in (text, gold))
    return 2 * (words & gold_words).total() / (words.total() + gold_words.total())


def test_word_f1_on_pages_written_down_by_hand():
    f1 = {
        name: word_f1(
            text_of_page((PAGES / f"{name}.html").read_text(), main=True),
            (PAGES / f"{name}.txt").read_text(),
        )
        for name in NAMES
    }
    assert len(f1) >= 14
    assert sum(f1.values()) / len(f1) >= 0.97, f1
    assert min(f1.values()) >= 0.92, f1


@pytest.mark.parametrize("name", NAMES)
def test_paragraphs_lists_and_code_keep_their_lines(name):
    """Lines of the gold text stand in the output as lines, spaces at their ends apart."""
    text = text_of_page((PAGES / f"{name}.html").read_text(), main=True)
    lines = {line.strip() for line in text.splitlines()}
    gold = [line.strip() for line in (PAGES / f"{name}.txt").read_text().splitlines()]
    assert [line for line in gold if line and line not in lines] == []


LAYOUTS = {
    "main > article": "<main><article>{}</article></main>",
    "body": "{}",
    "one div": "<div>{}</div>",
    "article": "<article>{}</article>",
    "six divs": "<div>" * 6 + "{}" + "</div>" * 6,
    "table layout": "<table><tr><td>{}</td></tr></table>",
    "form": "<form action='x'>{}</form>",
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["ul", "ol"])
def test_a_list_is_kept_however_near_the_top_of_the_tree_it_stands(layout, kind):
    items = "<li>Mix the flour with water.</li><li>Knead the dough for ten minutes.</li>"
    body = f"<h1>Bread</h1><p>{LONG}</p><{kind}>{items}</{kind}><p>{LONG}</p>"
    text = main_text(LAYOUTS[layout].format(body), wrapped=False)
    mark = ("•", "•") if kind == "ul" else ("1.", "2.")
    assert f"{mark[0]} Mix the flour with water.\n" in text
    assert f"{mark[1]} Knead the dough for ten minutes." in text


def test_nested_lists_and_lists_with_links_are_kept():
    text = between(
        "<ul><li>Flour <a href='/w'>of wheat</a><ul><li>fine, for cakes</li></ul></li><li>Water</li></ul>"
    )
    assert text.split("\n") == ["• Flour of wheat", "    • fine, for cakes", "  • Water"]


MENUS = {
    "nav": "<nav><ul><li><a href='/a'>Breads</a></li><li><a href='/b'>Cakes</a></li></ul></nav>",
    "list": "<div><ul><li><a href='/a'>Breads</a></li><li><a href='/b'>Cakes</a></li></ul></div>",
    "row": "<div><a href='/a'>Breads</a> | <a href='/b'>Cakes</a> | <a href='/c'>Pies</a></div>",
    "breadcrumbs": "<p class='breadcrumbs'><a href='/a'>Breads</a> &gt; Rye</p>",
    "languages": "<div class='lang-switcher'><a href='/de'>Breads</a></div>",
    "sidebar": f"<aside><h3>Breads</h3><p>{LONG[:60]}</p></aside>",
    "class": "<div class='siteNav'><div><b>Breads</b></div><a href='/b'>Cakes</a></div>",
    "role": "<div role='navigation'><span>Breads</span></div>",
    "hidden": "<div style='display: none'><p>Breads and more</p></div>",
    "dialog": "<div class='cookie-consent'><p>Breads and cookies are used here.</p></div>",
    "footer": "<footer><p>Breads © 2020</p></footer>",
}


@pytest.mark.parametrize("layout", ["body", "one div", "article", "six divs"])
@pytest.mark.parametrize("menu", MENUS)
def test_menus_are_left_out_wherever_they_stand(layout, menu):
    body = LAYOUTS[layout].format(f"<h1>Loaves</h1><p>{LONG}</p><p>{LONG}</p>")
    for page in (MENUS[menu] + body, body + MENUS[menu]):
        text = main_text(page, wrapped=False)
        assert "Breads" not in text and text.count(LONG) == 2 and "Loaves" in text


@pytest.mark.parametrize(
    "html",
    [
        f"<main><div class='nav-open has-sidebar'><p>{LONG}</p></div></main>",
        f"<div class='related footer'><p>{LONG}</p></div>",
        f"<form><p>{LONG}</p></form>",
        f"<div id='menu'><h1>Bread</h1><p>{LONG}</p></div>",
        f"<header><h1>Bread</h1><p>{LONG}</p></header>",
        f"<article><p>{LONG}</p></article><article><p>{LONG}</p></article>",
        f"<main></main><div><p>{LONG}</p></div>",
    ],
    ids=["state", "named", "form", "menu", "header", "articles", "empty-main"],
)
def test_what_holds_the_text_of_the_page_is_kept_whatever_it_is_called(html):
    assert LONG in main_text(html, wrapped=False)


@pytest.mark.parametrize(
    "html",
    [
        f"<pre>{CODE}</pre>",
        f"<pre><code class='language-python'>{CODE}\n</code></pre>",
        "<pre>" + "".join(f"<span class='line'>{line}\n</span>" for line in CODE.split("\n")) + "</pre>",
        "<pre>" + "<br>".join(CODE.split("\n")) + "</pre>",
        "<pre>" + "".join(f"<div>{line or '<br>'}</div>" for line in CODE.split("\n")) + "</pre>",
        f"<table class='highlighttable'><tr><td class='linenos'><pre>1\n2\n3</pre></td><td><pre>{CODE}</pre></td></tr></table>",
        f"<table><tr><td><pre>1\n2\n3\n4</pre></td><td><pre>{CODE}</pre></td></tr></table>",
        f"<div class='highlight'><button>Copy</button><pre>{CODE}</pre></div>",
        f"<p>Say:</p><ul><li>so:<pre>{CODE}</pre></li></ul>",
        f"<code style='display:block; white-space: pre'>{CODE}</code>",
        f"<code class='block'>{CODE}</code>",
        f"<blockquote><pre>{CODE}</pre></blockquote>",
        f"<dl><dt>f</dt><dd><pre>{CODE}</pre></dd></dl>",
        "<div class='fragment'>" + "".join(f"<div class='line'><span class='lineno'> 1</span>{line}</div>" for line in CODE.split("\n")) + "</div>",
        f"<details><summary>Code</summary><pre>{CODE.replace('    ', '&nbsp;&nbsp;&nbsp;&nbsp;')}</pre></details>",
    ],
    ids=[
        "pre", "pre-code", "spans", "br", "divs", "numbered", "numbered-plain", "button", "list", "style", "code",
        "quote", "definition", "doxygen", "nbsp",
    ],
)  # fmt: skip
def test_a_block_of_code_is_kept_whole(html):
    text = between(html)
    assert CODE in text
    assert not re.search(r"\b1\n2\n3|Copy", text)


def test_code_stands_apart_and_a_word_of_code_does_not():
    text = between(
        f"<p>Run <code>make</code> and read:</p><pre>{CODE}</pre><p>It <kbd>ends</kbd>.</p>"
    )
    assert text == f"Run make and read:\n\n{CODE}\n\nIt ends."
    assert between("<pre>a\tb</pre>") == "a\tb"


FORMULAS = {
    "script": '<p>If <script type="math/tex">x^2 &lt; 1</script> then.</p>',
    "annotation": '<p>If <math><semantics><mrow><msup><mi>x</mi><mn>2</mn></msup><mo>&lt;</mo><mn>1</mn></mrow><annotation encoding="application/x-tex">x^2 &lt; 1</annotation></semantics></math> then.</p>',
    "katex": '<p>If <span class="katex"><span class="katex-mathml"><math><semantics><mi>x</mi><annotation encoding="application/x-tex">x^2 &lt; 1</annotation></semantics></math></span><span class="katex-html" aria-hidden="true">x2&lt;1</span></span> then.</p>',
    "wikipedia": '<p>If <span class="mwe-math-element"><span class="mwe-math-mathml-inline" style="display: none;"><math alttext="{\\displaystyle x^2 &lt; 1}"><mi>x</mi></math></span><img class="mwe-math-fallback-image-inline" alt="{\\displaystyle x^2 &lt; 1}"></span> then.</p>',
    "mathjax-2": '<p>If <span class="MathJax_Preview">x2 &lt; 1</span><span class="MathJax" id="a"><span>x2&lt;1</span><span class="MJX_Assistive_MathML"><math><mi>x</mi></math></span></span><script type="math/tex">x^2 < 1</script> then.</p>',
    "mathjax-3": '<p>If <mjx-container class="MathJax"><mjx-math aria-hidden="true">x</mjx-math><mjx-assistive-mml><math alttext="x^2 &lt; 1"><mi>x</mi></math></mjx-assistive-mml></mjx-container> then.</p>',
    "image": '<p>If <img class="latex" alt="x^2 &lt; 1" src="f.png"> then.</p>',
    "mathml": "<p>If <math><msup><mi>x</mi><mn>2</mn></msup><mo>&lt;</mo><mn>1</mn></math> then.</p>",
}


@pytest.mark.parametrize("form", FORMULAS)
def test_a_formula_is_read_once_as_tex(form):
    text = between(FORMULAS[form]).replace("&lt;", "<").replace(" ", "")
    assert text in ("If$x^2<1$then.", "If$x^{2}<1$then.")


@pytest.mark.parametrize(
    ("mathml", "tex"),
    [
        ("<mfrac><mi>a</mi><mrow><mi>b</mi><mo>+</mo><mn>1</mn></mrow></mfrac>", r"\frac{a}{b+1}"),
        ("<msqrt><mi>a</mi><mi>b</mi></msqrt>", r"\sqrt{ab}"),
        ("<mroot><mi>a</mi><mn>3</mn></mroot>", r"\sqrt[3]{a}"),
        ("<msubsup><mo>∫</mo><mn>0</mn><mi>π</mi></msubsup>", "∫_{0}^{π}"),
        ("<mover><mi>v</mi><mo>→</mo></mover>", r"\vec{v}"),
        ("<mfenced><mi>a</mi><mi>b</mi></mfenced>", "(a,b)"),
        ("<mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>0</mn></mtd></mtr><mtr><mtd><mn>0</mn></mtd><mtd><mn>1</mn></mtd></mtr></mtable>", r"1 & 0 \\ 0 & 1"),
        ("<msup><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><mn>2</mn></msup>", "{a+b}^{2}"),
        ("<msup><mi>a</mi></msup>", "a"),
    ],
)  # fmt: skip
def test_mathml_is_written_as_tex(mathml, tex):
    assert between(f"<p><math>{mathml}</math></p>") == f"${tex}$"
    assert between(f"<p><math display='block'>{mathml}</math></p>") == f"$${tex}$$"


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p><ruby>東京<rp>(</rp><rt>とうきょう</rt><rp>)</rp></ruby>へ</p>", "東京へ"),
        ("<p><ruby><rb>漢</rb><rb>字</rb><rt>かん</rt><rt>じ</rt></ruby></p>", "漢字"),
        ("<figure><img src='a' alt='photo of bread'><figcaption>A loaf.</figcaption></figure>", "A loaf."),
        ("<p>Hi <img class='emoji' alt='🍞'>!</p>", "Hi 🍞!"),
        ("<h2>Rye<a class='anchor' href='#rye'>¶</a></h2><p>Dark.</p>", "Rye\n\nDark."),
        ("<h2>Rye <a href='#rye'>#</a></h2><h3><a href='#x'>Old rye</a></h3>", "Rye\n\nOld rye"),
        ("<dl><dt>Rye</dt><dd>A dark grain.</dd><dt>Oats</dt><dd>For horses.</dd></dl>", "Rye\nA dark grain.\nOats\nFor horses."),
        ("<table><caption>Grains</caption><tr><th>Rye</th><td>dark, and <b>sour</b></td></tr><tr><th>Oats</th><td>pale</td></tr></table>", "Grains\nRye dark, and sour\nOats pale"),
        ("<table><tr><td><p>A cell of prose.</p><p>And more of it.</p></td></tr></table>", "A cell of prose.\n\nAnd more of it."),
        ("<p>Light goes 3·10<sup>8</sup> m, 5 m<sup>2</sup>, the 4<sup>th</sup>.</p>", "Light goes 3·10^8 m, 5 m^2, the 4th."),
        ("<p>So they say.<sup><a href='#n1'>[1]</a></sup></p>", "So they say."),
        ("<p>She said <q>bread</q> on <time>Monday</time>.</p>", "She said “bread” on Monday."),
        ("<h3><button aria-expanded='false'>What is rye?</button></h3><div>A grain.</div>", "What is rye?\n\nA grain."),
        ("<h2>Rye <button>Copy link</button></h2><p>Dark.</p>", "Rye\n\nDark."),
        ("<div class='alert' role='alert'>Mind the crust.</div>", "Mind the crust."),
        ("<aside class='note'><p>Mind the crust.</p></aside>", "Mind the crust."),
        ("<blockquote><p>Bread is life.</p><footer>A baker</footer></blockquote>", "Bread is life.\n\nA baker"),
        ("<details><summary>More</summary><p>Of it.</p></details>", "More\n\nOf it."),
        ("<h2>You may also like</h2><ul><li><a href='/a'>Cake</a></li></ul>", ""),
        ("<h2>Contents</h2><ul><li><a href='#a'>A</a></li><li><a href='#b'>B</a></li><li><a href='#c'>C</a></li></ul>", ""),
        ("<h2>Read more</h2><p>Of what the bakers of the town wrote down in those years, one letter survives.</p>", "Read more\n\nOf what the bakers of the town wrote down in those years, one letter survives."),
        ("<p>It is <a href='/a'>dark_and_sour</a>, <a href='/b'>pale_and_mild</a> or <a href='/c'>sweet_and_heavy</a>, as the baker likes it.</p>", "It is dark_and_sour, pale_and_mild or sweet_and_heavy, as the baker likes it."),
        ("<ul><li>Grains: those of which bread is made<ul><li><a href='/a'>Rye</a></li><li><a href='/b'>Oats</a></li></ul></li></ul>", "• Grains: those of which bread is made\n    • Rye\n    • Oats"),
        ("<table><tr><th>Rye</th><td><a href='/a'>dark</a>, <a href='/b'>sour</a></td></tr><tr><th>Oats, for horses</th><td>pale</td></tr></table>", "Rye dark, sour\nOats, for horses pale"),
        ("<p>Copyright law lasts for seventy years.</p>", "Copyright law lasts for seventy years."),
        ("<h2><span class='mw-headline' id='Social_history'>Social history</span></h2><p>Of rye.</p>", "Social history\n\nOf rye."),
        ("<section id='related-grains'><h2>Related grains</h2><p>" + "Spelt is older than wheat. " * 12 + "</p></section>", "Related grains\n\n" + ("Spelt is older than wheat. " * 12).strip()),
        ("<div class='author'><h2>Ann Mill</h2><p>Keeps the wheel.</p></div>", "Ann Mill\n\nKeeps the wheel."),
        ("<div><p>Rye is dark.</p><a href='/r'>Read more</a></div>", "Rye is dark."),
        ("<div>Rye is dark. <a href='/r'>Next</a> comes wheat.</div>", "Rye is dark. Next comes wheat."),
        ("<p>He <span class='author'>Knuth</span> wrote <a class='related' href='/x'>a related page</a> too.</p>", "He Knuth wrote a related page too."),
        ("<section id='ads'><h2>Ads in papers</h2><p>Short.</p></section>", "Ads in papers\n\nShort."),
        ("<p>Sources:</p><ul><li><a href='/a'>A long history of bread</a></li></ul>", "Sources:\n\n  • A long history of bread"),
        ("<p>Line one<br>line two</p>", "Line one\nline two"),
    ],
)  # fmt: skip
def test_parts_of_a_page_are_read_as_they_are_meant(html, text):
    assert between(html) == text


@pytest.mark.parametrize(
    ("title", "is_kept"), [("Rye", True), ("Rye - Grains", True), ("Oats - Rye", False)]
)
def test_the_heading_before_marked_content_is_kept_unless_it_is_the_sites_name(title, is_kept):
    body = f"<header><h1>Rye</h1></header><main><h2>Of grain</h2><p>{LONG}</p></main>"
    page = f"<html><head><title>{title}</title></head><body>{body}</body></html>"
    assert text_of_page(page, main=True).startswith("Rye\n\nOf grain" if is_kept else "Of grain")


def test_all_text_keeps_menus_and_whole_code():
    page = f"<nav><a href='/'>Home</a></nav><p>{LONG}</p><pre>{CODE}</pre><img alt='a loaf'><footer>Small print</footer>"
    text = text_of_page(f"<html><body>{page}</body></html>", main=False, alt_texts=True)
    for wanted in ("Home", LONG, CODE, "a loaf", "Small print"):
        assert wanted in text


@pytest.mark.parametrize(
    "page",
    [
        "",
        "\ufdd00\ufdd1",
        "<frameset></frameset>",
        "<p>",
        "<pre>\ufdd07\ufdd1</pre>",
        "<a><a><table><a>x",
    ],
)
def test_odd_pages_are_read_without_error(page):
    for main in (True, False):
        assert "\ufdd0" not in text_of_page(page, main=main)


def test_nothing_of_a_page_is_left_to_the_collector_of_garbage():
    gc.collect()
    gc.disable()
    try:
        assert between("<div><p>A</p><nav><a href=/>B</a></nav></div><h2>C</h2>")
        assert not [each for each in gc.get_objects() if isinstance(each, Element)]
    finally:
        gc.enable()
