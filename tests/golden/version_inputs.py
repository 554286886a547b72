"""Small fixed inputs for the golden outputs of data components: files for readers, texts for rules.

A word changed here changes the outputs: rewrite them on a clean tree (`python -m tests.golden.versions`).
"""

import gzip
import io
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.documents.document import Document, content_id
from data_pipeline.readers.warc_records import write_record
from tests.data_pipeline.texts import CHINESE, ENGLISH, JAPANESE, RUSSIAN, THAI

PAGE = """<html><head><title>On {n}</title></head><body><nav><a href="/">Home</a></nav><main><h1>Heading {n}</h1>
<p>The {n}th page says something of its own, and says it in a whole sentence. It costs 3 &lt; 4 &euro;.</p>
<ul><li>one</li><li>two</li></ul><table><tr><td>a</td><td>b</td></tr></table><pre>x = 1
  y = 2</pre></main><footer>Terms of use. Cookie policy.</footer></body></html>"""
BOOK = """Title: A Small Book

*** START OF THE PROJECT GUTENBERG EBOOK A SMALL BOOK ***

CHAPTER I. The Morning

It began on a morning in May, when nobody in the whole of the village
had thought of anything but the hay, and it went on until the evening.

CHAPTER II. The Evening

It ended as such things end, with a long walk home under the many stars
and with nobody who could say what it had been about from the beginning.

*** END OF THE PROJECT GUTENBERG EBOOK A SMALL BOOK ***
"""
MODULE = '''"""A module about folding {thing}, long enough to be a docstring that is read."""

# SPDX-License-Identifier: MIT


class Page:
    """A page of {thing} that can be folded and unfolded again."""

    def fold(self, times: int = 1) -> "Page":
        """Fold the {thing} as often as said and give it back to whoever asked."""
        return [self for _ in range(times)][-1]

    def flatten(self, pages):
        """Press all pages of {thing} flat again without tearing a single one."""
        return sorted(pages, key=lambda page: page.thickness)


def weigh(pages, unit="gram"):
    """The weight of several pages of {thing} together, in the unit that is named."""
    return sum(page.weight for page in pages) if unit == "gram" else None
'''
THINGS = ("paper", "cloth", "tin", "leather", "canvas", "silk", "cardboard", "foil")
ROWS = [
    {"text": ENGLISH, "url": "http://a.org/x?q=1#y", "lang": "en", "split": 1},
    {"text": RUSSIAN, "url": "http://a.org/x?q=2", "lang": "ru", "split": 2},
    {"text": " ", "url": "http://a.org/z", "lang": "", "split": 3},
]
# of numbers that no scanner takes for a live key
KEY = "AKIA" + "QX7ZJ4NW3KTV5RUH"
TEXTS = {
    "en.html": ENGLISH,
    "ru.html": RUSSIAN,
    "zh.html": CHINESE,
    "ja.html": JAPANESE,
    "th.html": THAI,
    "mixed.html": f"{ENGLISH}\n\n{RUSSIAN}\n{ENGLISH}",
    "again.html": ENGLISH.replace("bisection", "bisecting"),
    "same.html": ENGLISH,
    "notice.html": "Please enable JavaScript. Our site uses cookies.\n\nHome | Share | 12 likes\n"
    * 4,
    "mojibake.html": "Itâ€™s a cafÃ©, naÃ¯ve and\u200b zero\r\nwide.\x07 Ａ ﬁ …\n\n\n\nEnd.",
    "pii.html": "Write to jane.doe@mail.org or 198.51.24.7, +44 20 7946 0958, DE89370400440532013000, 4111 1111 1111 1111.",
    "bad.html": "You stupid idiots should all go to hell, I hate every single one of you. " * 3,
    "list.html": "- one\n- two ...\n- three …\n# four\n" * 8,
    "empty.html": "",
    "code.py": MODULE.format(thing="paper"),
    "table.json": json.dumps({"rows": [[i, i * i, f"{i:032x}"] for i in range(200)]}),
    "keys.py": f'aws = "{KEY}"\npassword = "correct-horse-9-battery"\n'
    + MODULE.format(thing="tin"),
}
CODE_SUFFIXES = (".py", ".json")
EXAMPLES = {
    "good": "the proof follows from the theorem and we measure the result and explain it",
    "bad": "click here to win now the best cheap deals buy buy",
}


def documents() -> list[Document]:
    """What every rule looks at; each is of the source `all`."""
    made = []
    for number, (path, text) in enumerate(TEXTS.items()):
        language = path[:2] if path[2:] == ".html" else "python" if path.endswith(".py") else "en"
        name = (
            path
            if path.endswith(CODE_SUFFIXES)
            else f"http://a{number}.example.com/sexy/{path}?q=1"
        )
        made.append(Document(content_id(text), text, "all", name, f"group{number}", language))
    return made


def write_inputs(folder: Path) -> None:
    """The files that readers, lists, tasks and classifiers read."""
    files: dict[str, bytes] = {
        "page.html": PAGE.format(n=0).encode(),
        "pages/latin.htm": LATIN_PAGE,
    }
    files |= {f"pages/{n}.html": PAGE.format(n=n).encode() for n in range(3)}
    files["web.warc.gz"] = b"".join(gzip.compress(record(n), mtime=0) for n in range(3))
    files["books/plain.txt"] = BOOK.encode()
    files["books/packed.txt.gz"] = gzip.compress(RUSSIAN.encode("utf-16"), mtime=0)
    files["books/pages.epub"] = epub()
    files["rows.jsonl"] = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS) + b"{broken\n"
    files |= {f"code/pkg/{thing}.py": MODULE.format(thing=thing).encode() for thing in THINGS}
    files["code/pkg/LICENSE"] = (
        b"MIT License\n\nPermission is hereby granted, free of charge, to any person"
    )
    files["code/tool"] = b"#!/bin/sh\necho one\n"
    files["code/notes.ipynb"] = notebook()
    files["tasks.jsonl"] = json.dumps(
        {"question": " ".join(ENGLISH.split()[:14]), "answer": "insertion"}
    ).encode()
    files["words.txt"] = b"# a list\nstupid\ngo to hell\n"
    files |= {f"{name}/texts.txt": text.encode() for name, text in EXAMPLES.items()}
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    table = pa.Table.from_pylist(ROWS)
    (folder / "tables").mkdir()
    (folder / "dataset").mkdir()
    pq.write_table(table, folder / "tables" / "rows.parquet", row_group_size=2)
    pq.write_table(table, folder / "dataset" / "train-00000.parquet")


LATIN_PAGE = (
    '<meta charset="latin-1"><main><p>Voilà un café, et une phrase entière.</p></main>'.encode(
        "latin-1"
    )
)


def record(n: int) -> bytes:
    """A page of a crawl."""
    return write_record(
        url=f"http://example.org/{n}?q", html=PAGE.format(n=n).encode(), date="2000-01-01T00:00:00Z"
    )


def epub() -> bytes:
    """A book of one chapter."""
    opf = (
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
        "<dc:language>en</dc:language></metadata><manifest>"
        '<item id="p" href="p.xhtml" media-type="application/xhtml+xml"/></manifest>'
        '<spine><itemref idref="p"/></spine></package>'
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="book.opf"/></rootfiles></container>'
    )
    page = (
        '<html xmlns="http://www.w3.org/1999/xhtml"><body><h2>One</h2><p>A story.</p></body></html>'
    )
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as book:
        book.writestr("META-INF/container.xml", container)
        book.writestr("book.opf", opf)
        book.writestr("p.xhtml", page)
    return data.getvalue()


def notebook() -> bytes:
    """A notebook of a text cell and a code cell."""
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["# Title\n", "Prose."]},
        {"cell_type": "code", "metadata": {}, "source": "x = 1\nprint(x)", "outputs": []},
    ]
    metadata = {"kernelspec": {"language": "python"}}
    return json.dumps(
        {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells}
    ).encode()
