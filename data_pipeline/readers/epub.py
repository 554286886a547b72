"""EPUB → text in reading order; runs in a child process (`worker.py`), because a book can be built to take
minutes or all memory.
"""

import io
import posixpath
import re
import zipfile
import zlib
from urllib.parse import unquote
from xml.etree import ElementTree

from data_pipeline.readers.charset import decoded
from data_pipeline.readers.extract import text_of_page

MAX_TEXT_BYTES = 64 << 20  # pages of one book, unpacked; the largest dictionaries have about 20 MB
MAX_XML_BYTES = 8 << 20
PAGE = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")
HEAD_MARK = "\ue000"  # private: put before a heading, so that it is known from the lines around it
HEADING = re.compile(r"(<h[1-3](?:\s[^>]*)?(?<!/)>)", re.IGNORECASE)  # not one that ends itself
HEAD = re.compile(r"<head\b[^>]*>.*?</head>", re.IGNORECASE | re.DOTALL)
MARKED_LINE = re.compile(rf"[ \t]*{HEAD_MARK}[ \t{HEAD_MARK}]*")


def epub_text(data: bytes) -> bytes:
    """Language, a newline, then the text of the book; `\\f` before each heading.

    Raises:
        ValueError: One word why it cannot be read: broken, encrypted, too_large, too_deep,
            no_pages.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as book:
            language, names = _spine(book)
            text = "\n\n".join(page_text(decoded(page, "")) for page in _pages(book, names))
    except (
        zipfile.BadZipFile,
        KeyError,
        ElementTree.ParseError,
        NotImplementedError,
        EOFError,
        OSError,
        zlib.error,
    ) as error:
        raise ValueError("broken") from error
    except RuntimeError as error:  # how zipfile says that a password is wanted
        raise ValueError("encrypted") from error
    return f"{language}\n{text}".encode(errors="replace")


def _spine(book: zipfile.ZipFile) -> tuple[str, list[str]]:
    """Language, and the names of the pages in reading order."""
    # The one fixed name of the format: it says where the package file is, which lists the pages.
    container = _xml(book, "META-INF/container.xml")
    rootfile = container.find(".//{*}rootfile")
    if rootfile is None:
        raise ValueError("broken")
    package_name = unquote(rootfile.get("full-path", ""))
    package = _xml(book, package_name)
    folder = posixpath.dirname(package_name)
    manifest = {
        # Without a fragment: some books list places inside of pages, each of which is then read once.
        item.get("id"): posixpath.normpath(
            posixpath.join(folder, unquote(item.get("href", "").partition("#")[0]))
        )
        for item in package.iterfind(".//{*}manifest/{*}item")
        if item.get("media-type") in PAGE and "nav" not in item.get("properties", "").split()
    }
    refs = [
        ref.get("idref")
        for ref in package.iterfind(".//{*}spine/{*}itemref")
        if ref.get("linear") != "no"
    ]
    # A page named twice is read once; `dict.fromkeys` keeps the reading order.
    names = list(dict.fromkeys(manifest[ref] for ref in refs if ref in manifest))
    if not names:
        raise ValueError("no_pages")
    if "META-INF/encryption.xml" in book.namelist():  # it may also speak of fonts alone
        hidden = {
            unquote(ref.get("URI", ""))
            for ref in _xml(book, "META-INF/encryption.xml").iterfind(".//{*}CipherReference")
        }
        # Encrypted fonts do not matter; an encrypted page makes the book unreadable.
        if hidden & set(names):
            raise ValueError("encrypted")
    language = package.findtext(".//{http://purl.org/dc/elements/1.1/}language") or ""
    return language.strip().lower().split("-")[0][:3], names


def _pages(book: zipfile.ZipFile, names: list[str]) -> list[bytes]:
    """The pages' bytes; sizes are checked before anything is unpacked, and no entry unpacks to more than it
    says.
    """
    # Sizes by the archive's directory; `read` fails if an entry unpacks to more.
    if sum(book.getinfo(name).file_size for name in names) > MAX_TEXT_BYTES:
        raise ValueError("too_large")
    return [book.read(name) for name in names]


def _xml(book: zipfile.ZipFile, name: str) -> ElementTree.Element:
    if book.getinfo(name).file_size > MAX_XML_BYTES:
        raise ValueError("too_large")
    data = book.read(name)
    # Entities that name one another grow without bound; the zero bytes of UTF-16 must not hide them.
    if b"<!ENTITY" in data.replace(b"\0", b""):
        raise ValueError("broken")
    return ElementTree.fromstring(data)


def page_text(page: str) -> str:
    """All text of an (X)HTML page, with `\\f` before each heading."""
    # Without <head>, whose title would be in the text of every page.
    page_html = HEAD.sub("", page.replace(HEAD_MARK, ""), count=1)
    text = text_of_page(HEADING.sub(rf"\1{HEAD_MARK}", page_html), main=False, alt_texts=False)
    return "\n".join(_line(line) for line in text.split("\n"))


def _line(line: str) -> str:
    mark = MARKED_LINE.match(line)
    return ("\f" + line[mark.end() :] if mark else line).replace(HEAD_MARK, "")
