"""What scanning leaves in a book's text: words cut at line ends, page numbers, running heads, paragraphs of
noise.
"""

import re
from statistics import median
from typing import NamedTuple

from data_pipeline.readers.chapters import HEADING

CUT_WORD = re.compile(r"\b(\w+)[-¬\u2010\u00ad]\n[ \t]*(\w+)([^\w\s]*)[ \t]?")
# a line of a number, alone (- 12 -, [12], Page 12) or beside a title
NUMBERED = re.compile(
    r"[ \t]*(?:[\[(—–-]*\s*(?:(?:page|p\.|стр\.|с\.)\s*)?(\d{1,4})\s*[\])—–.-]*"
    r"|(\d{1,4})\s+(\D{3,60}?)|(\D{3,60}?)\s+(\d{1,4}))[ \t]*",
    re.IGNORECASE,
)
MIN_PAGES = 5  # fewer numbered lines may be anything
# Characters of a page. Numbers that follow closer are a table or verses; farther apart, chapters.
PAGE_CHARS = (300, 8_000)
MIN_PARAGRAPH_CHARS = 20


class Cleaned(NamedTuple):
    """The text, and how much was cut out of it."""

    text: str
    n_page_lines: int
    n_joined_words: int
    n_noise_bytes: int


def without_scan_noise(text: str, *, min_letter_frac: float) -> Cleaned:
    """Page numbers and running heads dropped, cut words joined, paragraphs with a smaller fraction of
    letters dropped.
    """
    # Page lines first: a number between the halves of a word would keep them from being joined.
    text, n_page_lines = _without_page_lines(text)
    text, n_joined = _joined(text)
    remaining, n_noise_bytes = [], 0
    for paragraph in re.split(r"(\n[ \t]*\n\s*)", text):
        if letter_frac(paragraph) < min_letter_frac:
            n_noise_bytes += len(paragraph.encode())
        else:
            remaining.append(paragraph)
    return Cleaned(
        re.sub(r"\n{4,}", "\n\n\n", "".join(remaining)), n_page_lines, n_joined, n_noise_bytes
    )


def letter_frac(paragraph: str) -> float:
    """Letters among the characters that are no space; 1 for a paragraph too short to tell."""
    dense = "".join(paragraph.split())
    return sum(map(str.isalpha, dense)) / len(dense) if len(dense) >= MIN_PARAGRAPH_CHARS else 1.0


def _without_page_lines(text: str) -> tuple[str, int]:
    """A page's line is one of many that are alike but for a number that climbs, a page's length apart."""
    lines = text.split("\n")
    alike: dict[str, list[tuple[int, int, int]]] = {}  # title → (line, number, place in the text)
    place = 0
    for n, line in enumerate(lines):
        # Running heads are short; the bound keeps the pattern's optional parts from trying long lines.
        numbered = NUMBERED.fullmatch(line) if len(line) < 80 else None
        if numbered and not HEADING.match(f"{line.strip()}\n\n\n"):
            number = next(group for group in (numbered[1], numbered[2], numbered[5]) if group)
            # Lines with the same title, or with none, belong together; left and right pages have titles of
            # their own.
            title = (numbered[3] or numbered[4] or "").strip().casefold()
            alike.setdefault(title, []).append((n, int(number), place))
        place += len(line) + 1
    dropped = {n for rows in alike.values() if _are_pages(rows) for n, _, _ in rows}
    return "\n".join(line for n, line in enumerate(lines) if n not in dropped), len(dropped)


def _are_pages(rows: list[tuple[int, int, int]]) -> bool:
    if len(rows) < MIN_PAGES:
        return False
    steps = [(b[1] - a[1], b[2] - a[2]) for a, b in zip(rows, rows[1:], strict=False)]
    # A number misread now and then is forgiven: nine of ten steps must climb.
    climbing = [(pages, chars) for pages, chars in steps if pages > 0]
    if len(climbing) < 0.9 * len(steps):
        return False
    return PAGE_CHARS[0] <= median(chars / pages for pages, chars in climbing) <= PAGE_CHARS[1]


def _joined(text: str) -> tuple[str, int]:
    """A cut word is joined without its hyphen, unless the book elsewhere writes it with one and never
    without.
    """
    # Every word of the book, hyphens included: the book itself decides how it writes a compound.
    known = set(re.findall(r"\w+(?:-\w+)*", text))
    n = 0

    def join(cut: re.Match) -> str:
        nonlocal n
        first, second, mark = cut[1], cut[2], cut[3]
        # A capital after the break is a name (`Anglo-\nSaxon`), not the rest of a cut word.
        if not second[0].islower():
            return cut[0]
        n += 1
        hyphenated = f"{first}-{second}" in known and first + second not in known
        return f"{first}{'-' if hyphenated else ''}{second}{mark}\n"

    return CUT_WORD.sub(join, text), n
