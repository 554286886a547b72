"""The same characters for the same text: NFC, newlines, control characters, double-encoded letters, blank
lines.
"""

import re
import unicodedata
from typing import ClassVar

from pydantic import BaseModel

from data_pipeline.clean.rule import Limit, Signals
from data_pipeline.documents.document import Document

# \x85 and \x1c to \x1e are newlines
# Of the control characters only tab, newlines and page breaks carry meaning; U+200B and its kin are
# invisible, and lone surrogates cannot be encoded.
CONTROL = re.compile(
    r"[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\u200b\u2060\ufeff\ufffe\uffff\ud800-\udfff]"
)
# Code keeps what its strings may hold: of it only what no file can hold goes, and a mark at its beginning.
CODE_CONTROL = re.compile(r"\A[\s\x00\ufeff\ud800-\udfff]*\ufeff|[\x00\ud800-\udfff]")
CODE_LINE_END = re.compile(r"\r\n?|\n")
# Not all white space: a line of ideographic spaces is somebody's layout.
TRAILING = " \t\u00a0"
BLANK_LINES = re.compile(r"\n{4,}")
# Lines that may be UTF-8 read as Windows-1252, ISO-8859-1 or, in Cyrillic, as Windows-1251: what a lead
# byte became, then what its tail bytes became.
LATIN_TAIL = (
    r"[\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc"
    r"\u2013-\u203a\u20ac\u2122]"
)
CYRILLIC_TAIL = (
    r"[\u00a0-\u00bb\u0401-\u040f\u0451-\u045f\u0490\u0491\u2013-\u203a\u20ac\u2116\u2122]"
)
SUSPECT = re.compile(  # one class first, which `re` looks for ten times as fast as for alternatives
    rf"[\u00c2-\u00f4РС](?:(?<=[\u00c2-\u00df]){LATIN_TAIL}|(?<=\u00c3) "
    rf"|(?<=[\u00e0-\u00f4]){LATIN_TAIL}{{2}}"
    rf"|(?<=[РС]){CYRILLIC_TAIL}[РС]{CYRILLIC_TAIL})"
)


class Normalise(BaseModel, frozen=True, extra="forbid", strict=True):
    """Rewrites, drops nothing but what is empty afterwards; indentation stays as it is.

    Attributes:
        sources: The sources it applies to.
        repair_mojibake: Undo double encoding (`cafÃ©` → `café`); off for code, where such characters may be
        meant, and whose characters all stay.
    """

    VERSION: ClassVar[int] = 3
    LATE: ClassVar[frozenset[str]] = frozenset()
    EDITS: ClassVar[bool] = True
    sources: tuple[str, ...]
    repair_mojibake: bool

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """The documents rewritten; nothing is measured."""
        return [retext(document, self.normalised(document.text)) for document in documents], {}

    def normalised(self, text: str) -> str:
        """The text, or "" where nothing but white space is left."""
        if not self.repair_mojibake:
            text = normalise_code(text)
            return text if text.strip() else ""
        normal = normalise(repaired(text))
        # What was taken out may have stood between two characters that only now look like a wrong encoding.
        while not normal.isascii() and SUSPECT.search(normal):
            again = normalise(repaired(normal))
            if again == normal:
                break
            normal = again
        return normal if normal.strip() else ""

    def limits(self) -> tuple[Limit, ...]:
        """No limit: a text that is empty afterwards is dropped without one."""
        return ()


def repaired(text: str) -> str:
    """The text with its double encoding undone."""
    # ftfy's model is slow, so it sees only lines that look like one encoding read as another. It goes before
    # `normalise`: what UTF-8 became as ISO-8859-1 has control characters, which that takes out.
    if text.isascii() or not SUSPECT.search(text):
        return text
    return "\n".join(repair(line) if SUSPECT.search(line) else line for line in text.split("\n"))


def normalise(text: str) -> str:
    """NFC, `\\n` line ends, no control characters, no trailing spaces, at most two blank lines in a row,
    one newline at the end.
    """
    text = unicodedata.normalize("NFC", CONTROL.sub("", text))
    # `splitlines` knows all of Unicode's line ends; from here on there is `\n` alone.
    return joined([line.rstrip(TRAILING) for line in text.splitlines()])


def normalise_code(text: str) -> str:
    """The same for what may be code, whose strings stay as they are: line ends of prose, accents apart from
    their letters, joiners and control characters are what they say.
    """
    lines = []
    for line in CODE_LINE_END.split(CODE_CONTROL.sub("", text)):
        bare = line.rstrip(TRAILING)
        # A space behind a backslash is not the end of the line, and without it the next line would be joined.
        lines.append(line[: len(bare) + 1] if bare.endswith("\\") else bare)
    return joined(lines)


def joined(lines: list[str]) -> str:
    """The lines, at most two blank ones in a row, with one newline at the end."""
    text = "\n".join(lines)
    # A plain search first: most texts have no run of blank lines, and `re` is slower.
    if "\n\n\n\n" in text:
        text = BLANK_LINES.sub("\n\n\n", text)
    return text.strip("\n") + "\n"


def repair(line: str) -> str:
    """What a line said before its UTF-8 was read as something else, by ftfy; it changes only what its model
    of such accidents finds.
    """
    import ftfy  # 0.1 s, and no page of most batches needs it

    return ftfy.fix_encoding(line)


def retext(document: Document, text: str) -> Document:
    """The document with another text; its id stays that of the text as it was read."""
    return document if text == document.text else document._replace(text=text)
