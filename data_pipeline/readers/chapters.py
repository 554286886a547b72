"""A book's chapters, by the headings that stand alone between blank lines."""

import re

NUMBER = (
    r"(?:[ivxlcdm]+|\d{1,3}|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen"
    r"|fifteen|sixteen|seventeen|eighteen|nineteen|twenty(?:[- ]\w+)?|thirty(?:[- ]\w+)?|forty(?:[- ]\w+)?"
    r"|(?:the )?(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|last)"
    r"|(?:перв|втор|трет|четв[её]рт|пят|шест|седьм|восьм|девят|десят|последн)\w{1,4})"
)
NAME = (
    r"(?:chapter|book|part|volume|act|scene|canto|letter|stave|section|kapitel|buch|teil|chapitre|livre"
    r"|partie|cap[ií]tulo|libro|parte|capitolo|глава|часть|книга|том|действие|явление|раздел)"
)
ALONE = (
    r"(?:prologue|epilogue|preface|foreword|introduction|conclusion|afterword|appendix|contents"
    r"|table of contents|пролог|эпилог|предисловие|введение|послесловие|заключение|содержание|оглавление)"
)
# the heading's line, perhaps with its title, after a blank line; then a blank line, or up to two of title and
# a blank one
HEADING = re.compile(
    rf"(?:\A|(?<=\n\n))[ \t_*=]*(?:the )?(?:{NAME}\s+(?:the )?{NUMBER}\b"
    rf"|(?:{NUMBER}\s+{NAME}|{ALONE})[ \t_*=.:]*$|[IVXLC]+\.?[ \t]*$)"
    r"[^\n]{0,100}\n(?=(?:[^\n]{1,100}\n){0,2}[ \t]*\n)",
    re.IGNORECASE | re.MULTILINE,
)
MIN_CHAPTER_CHARS = 400  # less between two headings is a title page or a line of the contents
CONTENTS_HEADINGS = 3


def chapters(text: str) -> list[str]:
    """The text cut before each heading (`\\f` stands before those that markup told), nothing lost:
    "".join(chapters(text)) == text.

    A few headings on end ("BOOK ONE", "CHAPTER I") open the chapter below them; a longer run of them is a
    table of contents, a piece of its own.
    """
    marked = (mark.start() for mark in re.finditer("\f", text))
    # A set: a heading may be found both by its words and by its mark.
    cuts = sorted({0, *(heading.start() for heading in HEADING.finditer(text)), *marked, len(text)})
    pieces: list[str] = []
    short: list[str] = []
    # Pieces too short for a chapter wait: they are headings of the next long piece, or a table of contents.
    for begin, end in zip(cuts, cuts[1:], strict=False):
        if end - begin < MIN_CHAPTER_CHARS:
            short.append(text[begin:end])
            continue
        n_contents = _n_contents(short)
        pieces += ["".join(short[:n_contents])] if n_contents else []
        pieces.append("".join(short[n_contents:]) + text[begin:end])
        short = []
    if not pieces:
        return [text]
    # What is short at the very end belongs to the last chapter.
    pieces[-1] += "".join(short)
    return pieces


def _n_contents(short: list[str]) -> int:
    """How many of the headings are a table of contents; the last ones, set apart by blank lines, are the
    chapter's own.
    """
    if len(short) < CONTENTS_HEADINGS:
        return 0
    n = len(short)
    # At most two headings of a long run open the chapter: "BOOK ONE", "CHAPTER I".
    while n > len(short) - CONTENTS_HEADINGS + 1 and short[n - 2].endswith("\n\n\n"):
        n -= 1
    return n
