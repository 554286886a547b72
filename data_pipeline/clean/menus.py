"""Menus told by their form on a single page: trails, bars of links, languages to choose from, links to the
pages before and after.
"""

import re
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from pydantic import BaseModel

from data_pipeline.clean import menu_words
from data_pipeline.clean.code_blocks import code_lines, listing_lines, paragraphs_of
from data_pipeline.clean.line_cuts import cut_lines
from data_pipeline.clean.menu_words import entries, plain
from data_pipeline.clean.rule import Limit, Signals
from data_pipeline.clean.words import Layout
from data_pipeline.documents.document import Document

BACK, ON = entries(menu_words.BACK), entries(menu_words.ON)
BACK_OR_ON = BACK | ON
TURNS = BACK_OR_ON | entries(menu_words.AROUND)
FIRST_WORDS = frozenset(label.split()[0] for label in TURNS)
LABELS = TURNS | entries(menu_words.LABELS)
OWN_NAMES = entries(menu_words.OWN_NAMES)
LANGUAGE_NAMES = OWN_NAMES | entries(menu_words.ENGLISH_NAMES)
LANGUAGE_CODES = entries(menu_words.LANGUAGE_CODES)
# "Português (Brasil)": the part in brackets names the country.
COUNTRY = re.compile(r"\s*[(（].*[)）]\s*$")
# What parts the items of a trail (Home » Docs » Page) and of a bar (Home | News | About).
TRAIL = re.compile(r"\s+[»›❯▸]\s+|(?<=\w)»(?=\w)")
# A step of instructions has these as well ("File > Open"): they are a trail at the edges alone.
EDGE_TRAIL = re.compile(r"\s+(?:>|→|/|::)\s+")
BAR = re.compile(r"\s*[|·•¦│]\s*|\s{3,}|\]\s*\[")
NOT_A_TRAIL = re.compile(r"[«=;{}]|[.?!。！？]$")
# GNU Texinfo's line: "Next: Files, Previous: Names, Up: Top [Contents][Index]".
LABELLED = re.compile(r"^\W*([^:：,|]{1,24})\s*[:：]\s*\S")
ARROW = re.compile(r"^[«‹←⇐◀◄]\s*\S.{0,120}$|^.{0,120}\S\s*[»›→⇒▶►]$")
END = re.compile(r"[.?!。！？…:;,：；，]\W*$")
FULL_STOP = re.compile(r"[.。…:;,：；，]\W*$")
BULLETS = "•◦▪*-–—"
MAX_ITEM_WORDS = 6
MAX_ITEM_CHARS = 60
MIN_LANGUAGES = 3  # of one word each; two may be an example
MIN_NAME_FRAC = 0.6  # of a line's words: two words of "Tiếng Việt" are one name
MAX_TURN_CHARS = 200
MAX_MENU_WORDS = 5  # of a line in a list of links
MIN_MENU_LINES = 4
MIN_LABEL_FRAC = 0.4  # of a list's lines that are labels, from which the others are links too
MAX_LABEL_WORDS = 4
MAX_TITLE_CHARS = 120
# Lines at the top and at the bottom in which a label alone is a menu: elsewhere it may be a heading.
N_EDGE_LINES = 12
N_HEAD_LINES = 4  # of which DocBook's tables above and below a page are
# "1.2. Files 1.4. Names", "Chapter 2. Files Chapter 4. Names": a number after a title.
TITLE_ROW = re.compile(r"\S.* (?:(?:\d+|[A-Z])(?:\.\d+)+\.?|[^\W\d_]+ (?:\d+|[A-Z]|[IVX]+)\.)\s+\S")


class Menus(BaseModel, frozen=True, extra="forbid", strict=True):
    """Cuts menus that extraction left in a page: trails, bars and lists of links, lists of languages, links
    to the pages before and after with their titles.

    What several pages of one site have alike is `SiteMenus`'s matter. Lines of code blocks stay.

    Attributes:
        sources: The sources it applies to: web pages.
    """

    VERSION: ClassVar[int] = 2
    LATE: ClassVar[frozenset[str]] = frozenset()
    EDITS: ClassVar[bool] = True
    sources: tuple[str, ...]

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """How many lines were cut for each form (of several, the first)."""
        return cut_lines(documents, menu_lines)

    def limits(self) -> tuple[Limit, ...]:
        """None: a page is dropped when nothing is left of it."""
        return ()


def menu_lines(layout: Layout, documents: list[Document]) -> dict[str, np.ndarray]:
    """Reason → bool [lines], which of `layout.lines` are menus of that form."""
    lines = layout.lines
    trails, languages, turns, links = (np.zeros(len(lines.first), bool) for _ in range(4))
    bounds = layout.line_bounds
    for number, document in enumerate(documents):
        own = slice(bounds[number], bounds[number + 1])
        numbers = lines.number[own]
        parts = document.text.split("\n")
        texts = [parts[line].strip() for line in numbers]
        trails[own] = [
            is_trail(text) or (at_edge(line, len(texts)) and is_bar(text))
            for line, text in enumerate(texts)
        ]
        languages[own] = language_lines(texts)
        turns[own] = turn_lines(texts)
        links[own] = link_lines(texts, numbers)
    # A menu of one line may have the signs of code (`[ Next ]`), a listing the words of a menu (`next`).
    paragraph = paragraphs_of(layout)
    is_alone = np.bincount(paragraph, minlength=1)[paragraph] == 1
    may_go = ~code_lines(layout) | is_alone
    return {
        "language_menu_lines": languages & may_go,
        "page_turn_lines": turns & may_go,
        "trail_lines": trails & may_go,
        # Labels in a row are as good as a listing of commands.
        "link_list_lines": links & (~listing_lines(layout) | is_alone),
    }


def at_edge(line: int, n_lines: int) -> bool:
    """Whether a line is among the first or the last."""
    return line < N_EDGE_LINES or line >= n_lines - N_EDGE_LINES


def is_trail(text: str) -> bool:
    """Whether a line is the way from a site's first page to this one, two pages at least."""
    if len(text) > MAX_TURN_CHARS or not TRAIL.search(text) or NOT_A_TRAIL.search(text):
        return False
    return len(items(TRAIL.split(text))) > 1


def is_bar(text: str) -> bool:
    """Whether a line is a bar of at least three links, or a trail with signs that others use too."""
    # A row of a table begins with a bar, an item of a list with a bullet.
    if len(text) > 2 * MAX_TURN_CHARS or NOT_A_TRAIL.search(text):
        return False
    if text.startswith(("|", *BULLETS)):
        return False
    if len(items(EDGE_TRAIL.split(text))) > 2:
        return True
    # A row of a table has numbers between its bars: the items of a menu begin with letters.
    bar = items(BAR.split(text))
    return len(bar) > 2 and all(item.lstrip("[(")[:1].isalpha() for item in bar)


def items(pieces: Iterable[str]) -> list[str]:
    """The items of a menu; none where one of them is too long for a link."""
    # The sign that parts the items may also stand before the first or after the last.
    found = [piece.strip() for piece in pieces if piece.strip()]
    short = all(
        len(item) <= MAX_ITEM_CHARS and len(item.split()) <= MAX_ITEM_WORDS for item in found
    )
    return found if short else []


def language_lines(texts: list[str]) -> list[bool]:
    """Which lines are lists of languages: several names on one line, or names on lines in a row."""
    named = [is_language(text) for text in texts]
    is_menu = [names_languages(text) for text in texts]
    begin = 0
    for line in range(len(texts) + 1):
        if line < len(texts) and named[line]:
            continue
        if line - begin >= MIN_LANGUAGES:
            is_menu[begin:line] = [True] * (line - begin)
        begin = line + 1
    return is_menu


def is_language(text: str) -> bool:
    """Whether a line is the name or code of a language, perhaps with its country."""
    if len(text) > MAX_ITEM_CHARS:
        return False
    label = plain(COUNTRY.sub("", text))
    return label in LANGUAGE_NAMES or label in LANGUAGE_CODES


def names_languages(text: str) -> bool:
    """Whether most words of a line are names of languages, by their speakers or many by others."""
    # The shortest three names, with spaces between, and the longest list.
    if not 8 <= len(text) <= 3 * MAX_TURN_CHARS or END.search(text):
        return False
    label, _, named = text.partition(":")
    is_labelled = bool(named) and plain(label) in LABELS
    pieces = re.split(r"[\s,|/·•]+", named if is_labelled else text)
    words = [word for word in map(plain, pieces) if word]
    # "Available languages: en | fr".
    if is_labelled:
        return all(word in LANGUAGE_NAMES or word in LANGUAGE_CODES for word in words)
    # Codes are words of many languages, but not in capitals.
    names = LANGUAGE_NAMES | LANGUAGE_CODES if text.isupper() else LANGUAGE_NAMES
    n_names = sum(word in names for word in words)
    # A line of English names alone may be what a person speaks.
    known = text.isupper() or any(word in OWN_NAMES for word in words)
    return known and n_names >= MIN_LANGUAGES and n_names >= MIN_NAME_FRAC * len(words)


def turn_lines(texts: list[str]) -> list[bool]:
    """Which lines are links to the pages before and after, with the titles of these."""
    is_turn = [turns_pages(text) for text in texts]
    for line in [line for line, turns in enumerate(is_turn) if turns]:
        # A label alone is followed by the title of the page that it leads to; DocBook writes the titles of
        # both on a line below.
        if plain(texts[line]) in TURNS or is_row(texts[line]):
            follows = line + 1 < len(texts) and line > 0
            if follows and is_title(texts[line + 1]) and not is_turn[line + 1]:
                is_turn[line + 1] = near_end(line, len(texts))
    for line in {*range(min(N_HEAD_LINES, len(texts))), *range(len(texts))[-N_HEAD_LINES:]}:
        is_turn[line] |= is_half_row(texts[line])
    if len(texts) > 2:
        is_turn[-1] |= is_title_row(texts[-1])
    # Three lines: the page before, the book's title, the page after.
    for line in range(len(texts) - 2):
        if is_turn[line] and is_turn[line + 2] and is_title(texts[line + 1]):
            is_between = plain(texts[line]) in BACK and plain(texts[line + 2]) in ON
            is_turn[line + 1] |= is_between
    return mark_repeated_title(texts, is_turn)


def is_half_row(text: str) -> bool:
    """Whether a line is DocBook's row on a first or last page: "Chapter 1. Welcome Next"."""
    words = text.split()
    if not 1 < len(words) <= 2 * MAX_ITEM_WORDS or END.search(text):
        return False
    return plain(words[0]) in BACK - {"back"} or plain(words[-1]) in ON - {"continue"}


def is_title_row(text: str) -> bool:
    """Whether a line holds the titles of two sections: "1.2. Files 1.4. Names"."""
    # A title may ask something, and says nothing in a full stop.
    if len(text) > MAX_TURN_CHARS or FULL_STOP.search(text) or text.startswith(tuple(BULLETS)):
        return False
    return TITLE_ROW.match(text) is not None


def mark_repeated_title(texts: list[str], is_turn: list[bool]) -> list[bool]:
    """Marks a title above the same title, as a table of navigation has it, with what is between."""
    for line in range(1, min(N_HEAD_LINES, len(texts))):
        if texts[line] == texts[0] and len(texts[0]) <= MAX_TITLE_CHARS:
            return [True] * line + is_turn[line:]
    return is_turn


def near_end(line: int, n_lines: int) -> bool:
    """Whether a line is among the last: below a label at the top stands the page's own title."""
    return n_lines - line <= N_EDGE_LINES and line > n_lines / 3


def turns_pages(text: str) -> bool:
    """Whether a line leads to the page before or after."""
    if len(text) > MAX_TURN_CHARS:
        return False
    if plain(text) in BACK_OR_ON or is_row(text):
        return True
    words = text.split()
    # DocBook's row: "Prev Part II. Files Next".
    if len(words) > 1 and plain(words[0]) in BACK and plain(words[-1]) in ON:
        return True
    # "Next: Files" is a link; "Next: we boil the water." is a sentence.
    if END.search(text):
        return False
    labelled = LABELLED.match(text)
    if labelled and plain(labelled[1]) in BACK_OR_ON | {"up"}:
        return True
    # Between « and » stands a quotation.
    if ARROW.match(text) and not ("«" in text and "»" in text):
        return len(text.split()) <= 3 * MAX_ITEM_WORDS
    return False


def is_row(text: str) -> bool:
    """Whether a line has two or more words that turn pages, and no other."""
    words = [plain(word) for word in text.split()]
    words = [word for word in words if word]
    # Cheap and true of few lines: the first word begins a label.
    if len(words) < 2 or words[0] not in FIRST_WORDS:
        return False
    pieces = [plain(piece) for piece in re.split(r"\s*[|·•,\[\]()]\s*|\s{2,}", text)]
    pieces = [piece for piece in pieces if piece]
    if len(pieces) > 1 and all(piece in TURNS for piece in pieces):
        return not BACK_OR_ON.isdisjoint(pieces)
    return not BACK_OR_ON.isdisjoint(words) and is_turns(words)


def is_turns(words: list[str]) -> bool:
    """Whether words are labels that turn pages one after another, some of two or three words."""
    # The places that labels from the first word on may end at, in one pass: "back to top" is two labels as
    # well as one, and all ways to read a line of them would be too many.
    ends = {0}
    for start in range(len(words)):
        if start in ends:
            for stop in range(start + 1, min(start + MAX_LABEL_WORDS, len(words)) + 1):
                if " ".join(words[start:stop]) in TURNS:
                    ends.add(stop)
    return len(words) in ends


def link_lines(texts: list[str], numbers: np.ndarray) -> list[bool]:
    """Which lines belong to lists of links: lines in a row of which many are labels, and labels alone at
    the top and bottom.
    """
    is_label = [len(text) <= MAX_ITEM_CHARS and plain(text) in LABELS for text in texts]
    is_link = [label and at_edge(line, len(texts)) for line, label in enumerate(is_label)]
    begin = 0
    for line in range(1, len(texts) + 1):
        if line < len(texts) and numbers[line] == numbers[line - 1] + 1:
            continue
        # Lines without a blank one between them.
        block = range(begin, line)
        n_labels = sum(is_label[each] for each in block)
        short = all(is_short(texts[each]) for each in block)
        is_list = len(block) >= MIN_MENU_LINES and n_labels >= MIN_LABEL_FRAC * len(block)
        if short and is_list:
            is_link[begin:line] = [True] * len(block)
        begin = line
    return is_link


def is_short(text: str) -> bool:
    """Whether a line is short enough for a link and no sentence."""
    return len(text.strip(BULLETS).split()) <= MAX_MENU_WORDS and not END.search(text)


def is_title(text: str) -> bool:
    """Whether a line may be the title of a page."""
    return len(text) <= MAX_TITLE_CHARS and not re.search(r"[.?!。！？]\W*$", text)
