"""Parts of a page whose text is not what its elements hold: code, formulas, ruby, images. Each is put into
the tree as the text that is to be read.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from data_pipeline.readers.page_math import DRAWN, IMAGE_CLASS, formula, quoted
from data_pipeline.readers.page_tree import (
    LEAST_CODE_LINES,
    Element,
    ancestors,
    is_in_heading,
    is_inside,
)

if TYPE_CHECKING:  # resiliparse is imported in the child alone
    from resiliparse.parse.html import Node

# Code is put aside while the page is rendered, for the renderer joins spaces. A mark holds its place, between
# letters that no text may have (noncharacters of Unicode).
OPEN, CLOSE = "\ufdd0", "\ufdd1"
MARK = re.compile(rf"(?:^[ \t]+)?{OPEN}(\d+){CLOSE}", re.MULTILINE)
# Numbers of lines and buttons, beside code.
BESIDE_CODE = re.compile(
    r"(?:^| )(?:(?:.*-)?(?:linenos?|line-?numbers?(?:-rows)?|linenum|gutter|blob-num|ln-num(?:bers?)?)|ln"
    r"|line-nr|linenodiv|copy(?:-?btn|-?button)?)(?: |$)"
)
LINES = frozenset("div p li tr dd dt section table ol ul".split())
NOT_CODE = frozenset("button script style template select".split())
NUMBERS_ALONE = re.compile(r"\s*\d+(?:\s+\d+)+\s*")
FOOTNOTE = re.compile(r"\[?(?:\d{1,3}|[a-z]|[*†‡§]+|note \d+|citation needed)\]?", re.IGNORECASE)
# `10<sup>6</sup>` is no 106; `m<sup>2</sup>` and `x<sup>n</sup>` are powers, a number after a word is none.
POWER = re.compile(r"[-−+]?\d{1,4}|[a-z]")
BASE = re.compile(r"(?:\d|\)|(?:^|[\W\d_])[^\W\d_]{1,2})$")
CELL = re.compile(r" *\t[ \t]*")
LEADING_CELL = re.compile(r"^ *\t[ \t]*", re.MULTILINE)


def put_parts(
    body: Element,
    *,
    alt_texts: bool,
    note_marks: bool,
    new_text: Callable[[str], "Node | None"],
) -> list[str]:
    """Replace parts by their text; returns the blocks of code that marks in the text stand for.

    Args:
        body: The tree, edited in place.
        alt_texts: Whether those of images stay.
        note_marks: Whether marks of footnotes stay.
        new_text: Makes a text node.
    """
    codes: list[str] = []
    elements = list(body.walk())
    has_tex = any(each.tag == "script" and each.kind for each in elements)
    for element in elements:
        if element.kind == "code":
            element.node.text_content = put_aside(code_text(element), codes)
            continue
        text = part_text(element, has_tex=has_tex)
        if element.tag == "img":
            text = image_text(element, alt_texts=alt_texts)
        elif element.tag == "sup":
            text = raised_text(element, note_marks=note_marks)
        if text:
            element.node.replace_with(new_text(text))
        elif text is not None:
            element.node.remove()
    return codes


def part_text(element: Element, *, has_tex: bool) -> str | None:
    """The text that takes an element's place; None when the element stays as it is."""
    tag = element.tag
    if tag in ("rt", "rp", "rtc"):
        return ""  # how the base text is read aloud
    if element.kind == "formula":
        # What MathJax 2 drew from a script is the same formula again.
        is_again = has_tex and bool(DRAWN.search(element.names))
        return "" if is_again else formula(element) or None
    if tag == "button" and is_in_heading(element):
        return element.text
    if tag == "cite" and is_inside(element, "blockquote"):
        return f"{element.text} "  # boards set it on a line of its own by style alone
    if tag == "q":
        return f"“{element.text}”"
    return None


def image_text(image: Element, *, alt_texts: bool) -> str | None:
    """An image's text where it stands for text: a formula, or an emoji."""
    alt = image.attributes.get("alt", "").strip()
    if alt and IMAGE_CLASS.search(image.names):
        return quoted(alt, False)
    if alt and not alt.isascii() and len(alt) < 8:
        return alt
    return None if alt_texts else ""


def raised_text(sup: Element, *, note_marks: bool) -> str | None:
    """A footnote's mark goes; a power keeps its meaning."""
    text = sup.text
    is_linked = sup.n_linked > 0 and sup.link_frac > 0.5
    if not note_marks and is_linked and FOOTNOTE.fullmatch(text):
        return ""
    before = sup.node.previous_sibling
    base = "" if before is None else (before.text_content or "")
    is_power = not is_linked and POWER.fullmatch(text) and BASE.search(base)
    return f"^{text}" if is_power else None


def code_text(element: Element) -> str:
    """The text of a block of code: every space and line as it is, without numbers of lines beside it."""
    pieces: list[str] = []
    # (node, how many pieces there were when it began, -1 before it begins); the last one is next.
    waiting: list[tuple[Node, int]] = [(element.node, -1)]
    while waiting:
        node, n_before = waiting.pop()
        tag = (node.node_name or "").lower()
        if tag == "#text":
            pieces.append(node.node_value or "")
        elif tag == "br":
            pieces.append("\n")
        elif n_before >= 0:
            # An element that stands for a line is one even when it is empty.
            is_empty = len(pieces) == n_before and tag in ("div", "li", "p")
            end_line(pieces, always=is_empty)
        elif tag[:1] not in ("#", "!") and (node is element.node or is_code(node, tag)):
            if (tag in LINES or follows_code(node, tag)) and node is not element.node:
                end_line(pieces)
                waiting.append((node, len(pieces)))
            child = node.last_child
            while child is not None:
                waiting.append((child, -1))
                child = child.previous_sibling
    text = "".join(pieces).replace("\xa0", " ").replace("\r\n", "\n")
    # A column of numbers in a table's cell of its own.
    if NUMBERS_ALONE.fullmatch(text) and "\n" in text.strip() and is_column(element):
        return ""
    return text.strip("\n").rstrip()


def follows_code(node: "Node", tag: str) -> bool:
    """Whether an element of code stands right behind another: the same in two languages, of which a switch
    shows one.
    """
    before = node.previous_sibling if tag == "code" else None
    return before is not None and before.node_name == "CODE"


def end_line(pieces: list[str], *, always: bool = False) -> None:
    """End the line, if text is on it or it is always to be one."""
    if always or (pieces and not pieces[-1].endswith("\n")):
        pieces.append("\n")


def is_code(node: "Node", tag: str) -> bool:
    """Whether an element inside a block of code is part of the code."""
    if tag in NOT_CODE:
        return False
    names = f"{node.getattr('class') or ''}".lower().replace("_", "-")
    return not (names and BESIDE_CODE.search(names))


def is_column(element: Element) -> bool:
    """Whether another cell stands beside the element's."""
    cell = next((above for above in ancestors(element) if above.tag == "td"), None)
    return cell is not None and cell.parent is not None and len(cell.parent.children) > 1


def put_aside(code: str, codes: list[str]) -> str:
    """The mark that stands for a block of code."""
    if not code.strip():
        return ""
    codes.append(code)
    return f"{OPEN}{len(codes) - 1}{CLOSE}"


def finished(text: str, codes: list[str]) -> str:
    """Rendered text with its code back in place."""
    # Table cells arrive as tabs: an empty leading cell is layout, one between two texts is a space; so is a
    # fixed space, on a page.
    text = CELL.sub(" ", LEADING_CELL.sub("", text.replace("\xa0", " ")))

    def code(mark: re.Match) -> str:
        block = codes[int(mark[1])]
        if block.count("\n") < LEAST_CODE_LINES - 1:
            return block
        # A block of code stands apart from the text before and after it; a line or two are read with it.
        before, after = (
            text[max(0, mark.start() - 2) : mark.start()],
            text[mark.end() : mark.end() + 2],
        )
        opened = "\n" if before.strip("\n") else ""
        closed = "\n" if after.strip("\n") else ""
        return f"{opened}{block}{closed}"

    return MARK.sub(code, text).rstrip()
