"""A page's main text is left in its tree, what surrounds it taken out."""

from collections.abc import Iterator
from itertools import takewhile

from data_pipeline.readers.page_rules import (
    LISTS,
    is_link_block,
    is_small_print,
    is_surrounding,
    opens_related,
)
from data_pipeline.readers.page_tree import HEADINGS, Element, ancestors
from data_pipeline.readers.page_words import AMBIGUOUS, CONTENT_NAME

# Of nested elements that are all called content, the innermost that holds this much of the outermost's text.
INNER_FRAC = 0.85
# A group over what is offered besides has little text of its own, or is mostly links.
RELATED_CHARS = 400
RELATED_LINK_FRAC = 0.3
LEAD_CHARS = 60


def leave_main_text(body: Element, *, title: str) -> None:
    """Take out of the tree what is not the page's main text; `title` is that of its head."""
    root, is_marked = content_root(body)
    n_page = body.n_own
    keep_alone(root, title=title)
    waiting = [root]
    while waiting:
        parent = waiting.pop()
        kept = left_of(parent, n_page=n_page, is_marked=is_marked)
        waiting += [child for child in kept if child.children]


def content_root(body: Element) -> tuple[Element, bool]:
    """The element that the page marks as its main content, by tag, role or name, and whether it marks one.

    Several side by side (the posts of a blog or a forum) mark none of them.
    """
    seen = [element for element in body.walk() if element.is_seen]
    for is_wanted, least_frac in LEAST_ROOT_FRACS.items():
        wanted = [element for element in seen if is_wanted(element)]
        root = innermost(wanted, least=least_frac * body.n_own)
        if root is not None:
            return root, True
    return body, False


def is_main(element: Element) -> bool:
    """Whether HTML says so."""
    return element.tag == "main" or element.attributes.get("role") == "main"


def is_article(element: Element) -> bool:
    """Whether HTML or schema.org calls it an article."""
    return element.tag == "article" or element.attributes.get("itemprop") == "articleBody"


def is_called_content(element: Element) -> bool:
    """Whether class or id call it content."""
    return (
        element.tag in ("div", "section", "td")
        and bool(element.names)
        and bool(CONTENT_NAME.search(element.names))
    )


# Main content that holds less of the page's unlinked text is a wrong mark; a name says less than a tag.
LEAST_ROOT_FRACS = {is_main: 0.3, is_article: 0.4, is_called_content: 0.6}


def innermost(wanted: list[Element], *, least: float) -> Element | None:
    """The innermost of nested elements with (nearly) all the text; None when two stand side by side."""
    large = [element for element in wanted if element.n_own > least]
    if not large:
        return None
    # In the page's order the first of nested elements is the outermost.
    outermost = root = large[0]
    for element in large[1:]:
        around = set(ancestors(element))
        if outermost not in around:
            return None
        if root in around and element.n_own >= INNER_FRAC * outermost.n_own:
            root = element
    return root


def keep_alone(root: Element, *, title: str) -> None:
    """Take out all that is not in `root`; the page's first heading, when it stands outside, moves into it."""
    path = {root, *ancestors(root)}
    body = [root, *ancestors(root)][-1]
    headings = [each for each in body.walk() if each.tag == "h1" and each.n_chars]
    inside = [heading for heading in headings if root in ancestors(heading)]
    outside = [heading for heading in headings if root not in ancestors(heading)]
    # Of several headings one is the site's, and which cannot be told. A title ends with the site's name.
    is_alone = not inside and len(outside) == 1 and not is_site_name(outside[0].text, title)
    heading = outside[0] if is_alone else None
    for element in path - {root}:
        # Beside what is only called content may stand the paragraph that leads to it.
        leads = [] if is_main(root) else [child for child in element.children if is_lead(child)]
        stays = path.union(leads, [heading] if heading else [])
        for child in element.children:
            if child not in stays:
                child.node.remove()
        element.children = [child for child in element.children if child in stays]
    if heading is not None and heading.parent not in path:
        root.node.prepend(heading.node)
        root.children.insert(0, heading)
        heading.parent = root


def is_lead(element: Element) -> bool:
    """Whether an element is a paragraph of text, no line of a menu or a notice."""
    return (
        element.tag == "p" and element.n_own > LEAD_CHARS and element.link_frac < RELATED_LINK_FRAC
    )


def is_site_name(text: str, title: str) -> bool:
    """Whether a page's title ends with the text, after another: `Rye - The Bread Book`."""
    title = " ".join(title.split())
    return len(title) > len(text) and title.endswith(text)


def left_of(parent: Element, *, n_page: int, is_marked: bool) -> list[Element]:
    """The children that stay; the others are taken out, with headings that then stand over nothing."""
    out = set(related_runs(parent, n_page=n_page))
    kept: list[Element] = []
    emptied: list[Element] = []
    for child in parent.children:
        before = kept[-1] if kept else None
        if not child.is_seen or child in out:
            child.node.remove()
        elif is_surrounding(child, n_page=n_page, is_marked=is_marked) or is_small_print(child):
            child.node.remove()
        elif is_link_block(child, before, is_marked=is_marked):
            child.node.remove()
            if before is not None and before.tag in HEADINGS:
                emptied.append(before)
        else:
            kept.append(child)
    for heading in emptied:
        after = kept[kept.index(heading) + 1 :][:1]
        if heading.tag != "h1" and (not after or after[0].tag <= heading.tag in HEADINGS):
            heading.node.remove()
            kept.remove(heading)
    parent.children = kept
    return kept


def related_runs(parent: Element, *, n_page: int) -> Iterator[Element]:
    """Children that offer other pages: groups that begin with such a heading, and what follows one."""
    children = [child for child in parent.children if child.is_seen]
    for position, child in enumerate(children):
        if not child.n_chars or not opens_related(child):
            continue
        run = [child]
        if child.tag in HEADINGS:
            # Up to the next heading, or to where the text goes on.
            rest = children[position + 1 :]
            run += takewhile(is_beside, rest)
            # Text that goes on right under the heading is what it is over.
            if len(run) == 1 and rest and rest[0].tag not in HEADINGS:
                continue
        if is_offer(run, n_page=n_page):
            yield from run


def is_beside(element: Element) -> bool:
    """Whether an element may belong to an offer: it is a list or has links, or it is short."""
    if element.tag in HEADINGS:
        return False
    return element.tag in LISTS or element.link_frac > RELATED_LINK_FRAC or element.n_own < 60


def is_offer(run: list[Element], *, n_page: int) -> bool:
    """Whether what stands under such a heading is links or little text, not a section of the page."""
    n_chars = sum(each.n_chars for each in run)
    n_linked = sum(each.n_linked for each in run)
    heading = next(each for each in run[0].walk() if each.tag in HEADINGS)
    is_linked = n_linked > RELATED_LINK_FRAC * n_chars
    if AMBIGUOUS.fullmatch(heading.text.rstrip(" :…!?.")):
        return n_linked > 2 * RELATED_LINK_FRAC * (n_chars - heading.n_chars) and n_linked > 0
    # What holds the page's main text is no offer, whatever stands over it.
    return is_linked or n_chars - n_linked < min(RELATED_CHARS, 0.5 * n_page)
