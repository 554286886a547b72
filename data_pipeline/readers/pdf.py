"""PDF → the text of its pages, by PDFium; runs in a child process (`worker.py`), because a file can be built
to take minutes or all memory.

PDFium is what Chrome shows PDFs with: it is fuzzed without pause, knows fonts without a table of characters,
and is some ten times faster than readers in Python. pypdfium2 brings it as one wheel without dependencies.
"""

import re
from collections.abc import Iterator
from typing import Any

from data_pipeline.readers.epub import MAX_TEXT_BYTES

MAX_PAGES = 20_000  # of the longest books some 5,000; a tree of pages may name one a billion times
# PDFium's sign for a hyphen at a line end that parts a word.
SOFT_HYPHEN = re.compile("[\ufffe\u00ad]\n?")
LINE_END = re.compile(r"[ \t\0]*\r?\n|\r")


def pdf_text(data: bytes) -> bytes:
    """An empty line, where a language would stand, then the text: lines as they are on the page, a blank line
    between pages.

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
    text = "\n\n".join(_pages(document))
    # Pictures of pages, which only a program that recognises letters could read.
    if not text.strip():
        raise ValueError("without_text")
    return f"\n{text}\n".encode(errors="replace")


def _pages(document: Any) -> Iterator[str]:
    n_bytes = 0
    for page in document:
        text_page = page.get_textpage()
        text = text_page.get_text_bounded()
        # At once: what PDFium keeps of a page may be many times its text.
        text_page.close()
        page.close()
        n_bytes += len(text)
        if n_bytes > MAX_TEXT_BYTES:
            raise ValueError("too_large")
        text = SOFT_HYPHEN.sub("", LINE_END.sub("\n", text)).strip("\n")
        if text.strip():
            yield text
