"""HTML page → main text by resiliparse; runs in a child process (`worker.py`), because a page can be built to take minutes."""

import re

MAX_DEPTH = 2_000  # resiliparse 2.0.1 is quadratic in nesting: 20,000 nested <div> take 11 s
# elements that have no end tag, or whose end tag HTML lets authors leave out: they do not nest by themselves
NOT_NESTING = frozenset(
    b"area base br col embed hr img input link meta param source track wbr p li dt dd tr td th option thead tbody tfoot".split()
)
TAG = re.compile(rb"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
LEADING_CELL = re.compile(r"^ *\t[ \t]*", re.MULTILINE)
CELL = re.compile(r" *\t[ \t]*")


def request(html: bytes, charset: str | None) -> bytes:
    """What `extract` takes: the charset that HTTP gave (or nothing), a newline, the page."""
    return (charset or "").encode() + b"\n" + html


def extract(message: bytes) -> bytes:
    """The page's main text, UTF-8, line structure kept.

    Raises:
        ValueError: The page is nested deeper than `MAX_DEPTH`.
    """
    from resiliparse.extract.html2text import extract_plain_text  # in the child only
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    charset, html = message.split(b"\n", 1)
    if html.count(b"<") > MAX_DEPTH and depth(html) > MAX_DEPTH:
        raise ValueError("too deep")
    try:
        page = bytes_to_str(html, charset.decode() or detect_encoding(html, from_html_meta=True))
    except LookupError:  # a charset that no codec has
        page = bytes_to_str(html, detect_encoding(html, from_html_meta=True))
    text = extract_plain_text(page, main_content=True, preserve_formatting=True).replace("\xa0", " ")  # on a page, a way to lay out
    # table cells arrive as tabs: an empty leading cell is layout, one between two texts is a space
    return CELL.sub(" ", LEADING_CELL.sub("", text)).encode(errors="replace")


def depth(html: bytes) -> int:
    """An upper estimate of how deep the page's elements nest, in one linear pass."""
    level = deepest = 0
    for end, name in TAG.findall(html):
        if name.lower() in NOT_NESTING:
            continue
        level = max(0, level - 1) if end else level + 1
        deepest = max(deepest, level)
    return deepest
