"""PDF → the text of its pages, by PDFium; runs in a child process (`worker.py`), because a file can be built
to take minutes or all memory.

PDFium is what Chrome shows PDFs with: it is fuzzed without pause, knows fonts without a table of characters,
and is some ten times faster than readers in Python. pypdfium2 brings it as one wheel without dependencies.
"""

import re
from typing import Any

from data_pipeline.readers.epub import MAX_TEXT_BYTES

MAX_PAGES = 20_000  # of the longest books some 5,000; a tree of pages may name one a billion times
# PDFium's sign for a hyphen at a line end, behind which it puts the next line's first word.
CUT_WORD = re.compile(r"(\w+)\x02(\w+)")
HYPHENATED = re.compile(r"\w+-\w+")
LINE_END = re.compile(r"[ \t]*\r?\n|\r")
# What no text has: other marks of PDFium, and what fonts without a table of characters give.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\xad\ufffe\uffff]")


def pdf_text(data: bytes) -> bytes:
    """A space and how many pages could not be read; then, on lines as the pages have them, the text, with
    a blank line between pages.

    Raises:
        ValueError: One word why it cannot be read: broken, encrypted, too_large, without_text.
    """
    import pypdfium2  # in the child only, and only where the extra `documents` is installed

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        # Its only exception; the words are PDFium's own.
        raise ValueError("encrypted" if "password" in str(error).lower() else "broken") from error
    if len(document) > MAX_PAGES:
        raise ValueError("too_large")
    pages, n_bytes = [], 0
    for number in range(len(document)):
        try:
            text = _text_of(document[number])
        except pypdfium2.PdfiumError:
            continue  # counted at the end: one damaged page costs no other
        n_bytes += len(text)
        if n_bytes > MAX_TEXT_BYTES:
            raise ValueError("too_large")
        pages.append(text)
    if not pages:
        raise ValueError("broken")
    text = _with_whole_words("\n\n".join(filter(str.strip, pages)))
    # Pictures of pages, which only a program that recognises letters could read.
    if not text.strip():
        raise ValueError("without_text")
    return f" {len(document) - len(pages)}\n{text}\n".encode(errors="replace")


def _text_of(page: Any) -> str:
    text_page = page.get_textpage()
    text = text_page.get_text_bounded()
    # At once: what PDFium keeps of a page may be many times its text.
    text_page.close()
    page.close()
    return LINE_END.sub("\n", text).strip("\n")


def _with_whole_words(text: str) -> str:
    """The text without hyphens that the ends of lines brought in; a word that has one elsewhere in the text
    keeps it.
    """
    hyphenated = set(HYPHENATED.findall(text))

    def whole(cut: re.Match) -> str:
        with_hyphen = f"{cut[1]}-{cut[2]}"
        return with_hyphen if with_hyphen in hyphenated else cut[1] + cut[2]

    # What is left stood beside a bracket or a dash, and was a hyphen of the author's.
    return CONTROL.sub("", CUT_WORD.sub(whole, text).replace("\x02", "-"))
