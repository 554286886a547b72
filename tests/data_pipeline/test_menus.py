"""Menus that extraction leaves in pages: by their form on one page, by comparison within a site."""

import pytest

from data_pipeline.clean.menus import Menus, is_turns
from data_pipeline.clean.site_menus import SiteMenus, site_of
from data_pipeline.documents.document import Document, content_id
from tests.data_pipeline.across import left_of
from tests.data_pipeline.texts import ENGLISH, REAL, verdict

RULE = Menus(sources=("web",))
MENUS = {
    "trail": "Python » 3.11 Documentation » The Standard Library » Data Types",
    "trail of paths": "Home / Guides / Installation",
    "trail of arrows": "Start > Products > Chairs",
    "bar": "Home | News | Sports | About us",
    "bar of dots": "Home · Archive · Contact",
    "brackets": "[ Previous ] [ Next ] [ Contents ]",
    "languages on one line": "English Deutsch Français Español 日本語",
    "languages behind a label": "Available Languages: en | fr | pt-br",
    "languages on lines": "English\nDeutsch\nFrançais\nPortuguês (BR)\nРусский\n简体中文",
    "texinfo": "Next: Invoking make, Previous: Overview of make, Up: GNU make [Contents][Index]",
    "docbook": "Prev Part II. First Steps Next",
    "docbook row": "Prev Up Next",
    "german": "Zurück Nach oben Weiter",
    "french": "Précédent Niveau supérieur Suivant",
    "spanish": "Anterior Subir Siguiente",
    "russian": "Пред. Уровень выше След.",
    "japanese": "前のページ 上へ 次のページ",
    "labelled": "Previous: How to install it",
    "arrow": "Next chapter: Files →",
    "angle": "« Older posts",
    "list of links": "Home\nProducts\nAbout us\nContact\nOur history",
}


@pytest.mark.parametrize("name", MENUS)
def test_a_menu_is_cut_at_the_top_and_at_the_bottom(name):
    page = f"The bisect module\n\n{ENGLISH}"
    above, _ = verdict(RULE, f"The bisect module\n\n{MENUS[name]}\n\n{ENGLISH}")
    below, _ = verdict(RULE, f"{page}\n{MENUS[name]}\n")
    assert above.split() == below.split() == page.split()


@pytest.mark.parametrize(
    "text",
    [
        *REAL.values(),
        "Next, we boil the water.\n",
        "Next: we boil the water until it sings.\n",
        "He said « bonjour » and left » quickly.\n",
        "We speak English, German and French at home.\n",
        "| a | b | c |\n| 1 | 2 | 3 |\n",
        "1.5 | 2.5 | 3.5\n",
        "Contents may be hot\n",
        "• Up and down the street\n• Home is where the heart is\n",
        "if a > b > c:\n    return a | b | c\n",
        "Open File > Save. Then close it.\n",
        "A previous topic was the weather\n",
    ],
)
def test_prose_tables_and_code_lose_nothing(text):
    page = f"A title\n\n{ENGLISH}\n{text}\n{ENGLISH}"
    assert verdict(RULE, page)[0] == page


def test_the_titles_behind_previous_and_next_go_with_them():
    page = f"Data types\n\n{ENGLISH}\n"
    menu = "Previous topic\ncalendar, the calendar\n\nNext topic\nheapq, a heap\n"
    assert verdict(RULE, page + menu)[0].split() == page.split()
    docbook = "Prev Up Next\n1.2. Files Home 1.4. Names\n"
    assert verdict(RULE, page + docbook)[0].split() == page.split()


@pytest.mark.parametrize(
    ("above", "below"),
    [
        ("1.3. Data types\nChapter 1. Programs Next\n", "1.2. Files Home 1.4. Names\n"),
        ("1.3. Data types\n上一页 第 1 章 程序 下一页\n", "1.2. 文件 起始页 1.4. 名字\n"),
        ("1.3. Data types\nПред. Глава 1. Языки След.\n", "1.2. Что? Начало 1.4. Имена!\n"),
        ("", "Capitolo 2. I file Capitolo 4. I nomi\n"),
        ("• Anterior\n• O Manual do(a) programador(a)\n• Próxima\n\n", ""),
    ],
)
def test_tables_of_navigation_go_and_the_title_stays_once(above, below):
    page = f"1.3. Data types\n\n{ENGLISH}"
    assert verdict(RULE, f"{above}{page}\n{below}")[0].split() == page.split()


def test_words_that_are_labels_in_many_ways_are_read_in_one_pass():
    # "back to top" is one label, and "back" and "to top" are two: 2^n ways through n of them.
    words = ["back", "to", "top"] * 100
    assert is_turns(words) and not is_turns([*words, "z"])


def test_what_is_cut_is_counted_by_form():
    text = f"{ENGLISH}\n{MENUS['trail']}\n{MENUS['docbook']}\n{MENUS['languages on lines']}\n"
    _, signals = RULE.annotate([Document(content_id(text), text, "web", "p", "g", "en")])
    assert {name: values.tolist() for name, values in signals.items()} == {
        "language_menu_lines": [6],
        "page_turn_lines": [1],
        "trail_lines": [1],
        "link_list_lines": [0],
    }


def page(number: int, menu: str = "") -> str:
    body = f"Page {number} tells what nobody else has told of the number {number} before now."
    return f"{menu}Title {number}\n\n{body}\n\nSee also\n\nThe {number} others.\n"


def test_what_pages_of_a_site_have_alike_goes_from_all_of_them(tmp_path):
    menu, footer = "Acme Widgets\nOur chairs\n", "\nMade by Acme in the year of the widget\n"
    pages = [page(n, menu) + footer for n in range(4)]
    rule = SiteMenus(sources=("web",), max_removed_frac=1.0)
    # "See also" stands inside every page, and stays.
    assert [text.split() for text in left_of(rule, pages, tmp_path / "1")] == [
        page(n).split() for n in range(4)
    ]
    assert left_of(rule, pages[:2], tmp_path / "2") == pages[:2]


def test_a_notice_stays_once_and_code_and_titles_stay(tmp_path):
    notice = "All that is written here may be read aloud by anybody to anybody else at any time.\n"
    code = "\n$ make\n$ make install\n"
    pages = [page(n) + code + notice for n in range(3)]
    left = left_of(SiteMenus(sources=("web",)), pages, tmp_path)
    assert left == [pages[0]] + [page(n) + code for n in (1, 2)]


def test_a_page_of_menus_alone_goes_whole(tmp_path):
    menu = "Acme\nOur chairs\nOur tables\nOur lamps\n"
    pages = [page(n, menu) for n in range(3)] + [menu + "Nothing"]
    left = left_of(SiteMenus(sources=("web",), max_removed_frac=1.0), pages, tmp_path)
    assert left == [page(n) for n in range(3)] + [None]


@pytest.mark.parametrize(
    ("path", "site"),
    [
        ("https://www.Example.org/a/b?c", "example.org"),
        ("http://docs.example.org:80/x", "docs.example.org:80"),
        ("manual/en/index.html", "manual"),
        ("index.html", ""),
    ],
)
def test_a_site_is_a_host_or_the_first_folder(path, site):
    assert site_of(path) == site
