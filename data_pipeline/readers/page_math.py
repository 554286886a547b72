"""Formulas of a page as TeX, each once: from a script, an annotation, an image's text, or MathML itself."""

import re
from typing import TYPE_CHECKING

from data_pipeline.readers.page_tree import Element

if TYPE_CHECKING:  # resiliparse is imported in the child alone
    from resiliparse.parse.html import Node

MAX_DEPTH = 100  # no formula is nested so; a page built to be deep may be

TEX_ENCODINGS = ("application/x-tex", "tex", "latex", "application/x-latex")
DISPLAY_STYLE = re.compile(r"\{\\(?:displaystyle|textstyle)\s*(.*)\}", re.DOTALL)
# Images that stand for formulas.
IMAGE_CLASS = re.compile(r"(?:^| )(?:tex|latex|math|equation|formula|mwe-math)(?:-| |$)")
IS_DISPLAY = re.compile(
    r"(?:^| )(?:katex-display|math-jax-display|mwe-math-fallback-image-display)(?: |$)"
)
# The forms that MathJax 2 draws beside its script.
DRAWN = re.compile(
    r"(?:^| )(?:math-?jax(?:-(?:preview|display|svg|chtml|svg-display))?|mjx-chtml)(?: |$)"
)
# {0} is the base or numerator.
SCRIPTS = {
    "msup": "{0}^{{{1}}}",
    "msub": "{0}_{{{1}}}",
    "msubsup": "{0}_{{{1}}}^{{{2}}}",
    "mover": "{0}^{{{1}}}",
    "munder": "{0}_{{{1}}}",
    "munderover": "{0}_{{{1}}}^{{{2}}}",
    "mfrac": r"\frac{{{0}}}{{{1}}}",
    "mroot": r"\sqrt[{1}]{{{0}}}",
}
ACCENTS = {
    "^": "hat",
    "ˆ": "hat",
    "¯": "bar",
    "‾": "bar",
    "→": "vec",
    "⃗": "vec",
    "~": "tilde",
    "˙": "dot",
}


def formula(element: Element) -> str:
    """The formula that an element gives, as `$TeX$` or `$$TeX$$`; "" when it gives none."""
    if element.tag == "script":
        display = "mode=display" in element.attributes.get("type", "").replace(" ", "")
        return quoted(element.node.text_content or "", display)
    math = element.node if element.tag == "math" else element.node.query_selector("math")
    if math is None:
        image = element.node.query_selector("img[alt]")
        return "" if image is None else quoted(image.getattr("alt") or "", is_display(element))
    display = math.getattr("display") == "block" or is_display(element)
    return quoted(tex_of(math), display)


def is_display(element: Element) -> bool:
    """Whether a formula stands in a line of its own."""
    is_block = element.tag == "mjx-container" and "display" in element.attributes
    return is_block or bool(IS_DISPLAY.search(element.names))


def quoted(tex: str, display: bool) -> str:
    """The formula between its marks."""
    tex = tex.strip()
    inner = DISPLAY_STYLE.fullmatch(tex)
    # Wikipedia wraps each formula so; the braces are its renderer's.
    tex = " ".join((inner[1] if inner else tex).split())
    mark = "$$" if display else "$"
    return f"{mark}{tex}{mark}" if tex else ""


def tex_of(math: "Node") -> str:
    """The TeX of a <math> element: its author's, if it carries it, or one made from its parts."""
    for note in math.query_selector_all("annotation"):
        if (note.getattr("encoding") or "").lower() in TEX_ENCODINGS:
            return note.text_content or ""
    return math.getattr("alttext") or written(math)


def written(node: "Node", depth: int = 0) -> str:
    """Presentation MathML as TeX."""
    if depth > MAX_DEPTH:
        return node.text_content or ""
    tag = (node.node_name or "").lower().rpartition(":")[2]
    if tag == "#text":
        return " ".join((node.node_value or "").split())
    if tag in ("annotation", "annotation-xml", "mphantom", "none"):
        return ""
    parts = [written(child, depth + 1) for child in children_of(node)]
    # Space between elements is the source's layout.
    parts = [part for part in parts if part]
    if tag in SCRIPTS and len(parts) > 1:
        return scripted(tag, parts)
    if tag == "msqrt":
        return rf"\sqrt{{{''.join(parts)}}}"
    if tag == "mfenced":
        opened, closed = node.getattr("open") or "(", node.getattr("close") or ")"
        return opened + ",".join(parts) + closed
    if tag in ("mtr", "mlabeledtr"):
        return " & ".join(parts)
    if tag == "mtable":
        return r" \\ ".join(parts)
    if tag == "mtext":
        return rf"\text{{{''.join(parts)}}}"
    if tag == "mo" and parts and parts[0].isalpha():
        # "lim" and "sin" would run into their arguments.
        return f" {parts[0]} "
    return "".join(parts)


def scripted(tag: str, parts: list[str]) -> str:
    """A base with what stands above and below it, a fraction, or a root."""
    base, *scripts = (part.strip() for part in parts)
    if tag == "mover" and scripts[0] in ACCENTS:
        return rf"\{ACCENTS[scripts[0]]}{{{base}}}"
    # An exponent belongs to all of a base that is more than one sign, unless parentheses say so.
    if tag.startswith("ms") and len(base) > 1 and base[0] not in "(\\" and not base.isalnum():
        base = f"{{{base}}}"
    # A malformed element may lack a script.
    return SCRIPTS[tag].format(base, *scripts, "")


def children_of(node: "Node") -> list["Node"]:
    """A node's children."""
    children, child = [], node.first_child
    while child is not None:
        children.append(child)
        child = child.next_sibling
    return children
