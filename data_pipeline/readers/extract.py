"""HTML page → main text by resiliparse; runs in a child process (`worker.py`), because a page can be built
to take minutes.
"""

import re

from data_pipeline.readers.charset import decoded
from data_pipeline.readers.page_source import closed

MAX_DEPTH = 2_000  # resiliparse 2.0.1 is quadratic in nesting: 20,000 nested <div> take 11 s
BLOCK_BYTES = 1 << 12
# elements that have no end tag, or whose end tag HTML lets authors leave out: they do not nest by themselves
NOT_NESTING = frozenset(
    b"area base br col embed hr img input link meta param source track wbr "
    b"p li dt dd tr td th option thead tbody tfoot".split()
)
# A tag's name, and whether it ends its element itself: `<path/>` and `<path d=''/>`, not `<a href=x/>`.
TAG = re.compile(rb"""<(/?)([a-zA-Z][a-zA-Z0-9]*)(?:(?:\s[^<>]*["'\s]|\s)?(/)>)?""")
LEADING_CELL = re.compile(r"^ *\t[ \t]*", re.MULTILINE)
CELL = re.compile(r" *\t[ \t]*")


def request(html: bytes, charset: str | None, content: str) -> bytes:
    """What `extract` takes: `main` or `all`, the charset that HTTP gave (or nothing), the page, with
    newlines between.
    """
    return f"{content}\n{(charset or '').strip()}\n".encode() + html


def extract(message: bytes) -> bytes:
    """The page's main text, or all its text, UTF-8, line structure kept.

    Raises:
        ValueError: The page is nested deeper than `MAX_DEPTH`.
    """
    from resiliparse.extract.html2text import extract_plain_text  # in the child only

    content, charset, html = message.split(b"\n", 2)
    page, main = closed(decoded(html, charset.decode())), content == b"main"
    # The cheap bound first: nearly every page passes it, and the exact count runs on the others alone.
    data = page.encode(errors="replace")
    if depth_bound(data) > MAX_DEPTH and depth(data) > MAX_DEPTH:
        raise ValueError("too deep")
    text = extract_plain_text(page, main_content=main, preserve_formatting=True)
    # table cells arrive as tabs: an empty leading cell is layout, one between two texts is a space; so is a
    # fixed space, on a page
    return CELL.sub(" ", LEADING_CELL.sub("", text.replace("\xa0", " "))).encode(errors="replace")


def depth_bound(html: bytes) -> int:
    """No less than `depth` where a page closes only what it opened, and ten times as fast: tags are counted
    by blocks, as if all nested.

    Of another page it may be too low; then the time limit ends it.
    """
    level = deepest = 0
    for start in range(0, len(html), BLOCK_BYTES):
        end = start + BLOCK_BYTES
        n_tags, n_ends = html.count(b"<", start, end), html.count(b"</", start, end)
        n_starts = n_tags - n_ends
        # As if all tags that open came before those that close: never too low for a well-formed page.
        deepest = max(deepest, level + n_starts)
        level = max(level + n_starts - n_ends, n_starts)  # the second when the ends come first
    return deepest


def depth(html: bytes) -> int:
    """An upper estimate of how deep the page's elements nest, in one linear pass."""
    level = deepest = 0
    # Comments and scripts are counted as well: an upper estimate may be too high, never too low.
    for end, name, itself in TAG.findall(html):
        if name.lower() in NOT_NESTING:
            continue
        if itself:
            deepest = max(deepest, level + 1)
            continue
        # A stray end tag closes nothing.
        level = max(0, level - 1) if end else level + 1
        deepest = max(deepest, level)
    return deepest
