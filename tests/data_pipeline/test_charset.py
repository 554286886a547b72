"""Character sets and HTTP encodings of pages: what browsers would show, whatever the headers say."""

import gzip
import zlib

import brotli
import ftfy
import pytest
import zstandard

from data_pipeline.clean.normalise import Normalise
from data_pipeline.readers.charset import codec_of, decoded
from data_pipeline.readers.extract import depth
from data_pipeline.readers.page_source import closed
from data_pipeline.readers.warc import Warc
from tests.data_pipeline.reading import read, record, warc_record

CURLY = "It isn’t cheap — “five € or so”, don’t you think?"
RUSSIAN = "Вечером мы пошли к реке и долго смотрели на воду, Ёжик спал под крыльцом. " * 3
CHINESE = "朱镕基说，喆先生在深圳买了一本书，然后坐车回家，路上下了一场大雨。"
JAPANESE = "①番線の髙橋さんは電車で行きます。㈱山田の﨑本さんを待ちました。"
KOREAN = "똠방각하와 펲시콜라를 마셨다. 오늘은 비가 와서 집에서 책을 읽었다."
CANTONESE = "臺灣的天氣很好，嘅㗎係廣東話。"
THAI = "ร้าน “กาแฟ” นี้เปิดทุกวัน… ราคาไม่แพง"


@pytest.mark.parametrize(
    ("text", "codec", "declared"),
    [
        (CURLY, "cp1252", "ISO-8859-1"),
        (CURLY, "cp1252", '"latin1"'),
        (CURLY, "cp1252", "us-ascii"),
        ("İstanbul’da şiir", "cp1254", "iso-8859-9"),
        (CHINESE, "gb18030", "gb2312"),
        (CHINESE, "gb18030", "x-gbk"),
        (JAPANESE, "cp932", "Shift_JIS"),
        (JAPANESE, "cp932", "x-sjis"),
        (KOREAN, "cp949", "euc-kr"),
        (KOREAN, "cp949", "ks_c_5601-1987"),
        (CANTONESE, "big5hkscs", "big5"),
        (THAI, "cp874", "tis-620"),
        (RUSSIAN, "koi8-r", "koi8-r"),
        (RUSSIAN, "mac_cyrillic", "x-mac-cyrillic"),
        ("日本語のページです。", "iso2022_jp", "iso-2022-jp"),
        # Valid UTF-8 is believed before what is declared, whatever that is.
        (RUSSIAN, "utf-8", "iso-8859-1"),
        (RUSSIAN, "utf-8", "windows-1251"),
        (CHINESE, "utf-8", "gb2312"),
        # What the declared charset cannot be is detected.
        (RUSSIAN, "windows-1251", "utf-8"),
        (RUSSIAN, "windows-1251", ""),
        (CHINESE * 3, "gb18030", "utf-8"),
        # A byte order mark wins over the header.
        ("\ufeff" + RUSSIAN, "utf-8", "windows-1251"),
        ("\ufeff" + RUSSIAN, "utf-16-le", "utf-8"),
        ("\ufeff" + RUSSIAN, "utf-16-be", "iso-8859-1"),
        (CURLY, "utf-16-le", "utf-16"),
    ],
)
def test_a_page_is_read_as_browsers_read_it(text, codec, declared):
    html = f"<html><body><p>{text}</p></body></html>"
    if text.startswith("\ufeff"):
        html = "\ufeff" + html.replace("\ufeff", "")
    assert f"<p>{text.lstrip(chr(0xFEFF))}</p>" in decoded(html.encode(codec), declared)


@pytest.mark.parametrize(
    ("head", "codec"),
    [
        ('<meta charset="gb2312">', "gb18030"),
        ("<META http-equiv=Content-Type content='text/html; charset=gbk'>", "gb18030"),
        ('<?xml version="1.0" encoding="gb18030"?>', "gb18030"),
        ('<!-- <meta charset="koi8-r"> --><meta charset="gb2312">', "gb18030"),
        ('<meta charset="utf-16">', "utf-8"),  # readable as ASCII, so it is none
    ],
)
def test_a_page_may_declare_its_charset_itself(head, codec):
    assert CHINESE in decoded(f"{head}<p>{CHINESE}</p>".encode(codec), "")


def test_broken_bytes_are_replaced_and_the_rest_is_read():
    for text, codec, declared in (
        (RUSSIAN, "utf-8", "utf-8"),
        (RUSSIAN, "utf-8", "windows-1251"),
        (JAPANESE, "cp932", "shift_jis"),
        (CHINESE, "gb18030", "gb2312"),
    ):
        page = decoded(f"<p>{text}</p><p>".encode(codec) + b"\xff</p>", declared)
        assert text in page and page.endswith("\ufffd</p>")


@pytest.mark.parametrize("name", ["", "no-such", "utf-7", "rot13", "base64", "undefined", "idna"])
def test_a_name_that_browsers_do_not_know_is_no_charset(name):
    assert codec_of(name) == ""


SENTENCE = "The ferry leaves at noon and comes back before supper with empty crates."
HTML = f"<html><body><main><p>{SENTENCE}</p></main></body></html>".encode()
RAW = zlib.compressobj(wbits=-15)
DEFLATE = RAW.compress(HTML) + RAW.flush()
CHUNKS = b"20\r\n%s\r\n%x;x=y\r\n%s\r\n0\r\n\r\n" % (HTML[:32], len(HTML) - 32, HTML[32:])


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Content-Encoding: gzip", HTML),
        ("Content-Encoding: br", HTML),
        ("Transfer-Encoding: chunked", HTML),
        ("Transfer-Encoding: chunked\r\nContent-Encoding: gzip", HTML),
        ("Transfer-Encoding: chunked", CHUNKS),
        ("Transfer-Encoding: chunked", CHUNKS[:-7]),
        ("Transfer-Encoding: chunked\r\nContent-Encoding: gzip", gzip.compress(HTML)),
        ("Content-Encoding: gzip", gzip.compress(HTML)),
        ("Content-Encoding: x-gzip", gzip.compress(HTML)),
        ("Content-Encoding: GZIP, gzip", gzip.compress(gzip.compress(HTML))),
        ("Content-Encoding: deflate", zlib.compress(HTML)),
        ("Content-Encoding: deflate", DEFLATE),
        ("Content-Encoding: deflate", gzip.compress(HTML)),
        ("Content-Encoding: br", brotli.compress(HTML)),
        ("Content-Encoding: zstd", zstandard.compress(HTML)),
        ("Content-Encoding: none", HTML),
        ("Content-Encoding: utf-8", HTML),
    ],
)
def test_a_body_is_read_whether_it_is_encoded_as_its_headers_say_or_not(tmp_path, headers, body):
    (tmp_path / "a.warc").write_bytes(record(0, body, headers=headers + "\r\n"))
    documents, counts = read(Warc(paths=(str(tmp_path),)), tmp_path)
    assert [d.text.strip() for d in documents] == [SENTENCE] and counts == {}


def test_bodies_that_are_in_no_known_encoding_are_counted(tmp_path):
    kinds = ("gzip", "br", "deflate", "zstd", "compress")
    bodies = [b"\x00\x01 no such thing", gzip.compress(HTML)[:-20], brotli.compress(HTML)[:-9]]
    pages = [
        record(n, body, headers=f"Content-Encoding: {kind}\r\n")
        for n, (kind, body) in enumerate((kind, body) for kind in kinds for body in bodies)
    ]
    (tmp_path / "a.warc").write_bytes(b"".join(pages))
    documents, counts = read(Warc(paths=(str(tmp_path),)), tmp_path)
    assert documents == [] and counts == {"page_undecodable": len(pages)}


def test_archives_and_responses_whose_heads_end_lines_with_bare_newlines_are_read(tmp_path):
    def http(newline: str, kind: str = "Content-Type: text/html") -> bytes:
        return newline.join(("HTTP/1.1 200 OK", kind, "Server: old", "", "")).encode() + HTML

    kind = "application/http; msgtype=response"
    records = [warc_record(n, "response", kind, http("\r\n"[n % 2 :])) for n in range(4)]
    bare = [
        each.replace(b"\r\n", b"\n", each[: each.find(b"HTTP/")].count(b"\n"))
        for each in records[2:]
    ]
    (tmp_path / "a.warc").write_bytes(b"".join(records[:2] + bare))
    documents, counts = read(Warc(paths=(str(tmp_path),)), tmp_path)
    assert [d.text.strip() for d in documents] == [SENTENCE] * 4 and counts == {}


def test_a_response_without_a_type_is_looked_at(tmp_path):
    def untyped(n: int, body: bytes) -> bytes:
        block = b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n" + body
        return warc_record(n, "response", "application/http; msgtype=response", block)

    pages = (
        HTML,
        b"<!-- a --><!DOCTYPE html>" + HTML,
        b"%PDF-1.4",
        b'{"a": "<p>"}',
        b"\xff\xd8\xff",
        b"<!---->" * 100
        + b"and no page",  # with every way to read n comments as one it took 2^n steps
    )
    (tmp_path / "a.warc").write_bytes(b"".join(map(untyped, range(6), pages)))
    documents, counts = read(Warc(paths=(str(tmp_path),)), tmp_path)
    assert [d.text.strip() for d in documents] == [SENTENCE] * 2
    assert counts == {"page_type_unknown": 4}


@pytest.mark.parametrize("text", ["Größe über Maß", "Привет, мир! Как дела?", "naïve café"])
@pytest.mark.parametrize("codec", ["latin-1", "cp1252"])
def test_utf_8_that_was_read_as_something_else_is_repaired_as_ftfy_does_alone(text, codec):
    rule = Normalise(sources=("x",), repair_mojibake=True)
    broken = text.encode().decode(codec, "replace")
    assert rule.normalised(broken).strip() == ftfy.fix_encoding(broken)
    assert "\ufffd" in broken or rule.normalised(broken).strip() == text


def test_elements_that_end_themselves_hold_nothing_and_do_not_nest():
    page = '<a id="x"/><p>after</p><br/><img src="y" /><a href=http://x/>link</a><i />'
    whole = '<a id="x"></a><p>after</p><br/><img src="y" /><a href=http://x/>link</a><i ></i>'
    assert closed(page) == whole
    paths = "<html><body><svg>" + "<path d='M0 0'/>" * 2_100 + "</svg></body></html>"
    assert depth(closed(paths).encode()) == 4
    assert depth(closed("<a href=x/>" * 7).encode()) == 7
