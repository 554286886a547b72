"""HTML page → main text by resiliparse; runs in a child process (`worker.py`), because a page can be built
to take minutes.
"""

import re

from data_pipeline.readers.charset import decoded
from data_pipeline.readers.page_content import leave_main_text
from data_pipeline.readers.page_parts import CLOSE, OPEN, finished, put_parts
from data_pipeline.readers.page_source import VOID, closed
from data_pipeline.readers.page_tree import page_tree

MAX_DEPTH = 2_000  # resiliparse 2.0.1 is quadratic in nesting: 20,000 nested <div> take 11 s
BLOCK_BYTES = 1 << 12
# elements that have no end tag, or whose end tag HTML lets authors leave out: they do not nest by themselves
NOT_NESTING = frozenset(
    [
        *(name.encode() for name in VOID),
        *b"p li dt dd tr td th option thead tbody tfoot".split(),
    ]
)
TAG = re.compile(rb"<(/?)([a-zA-Z][a-zA-Z0-9]*)")


def request(html: bytes, charset: str | None, content: str) -> bytes:
    """What `extract` takes: `main` or `all`, the charset that HTTP gave (or nothing), the page, with
    newlines between.
    """
    return f"{content}\n{(charset or '').strip()}\n".encode() + html


def extract(message: bytes) -> bytes:
    """The page's main text, or all its text, UTF-8, line structure kept.

    Raises:
        ValueError: See `text_of_page`.
    """
    content, charset, html = message.split(b"\n", 2)
    page = decoded(html, charset.decode())
    main = content == b"main"
    return text_of_page(page, main=main, alt_texts=not main).encode(errors="replace")


def text_of_page(page: str, *, main: bool, alt_texts: bool = False) -> str:
    """The text of a page: its main text, or all; with `alt_texts` those of images as well.

    Raises:
        ValueError: too_deep, where elements nest deeper than `MAX_DEPTH`.
    """
    from resiliparse.extract.html2text import extract_plain_text  # in the child only
    from resiliparse.parse.html import HTMLTree

    page = closed(page)
    # The cheap bound first: nearly every page passes it, and the exact count runs on the others alone.
    data = page.encode(errors="replace")
    if depth_bound(data) > MAX_DEPTH and depth(data) > MAX_DEPTH:
        raise ValueError("too_deep")
    tree = HTMLTree.parse(page.replace(OPEN, "").replace(CLOSE, ""))
    if tree.body is None:
        return ""
    body = page_tree(tree.body)
    elements = list(body.walk())
    if main:
        leave_main_text(body, title=tree.title or "")
    codes = put_parts(
        body, alt_texts=alt_texts, note_marks=not main, new_text=tree.create_text_node
    )
    # Its own choice of main content is not used: it loses lists near the top, and keeps most menus.
    text = extract_plain_text(tree, main_content=False, preserve_formatting=True)
    # An element and what is in it hold one another. Left to the collector, the parser's nodes would be
    # dropped by whatever thread it runs in, and they belong to this one.
    for element in elements:
        element.parent = None
    return finished(text, codes)


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
    """An upper estimate of how deep the elements of a `closed` page nest, in one linear pass."""
    level = deepest = 0
    # Comments and scripts are counted as well: an upper estimate may be too high, never too low.
    for end, name in TAG.findall(html):
        if name.lower() in NOT_NESTING:
            continue
        # A stray end tag closes nothing.
        level = max(0, level - 1) if end else level + 1
        deepest = max(deepest, level)
    return deepest
