"""The same characters for the same text: NFC, newlines, control characters, double-encoded letters, blank lines."""

import re
import unicodedata

from pydantic import BaseModel

from data_pipeline.clean.rule import Check
from data_pipeline.document import Document, content_id
from data_pipeline.drops import Drops

NEWLINES = re.compile(r"\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x1f\x7f-\x9f\u200b\u2060\ufeff\ufffe\uffff]|[\ud800-\udfff]")
TRAILING = re.compile(r"[ \t\u00a0]+$", re.MULTILINE)
BLANK_LINES = re.compile(r"\n{4,}")
# UTF-8 read as Windows-1252 and stored again: runs that begin like a UTF-8 lead byte and go on like its tail
MOJIBAKE = re.compile(
    r"[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]{1,3}"
)


class Normalise(BaseModel, frozen=True, extra="forbid", strict=True):
    """Rewrites, drops nothing but what is empty afterwards; indentation stays as it is.

    Attributes:
        sources: The sources it applies to.
        repair_mojibake: Undo double encoding (`cafÃ©` → `café`); off for code, where such characters may be meant.
    """

    sources: tuple[str, ...]
    repair_mojibake: bool

    def start(self, drops: Drops) -> Check:
        """The check: a document with its text normalised."""

        def check(document: Document) -> Document | None:
            text = normalise(document.text)
            if self.repair_mojibake:
                text = MOJIBAKE.sub(repair, text)
            return retext(document, text) if text.strip() else drops.add(document.source, "empty", document.path)

        return check


def normalise(text: str) -> str:
    """NFC, `\\n` line ends, no control characters, no trailing spaces, at most two blank lines in a row, one newline at the end."""
    text = CONTROL.sub("", NEWLINES.sub("\n", unicodedata.normalize("NFC", text)))
    return BLANK_LINES.sub("\n\n\n", TRAILING.sub("", text)).strip("\n") + "\n"


def repair(match: re.Match) -> str:
    """The letter that a run of doubly encoded characters stands for, or the run itself when it stands for none."""
    try:
        return match[0].encode("cp1252").decode()
    except UnicodeError:
        return match[0]


def retext(document: Document, text: str) -> Document:
    """The document with another text, and the id that goes with it."""
    return document if text == document.text else document._replace(text=text, id=content_id(text))
