"""A page's elements as the rules of main text see them: names, attributes, and how much text and link text
each holds.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # resiliparse is imported in the child alone
    from resiliparse.parse.html import ElementNode

NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})
HEADINGS = frozenset("h1 h2 h3 h4 h5 h6".split())
# No rule asks for these when nothing else is in them; their text counts in what is around them.
EMPHASIS = frozenset("b i em strong u s small var tt font".split())
# No rule asks how much text is in these alone; they are the most of a page's elements.
UNCOUNTED = frozenset("span code br img hr wbr kbd samp abbr".split())
# What a browser does not show as text of the page, or shows as a control of it.
UNSEEN = frozenset(
    "script style template iframe frame object embed audio video canvas svg noscript dialog input select "
    "option datalist textarea button label progress meter area".split()
)
# Their text is taken as it is, whatever elements stand in it.
PREFORMATTED = frozenset("pre listing xmp plaintext".split())
LEAST_CODE_LINES = 3  # fewer may be a word that the source broke
KEEPS_SPACES = re.compile(
    r"white-space\s*:\s*(?:pre|pre-wrap|break-spaces)\s*(?:;|$|!)", re.IGNORECASE
)
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
JOINTS = re.compile(r"[-_:]+")
UNSEEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
# Classes by which pages of many kinds hide text from all eyes, or show it to screen readers alone.
UNSEEN_CLASS = re.compile(
    r"(?:^| )(?:hidden|d-none|invisible|sr-only|screen-reader-text|(?:is-)?visually-?hidden|display-none"
    r"|nocontent|noprint)(?: |$)"
)
# Around the forms, some of them hidden, in which renderers of formulas give each.
FORMULA_CLASS = re.compile(
    r"(?:^| )(?:katex(?:-display)?|mwe-math-element"
    r"|math-jax(?:-(?:svg|c-?html))?(?:-(?:display|preview))?)(?: |$)"
)
FORMULA_TAGS = frozenset("span div nobr".split())


@dataclass(slots=True, eq=False)
class Element:
    """One element of the page.

    Attributes:
        node: The parser's node, through which the page is edited.
        tag: In lower case.
        parent: None for the body.
        attributes: By name.
        names: The words of class and id in lower case, joined by hyphens: `siteHeader main_nav` →
            `site-header main-nav`.
        children: Elements in it, in order.
        n_chars: Characters of its text, without spaces.
        n_linked: Those of them that are in links.
        n_unseen: Characters of what is unseen in it.
        is_seen: Whether a reader of the page sees it.
        kind: "code" or "formula" when it is one as a whole: then `children` is empty.
    """

    node: "ElementNode"
    tag: str
    parent: "Element | None"
    attributes: Mapping[str, str] = NO_ATTRIBUTES
    names: str = ""
    children: list["Element"] = field(default_factory=list)
    n_chars: int = 0
    n_linked: int = 0
    n_unseen: int = 0
    is_seen: bool = True
    kind: str = ""

    @property
    def n_own(self) -> int:
        """Characters that are in no link."""
        return self.n_chars - self.n_linked

    @property
    def link_frac(self) -> float:
        """The share of its text that is in links."""
        return self.n_linked / self.n_chars if self.n_chars else 0.0

    @property
    def text(self) -> str:
        """Its text on one line."""
        return " ".join((self.node.text_content or "").split())

    def walk(self) -> Iterator["Element"]:
        """Itself and all elements in it, in the page's order."""
        waiting = [self]
        while waiting:
            element = waiting.pop()
            yield element
            waiting += reversed(element.children)


def page_tree(body: "ElementNode") -> Element:
    """The elements of a page with their counts; what is in unseen elements counts nowhere.

    Nodes are reached by first child and next sibling: the parser's lists of them take quadratic time.
    Those of text are not visited: a visit costs more than to read an element's text once more a level.
    """
    root = current = element_of(body, "body", None)
    node = body.first_element_child
    while True:
        while node is None:
            if current.children or current.tag not in UNCOUNTED:
                current.n_chars = n_signs(current) - current.n_unseen
            if current is root:
                return root
            node, current = current.node.next_element_sibling, closed_into_parent(current)
        tag = (node.local_name or "").lower()
        if tag in EMPHASIS and not node.attrs and node.first_element_child is None:
            node = node.next_element_sibling
            continue
        child = element_of(node, tag, current)
        current.children.append(child)
        child.kind = kind_of(child)
        child.is_seen = bool(child.kind) or is_seen(child)
        if child.is_seen and not child.kind:
            current, node = child, node.first_element_child
            continue
        if child.is_seen:
            child.n_chars = n_signs(child)
        else:
            current.n_unseen += n_signs(child)
        node = node.next_element_sibling


def n_signs(element: Element) -> int:
    """Characters of all text in an element, without spaces between words and lines."""
    text = element.node.text_content or ""
    return len(text) - text.count(" ") - text.count("\n") - text.count("\t")


def element_of(node: "ElementNode", tag: str, parent: Element | None) -> Element:
    """The element of a node, not yet counted."""
    names = node.attrs
    if not names:
        return Element(node, tag, parent)
    attributes = {name: node.getattr(name) or "" for name in names}
    words = f"{attributes.get('class', '')} {attributes.get('id', '')}"
    return Element(node, tag, parent, attributes, hyphened(words))


@lru_cache(maxsize=1 << 12)  # a page repeats the classes of its rows and lines
def hyphened(words: str) -> str:
    """Names in the one form in which rules compare them."""
    words = words.strip()
    return " ".join(JOINTS.sub("-", CAMEL.sub("-", words)).lower().split()) if words else ""


def closed_into_parent(element: Element) -> Element:
    """Add an element's counts to its parent's; returns the parent."""
    if element.tag == "a" and "href" in element.attributes:
        element.n_linked = element.n_chars
    parent = element.parent
    assert parent is not None
    parent.n_linked += element.n_linked
    parent.n_unseen += element.n_unseen
    return parent


def is_seen(element: Element) -> bool:
    """Whether a reader of the page sees an element that is no formula."""
    attributes, tag = element.attributes, element.tag
    if tag in UNSEEN:
        # Questions that unfold are buttons in headings.
        return tag == "button" and is_in_heading(element)
    if not attributes or tag in HEADINGS:
        return True
    # "until-found" is text that a browser unfolds when it is searched for.
    if "hidden" in attributes and attributes["hidden"] != "until-found":
        return False
    return not (
        attributes.get("aria-hidden") == "true"
        or UNSEEN_CLASS.search(element.names)
        or UNSEEN_STYLE.search(attributes.get("style", ""))
    )


def is_in_heading(element: Element) -> bool:
    """Whether the element is all that a heading holds, perhaps with wrappers between."""
    wrappers = ("span", "a", "div")
    above = next((each for each in ancestors(element) if each.tag not in wrappers), None)
    if above is None or not (above.tag in HEADINGS or above.tag in ("summary", "dt")):
        return False
    return n_signs(above) <= n_signs(element) + 2  # a sign that shows whether it is unfolded


def kind_of(element: Element) -> str:
    """Whether the element as a whole is "code" or a "formula"; "" when it is neither."""
    tag = element.tag
    if tag in PREFORMATTED or is_drawn_code(element):
        return "code"
    if tag in ("math", "mjx-container") or is_tex_script(element):
        return "formula"
    # A class of the page's body may say that formulas are in it; what is around one is an inline group.
    is_formula = tag in FORMULA_TAGS and element.names and FORMULA_CLASS.search(element.names)
    return "formula" if is_formula else ""


def is_tex_script(element: Element) -> bool:
    """Whether the element is a formula as MathJax 2 takes it."""
    return element.tag == "script" and element.attributes.get("type", "").startswith("math/tex")


def is_drawn_code(element: Element) -> bool:
    """Whether an element is code that style sheets alone show as such: by its own style, as lines of
    Doxygen, or because it has lines that could not be read on one.
    """
    if element.tag == "code":
        text = element.node.text_content or ""
        if text.strip().count("\n") >= LEAST_CODE_LINES - 1:
            return True
    if not element.attributes or element.tag not in ("code", "div", "samp", "td"):
        return False
    if element.names in ("fragment", "code-mirror-code"):
        return True
    return bool(KEEPS_SPACES.search(element.attributes.get("style", "")))


def ancestors(element: Element) -> Iterator[Element]:
    """The elements around it, from the inside."""
    above = element.parent
    while above is not None:
        yield above
        above = above.parent


def is_inside(element: Element, tag: str) -> bool:
    """Whether an element of that tag is around it."""
    return any(above.tag == tag for above in ancestors(element))
