"""Project Gutenberg's wrapping around a book: header, licence, credits and transcribers' notes, in the
wordings of all its years.
"""

import re
from typing import NamedTuple

EBOOK = r"(?:COPYRIGHTED )?PROJECT GUTENBERG(?:['’]S)?(?: E-?(?:BOOK|TEXT))?"
# the title in the starred line may be wrapped over a few lines
START = re.compile(
    rf"\*\*\* ?START OF (?:THE|THIS) {EBOOK}[^*]{{0,600}}\*\*\*[^\n]*", re.IGNORECASE
)
# The small print is that of etexts from 1991 to 2002.
SMALL_PRINT_BEGINS = re.compile(r"^\**START\**\s*THE SMALL PRINT!", re.IGNORECASE | re.MULTILINE)
SMALL_PRINT_ENDS = re.compile(
    r"^\*END\*? ?THE SMALL PRINT!?[^\n]*(?:\n[^\n]*\*END\*[^\n]*)?", re.IGNORECASE | re.MULTILINE
)
# The starred line of today, the plain sentence of before 2003, and its translations.
END = re.compile(
    rf"\*\*\* ?END OF (?:THE|THIS) {EBOOK}|^[ *\[(]*(?:The )?End of (?:the |this )?{EBOOK}|"
    r"^[ *]*(?:Ende dieses|Fin de|Fim de|Fine di|Einde van)[^\n]{0,40}Project Gutenberg",
    re.IGNORECASE | re.MULTILINE,
)
CREDIT = re.compile(
    r"[\[(*_ ]*(?:Produced|E-?text (?:was )?prepared"
    r"|(?:This )?(?:e-?book|e-?text|file|text|HTML version) (?:was )?(?:first )?"
    r"(?:produced|prepared|created|transcribed|scanned|typed)"
    r"|Transcribed|Scanned|Prepared|Proofed|Proofread|HTML version|Digiti[sz]ed|Typed|Credits?:"
    r"|Updated editions will replace|With thanks to|e-?text by"
    r"|Note: (?:Project Gutenberg|Images of the original|Many of these|The original book))",
    re.IGNORECASE,
)
NOTE = re.compile(
    r"[\[*_+|\-= ]*(?:Original )?(?:Transcriber|Transcriptionist|Proofreader|Producer)s?"
    r"['’]?s?['’]? *(?:Endn|N)otes?\b",
    re.IGNORECASE,
)
PICTURE = re.compile(
    r"^[ \t]*(?:\[(?:Illustration|Frontispiece)(?::[^\[\]]{0,1000})?\]|\d{4,5}[ml])[ \t]*\n",
    re.IGNORECASE | re.MULTILINE,
)
LANGUAGE = re.compile(r"^Language: *(\w+)", re.MULTILINE | re.IGNORECASE)
CHARSET = re.compile(rb"^Character set encoding: *([\w-]+)", re.MULTILINE | re.IGNORECASE)
HEADER_CHARS = 60_000  # the longest small print with its list of donations states is about 30,000
# How many paragraphs at either end may be credits and notes; of a long book a twentieth.
FRONT_PARAGRAPHS, BACK_PARAGRAPHS = 12, 5
ISO_639 = {
    # The languages of most of Gutenberg's books; in another one the identifier decides.
    **{
        "chinese": "zh",
        "czech": "cs",
        "danish": "da",
        "dutch": "nl",
        "english": "en",
        "esperanto": "eo",
        "finnish": "fi",
        "french": "fr",
    },
    **{
        "german": "de",
        "greek": "el",
        "hungarian": "hu",
        "italian": "it",
        "japanese": "ja",
        "latin": "la",
        "norwegian": "no",
    },
    **{
        "polish": "pl",
        "portuguese": "pt",
        "russian": "ru",
        "spanish": "es",
        "swedish": "sv",
        "tagalog": "tl",
        "welsh": "cy",
    },
}


class Unwrapped(NamedTuple):
    """A book's own text, and its language by the header ("" = not said)."""

    text: str
    language: str


def without_gutenberg(text: str) -> Unwrapped:
    """The text between Project Gutenberg's header and footer; any other text as it is."""
    begin = _begin(text)
    end = _end(text, begin)
    if begin == 0 and end == len(text):
        return Unwrapped(text.strip("\n") + "\n", "")
    # In the header alone: a book may say "Language:" in its own text.
    language = LANGUAGE.search(text[: begin or 2_000])
    body = _without_notes(PICTURE.sub("", text[begin:end]))
    return Unwrapped(body, ISO_639.get(language[1].lower(), "") if language else "")


def declared_charset(data: bytes) -> str | None:
    """The encoding that the header names."""
    match = CHARSET.search(data[:HEADER_CHARS])
    return match[1].decode() if match else None


def _begin(text: str) -> int:
    header = text[:HEADER_CHARS]
    if start := START.search(header):
        return start.end()
    # Etexts of 1991 to 2002 have no starred START line: the book begins after the small print.
    ends = [match.end() for match in SMALL_PRINT_ENDS.finditer(header)]
    return ends[-1] if ends and _late_small_print(text, 0) is None else 0


def _end(text: str, begin: int) -> int:
    footer = END.search(text, begin)
    end = footer.start() if footer else len(text)
    return end if (late := _late_small_print(text, begin)) is None else min(end, late)


def _late_small_print(text: str, begin: int) -> int | None:
    """Where the small print begins if, as in some of the first etexts, it stands behind the book."""
    match = SMALL_PRINT_BEGINS.search(text, begin)
    # In the first quarter the small print is the header, and what follows it is the book.
    return match.start() if match and match.start() > len(text) // 4 else None


def _without_notes(body: str) -> str:
    """Credits and notes are whole paragraphs near either end; a note in brackets goes on to the closing
    one.
    """
    paragraphs = re.split(r"\n[ \t]*\n", body.strip("\n"))
    dropped: set[int] = set()
    n_front = max(FRONT_PARAGRAPHS, len(paragraphs) // 20)
    n_back = max(BACK_PARAGRAPHS, len(paragraphs) // 20)
    for n, paragraph in enumerate(paragraphs[:n_front]):
        if n < FRONT_PARAGRAPHS and CREDIT.match(paragraph.lstrip("\n")):
            dropped.add(n)
        elif NOTE.match(paragraph.lstrip("\n")):
            dropped.update(range(n, _after_note(paragraphs, n)))
    for n in range(max(len(paragraphs) - n_back, len(paragraphs) // 2), len(paragraphs)):
        if NOTE.match(paragraphs[n].lstrip("\n")):
            dropped.update(range(n, len(paragraphs)))
    book_paragraphs = [paragraph for n, paragraph in enumerate(paragraphs) if n not in dropped]
    return "\n\n".join(book_paragraphs).strip("\n") + "\n"


def _after_note(paragraphs: list[str], n: int) -> int:
    heading = paragraphs[n].strip()
    if heading.startswith("["):
        closing = (
            last
            for last in range(n, min(n + 10, len(paragraphs)))
            if paragraphs[last].rstrip().endswith("]")
        )
        return next(closing, n) + 1
    if "\n" in heading or len(heading) > 40:
        return n + 1
    # A heading alone: its note is the next paragraph that is not blank.
    return (
        next((below for below in range(n + 1, len(paragraphs)) if paragraphs[below].strip()), n) + 1
    )
