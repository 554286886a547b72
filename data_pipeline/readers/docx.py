"""DOCX → its text; runs in a child process (`worker.py`), because a file can be built to take minutes or all
memory.

mammoth makes an HTML page of it, which keeps what reading the paragraphs alone would lose: tables, lists,
footnotes, and text that was inserted while changes were tracked. It is Python alone.
"""

import io
import zipfile

from data_pipeline.readers.epub import page_text

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # of what Office encrypts, and of files before 2007
MAX_XML_BYTES = (
    32 << 20
)  # of markup, unpacked: some twenty times the text; in memory thirty times that


def docx_text(data: bytes) -> bytes:
    """An empty line, where a language would stand, then the text; `\\f` before each heading.

    Raises:
        ValueError: One word why it cannot be read: broken, encrypted, too_large.
    """
    import mammoth  # in the child only, and only where the extra `documents` is installed

    if data.startswith(OLE):
        raise ValueError("encrypted")
    _check(data)
    # A picture becomes nothing, so that none is decoded and none elsewhere is opened.
    no_pictures = mammoth.images.img_element(lambda image: {})
    page = mammoth.convert_to_html(io.BytesIO(data), convert_image=no_pictures).value
    return f"\n{page_text(page)}\n".encode(errors="replace")


def _check(data: bytes) -> None:
    """Refuse an archive that unpacks to too much, or whose XML could grow without bound."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            markup = [
                entry for entry in archive.infolist() if entry.filename.endswith((".xml", ".rels"))
            ]
            # Sizes by the archive's directory; reading an entry ends there.
            if sum(entry.file_size for entry in markup) > MAX_XML_BYTES:
                raise ValueError("too_large")
            for entry in markup:
                # Entities may name one another; the zero bytes of UTF-16 must not hide them.
                if b"<!ENTITY" in archive.read(entry).replace(b"\0", b""):
                    raise ValueError("broken")
    except RuntimeError as error:  # how zipfile says that a password is wanted
        raise ValueError("encrypted") from error
