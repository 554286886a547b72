"""Bytes of a page → characters, as browsers read them, except that valid UTF-8 is believed before any
declaration.

Servers and authors declare charsets wrongly (a default of the server, a copied `<meta>`), but text of a
legacy charset is almost never valid UTF-8 by chance.
"""

import codecs
import re

# https://encoding.spec.whatwg.org/#decode: a byte order mark wins over everything that is declared.
BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Codecs of the standard's names that know fewer characters than browsers do, and those that know them.
CODECS = {
    "big5": "big5hkscs",
    "euc_kr": "cp949",
    "gbk": "gb18030",
    "iso8859-11": "cp874",
    "shift_jis": "cp932",
}
# Labels of the standard that resiliparse's table lacks.
LABELS = {"x-mac-cyrillic": "mac_cyrillic", "x-mac-ukrainian": "mac_cyrillic"}
# What Python's cp932 makes of four bytes that begin no character.
NO_CHARACTERS = "\uf8f0\uf8f1\uf8f2\uf8f3"
META_BYTES = 1 << 12  # the standard asks for 1,024, but heads with long scripts are common
COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
META = re.compile(
    rb"""<meta\s[^>]*?\bcharset\s*=\s*["']?\s*([\w.:-]+)|<\?xml\s[^>]*?\bencoding\s*=\s*["']([\w.:-]+)""",
    re.IGNORECASE,
)
TAG = re.compile(rb"<[^>]*>")
# Of ten characters beyond ASCII one may be broken: cut multi-byte characters, a pasted line of another
# charset. A wrong charset breaks most of them.
MIN_GOOD_PER_BAD = 10


def decoded(html: bytes, declared: str) -> str:
    """The page's characters; bytes that stand for none are U+FFFD.

    Args:
        html: The page.
        declared: The charset of the HTTP header, or "".
    """
    from resiliparse.parse.encoding import detect_encoding  # in the child only

    for mark, codec in BOMS:
        if html.startswith(mark):
            return html[len(mark) :].decode(codec, "replace")
    charsets = [codec for codec in (codec_of(declared), codec_of(declared_inside(html))) if codec]
    # ISO-2022-JP is made of ASCII bytes, and so is half of UTF-16: both are valid UTF-8 without being it.
    looks_like_ascii = b"\x1b$" in html or b"\0" in html[:META_BYTES]
    for codec in [*charsets, "utf-8"] if looks_like_ascii else ["utf-8", *charsets]:
        text = read_as(codec, html)
        if is_right(text):
            return text
    # Markup is ASCII in any charset; without it the detector sees the text alone.
    detected = codec_of(detect_encoding(TAG.sub(b" ", html), max_len=1 << 17) or "")
    return read_as(detected or "utf-8", html)


def read_as(codec: str, html: bytes) -> str:
    """The characters of a codec, U+FFFD where there is none."""
    text = html.decode(codec, "replace")
    for character in NO_CHARACTERS if codec == "cp932" else "":
        text = text.replace(character, "\ufffd")
    return text


def is_right(text: str) -> bool:
    """Whether decoding broke so little that the charset must be the right one."""
    n_bad = text.count("\ufffd")
    # The page may hold U+FFFD itself; then it is counted as broken, and there are few.
    return not n_bad or n_bad * MIN_GOOD_PER_BAD <= sum(char > "\x7f" for char in text) - n_bad


def codec_of(label: str) -> str:
    """Python's codec for a charset's name on the web; "" for a name that browsers do not know."""
    from resiliparse.parse.encoding import map_encoding_to_html5

    label = label.strip().strip("\"'").lower()
    codec = LABELS.get(label) or map_encoding_to_html5(label, fallback_utf8=False) or ""
    return CODECS.get(codec, codec)


def declared_inside(html: bytes) -> str:
    """The charset that the page itself declares, in a `<meta>` or an XML declaration, or ""."""
    found = META.search(COMMENT.sub(b"", html[:META_BYTES]))
    label = (found[1] or found[2]).decode() if found else ""
    # Who could read so far in ASCII bytes does not read UTF-16; browsers take UTF-8 then, too.
    return "utf-8" if label.lower().startswith("utf-16") else label
