"""A page's source before it is parsed: elements of XHTML that end themselves."""

import re

# Elements that have no end tag.
VOID = "area base br col embed hr img input link meta param source track wbr".split()
# `<a id="x"/>` ends itself in XHTML alone; an HTML parser leaves it open to the end of the page. A slash
# right after an unquoted value (`<a href=x/>`) belongs to the value.
SELF_CLOSED = re.compile(
    rf"""<(?!(?:{"|".join(VOID)})\b)([a-zA-Z][\w:-]*)((?:\s[^<>]*["'\s]|\s)?)/>""", re.IGNORECASE
)


def closed(page: str) -> str:
    """The page with end tags for elements that end themselves."""
    return SELF_CLOSED.sub(r"<\1\2></\1>", page) if "/>" in page else page
