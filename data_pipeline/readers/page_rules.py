"""Which elements of a page are no main text: menus, banners, link lists, and what else surrounds it."""

from itertools import islice

from data_pipeline.readers.page_tree import HEADINGS, Element, hyphened, is_inside
from data_pipeline.readers.page_words import (
    ABOUT,
    COPYRIGHT,
    LINKED,
    MARKS,
    NOTE,
    OPERATING,
    PERMALINK,
    RELATED,
    ROLES,
    STATES,
    SURROUNDING_PHRASES,
    SURROUNDINGS,
)

# An element that holds more of the page's unlinked text than this is its main text, whatever it is called.
MAIN_FRAC = 0.5
# Of which a menu may be made.
LISTS = frozenset("ul ol menu dir dl table".split())
# By these a page's designer groups things; prose itself stands in other elements.
GROUPS = frozenset(
    "div section nav header footer aside form ul ol menu dl table address center fieldset details "
    "figure article p time td".split()
)
ABOUT_CHARS = 120
FIRST_ELEMENTS = 30  # among which a group's heading stands; each level of nesting looks for it anew
SECTION_CHARS = 200
SECTION_LINK_FRAC = 0.3
# A list of which so much is links is one of links; in a row of them signs stand between.
LINK_LIST_FRAC = 0.6
LINK_ROW_FRAC = 0.5
SIGNS_CHARS = 12
SIGNS_CHARS_PER_LINK = 4
# A link or a mark in one of these is part of its text.
SENTENCES = frozenset("p li td dd figcaption blockquote em strong i b".split())
# Text stands in them only by way of other elements.
BOXES = frozenset("body main article section div header footer center".split())
# A link after one of these begins a line, or is one of a row.
APART = HEADINGS | frozenset(
    "a button p div ul ol dl table pre blockquote figure hr br img".split()
)
CELL_LINES = frozenset("br div p li".split())
# After these a list of links goes on with what they tell.
LEADING = HEADINGS | frozenset("p ul ol dl pre blockquote".split())
# A form is a group of controls; what holds more text than this was only wrapped in one.
FORM_CHARS = 200


def is_surrounding(element: Element, *, n_page: int, is_marked: bool) -> bool:
    """Whether an element is around the main text by its tag, role or names.

    Args:
        element: A seen one.
        n_page: Unlinked characters of the page.
        is_marked: Whether it stands in what the page itself marks as main.
    """
    tag = element.tag
    if tag in HEADINGS or element.n_own > MAIN_FRAC * n_page:
        return False
    if tag == "nav" or element.attributes.get("role") in ROLES:
        return True
    if tag == "aside":
        role = element.attributes.get("role", "")
        is_note = role.startswith(("doc-", "note")) or bool(NOTE.search(element.names))
        return not (is_marked and is_note)
    if tag == "form":
        return element.n_own < FORM_CHARS
    if tag == "footer":
        # A quotation's source is a footer too.
        return not is_inside(element, "blockquote") and not element.names.startswith("blockquote")
    if tag == "header" and not is_marked and not is_inside(element, "article"):
        return not any(child.tag == "h1" for child in element.walk())
    return bool(element.names) and is_named_surrounding(element, is_marked=is_marked)


def is_named_surrounding(element: Element, *, is_marked: bool) -> bool:
    """The same by class and id alone."""
    classes = hyphened(element.attributes.get("class", ""))
    if element.tag not in GROUPS:
        # The id of a heading's mark repeats its words: `<span id="Social_history">`. A word of a sentence
        # goes only if it is a mark.
        kinds = kinds_of(classes)
        in_text = element.parent is not None and element.parent.tag in SENTENCES
        return not kinds.isdisjoint(MARKS if in_text else SURROUNDINGS)
    kinds = kinds_of(element.names)
    # So does that of a section of the text, which is long and seldom links.
    is_section = element.n_own > SECTION_CHARS and element.link_frac < SECTION_LINK_FRAC
    if not SURROUNDINGS.isdisjoint(kinds) or SURROUNDING_PHRASES.search(element.names):
        by_id = SURROUNDINGS.isdisjoint(kinds_of(classes)) and is_told_about(element)
        return not ((is_section or by_id) and (is_marked or element.tag == "section"))
    if holds_matter(element):
        return False
    if not ABOUT.isdisjoint(kinds) and element.n_own < ABOUT_CHARS:
        return not is_told_about(element)
    return not LINKED.isdisjoint(kinds) and element.link_frac > LINK_LIST_FRAC


def kinds_of(names: str) -> set[str]:
    """The words that say what an element is."""
    words = [name.split("-") for name in names.split()]
    return {word for name in words if name[0] not in STATES for word in name}


def is_told_about(element: Element) -> bool:
    """Whether an element has a heading with a paragraph: it is a part of the text, however short."""
    tags = {each.tag for each in element.walk() if each.n_own}
    return "p" in tags and not tags.isdisjoint(HEADINGS)


def is_link_block(element: Element, before: Element | None, *, is_marked: bool) -> bool:
    """Whether an element is a list of links that no text leads to, or a row of them.

    Args:
        element: A seen one.
        before: The element before it, of the same parent.
        is_marked: Whether it stands in what the page itself marks as main.
    """
    if element.link_frac <= LINK_ROW_FRAC or element.tag not in GROUPS:
        return False
    links = [each for each in element.walk() if each.tag == "a" and each.n_linked]
    # Between links of a menu stand signs; a sentence that names many has words of its own.
    is_told = element.n_own > SIGNS_CHARS + SIGNS_CHARS_PER_LINK * len(links)
    if element.tag in LISTS:
        return not is_told and is_link_list(element, links, before, is_marked=is_marked)
    if len(links) == 1:
        return element.n_chars < 60 and bool(OPERATING.fullmatch(element.text))
    inside = {child.tag for child in element.walk()} - {element.tag}
    if element.tag == "td":
        # In a table of data a cell may hold links; in a layout's, lines of them.
        return not is_marked and not is_told and not inside.isdisjoint(CELL_LINES)
    # Outside of marked content a box of links is one whatever its inner structure.
    is_row = inside.isdisjoint(LISTS | HEADINGS)
    return len(links) > 1 and not is_told and (is_row or not is_marked)


def is_link_list(
    element: Element, links: list[Element], before: Element | None, *, is_marked: bool
) -> bool:
    """The same of a list."""
    if element.link_frac <= LINK_LIST_FRAC:
        return False
    # What is around a nested list was judged with it.
    if element.parent is not None and element.parent.tag in ("li", "dd"):
        return False
    here = sum(link.attributes.get("href", "").startswith("#") for link in links)
    # Links to places of the same page are its table of contents.
    if len(links) > 2 and here == len(links):
        return True
    is_led_to = before is not None and before.tag in LEADING
    return not (is_in_prose(element) or (is_marked and is_led_to))


def is_small_print(element: Element) -> bool:
    """Whether an element is a line of copyright, or a link that is a mark or a control."""
    if element.tag == "a":
        return element.n_chars < 30 and is_control(element)
    if element.tag not in GROUPS or element.n_chars > 200:
        return False
    return bool(COPYRIGHT.match(element.text))


def is_control(link: Element) -> bool:
    """Whether a link is the mark at a heading, or works the page from a place of its own."""
    text = link.text
    if PERMALINK.fullmatch(text):
        return "#" in link.attributes.get("href", "#") and is_mark(link)
    before, parent = link.node.previous_sibling, link.parent
    while before is not None and not (before.text_content or "").strip(" \n\t|·•[](){}"):
        before = before.previous_sibling
    is_apart = before is None or (before.node_name or "").lower() in APART
    is_in_group = parent is not None and parent.tag in BOXES
    return is_in_group and is_apart and bool(OPERATING.fullmatch(text.strip("[]() ")))


def is_mark(link: Element) -> bool:
    """Whether a link stands at a heading, or holds no letter of its own."""
    parent = link.parent
    at_heading = parent is not None and (parent.tag in HEADINGS or parent.tag == "dt")
    return at_heading or not any(letter.isalnum() for letter in link.text)


def opens_related(element: Element) -> bool:
    """Whether an element is a heading (or a group that begins with one) over what is offered besides."""
    if element.tag in GROUPS or element.tag == "li":
        for first in islice(element.walk(), FIRST_ELEMENTS):
            if first.tag in HEADINGS:
                return is_related_heading(first)
            if first.tag == "p" and first.n_chars:
                return False
        return False
    return element.tag in HEADINGS and is_related_heading(element)


def is_related_heading(heading: Element) -> bool:
    """Whether a heading's words say that other pages follow, or controls."""
    return heading.n_chars < 80 and bool(RELATED.fullmatch(heading.text.rstrip(" :…!?.")))


def is_in_prose(element: Element) -> bool:
    """Whether paragraphs stand beside the element, so that it is part of their text."""
    parent = element.parent
    if parent is None:
        return False
    beside = [child for child in parent.children if child.tag in ("p", "pre", "blockquote")]
    return sum(child.n_own for child in beside) > 2 * ABOUT_CHARS


def holds_matter(element: Element) -> bool:
    """Whether a page's title, code or a formula is in it."""
    return any(each.tag == "h1" or (each.kind and each.n_chars) for each in element.walk())
