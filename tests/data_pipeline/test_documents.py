"""PDF and DOCX: their text as a reader sees it, and hostile files counted by reason within limits."""

import zlib
from pathlib import Path

import pytest

from data_pipeline.readers import docx, texts
from data_pipeline.readers.texts import Texts
from tests.data_pipeline.document_files import ENCRYPTED, paragraph, pdf
from tests.data_pipeline.document_files import docx as docx_file
from tests.data_pipeline.reading import read, read_with_drops

TABLE = "<w:tbl><w:tr>{}</w:tr></w:tbl>".format(
    "".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in ("left cell", "right cell"))
)
TRACKED = (
    "<w:p><w:del><w:r><w:delText>was deleted</w:delText></w:r></w:del>"
    "<w:ins><w:r><w:t>was inserted</w:t></w:r></w:ins></w:p>"
)
ENTITIES = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><w:document/>'


def read_files(folder: Path, files: dict[str, bytes]) -> tuple[dict[str, str], dict[str, int]]:
    """Path → text, and what was lost by reason."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    documents, counts = read(Texts(folder=str(folder)), folder)
    return {document.path: document.text for document in documents}, counts


def bomb(mib: int) -> bytes:
    """A stream of so many MiB of spaces, a thousandth of that long."""
    packer, spaces = zlib.compressobj(), b" " * (1 << 20)
    first = packer.compress(spaces) + packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush the same data has the same bytes, which repeat.
    return first + (packer.compress(spaces) + packer.flush(zlib.Z_FULL_FLUSH)) * (mib - 1)


def test_a_pdf_is_its_pages_in_their_lines(tmp_path):
    pages = [["A first line \\(in brackets\\),", "and a second: caf\xe9."], ["The second page."]]
    read_texts, counts = read_files(tmp_path, {"a.pdf": pdf(pages), "B.PDF": pdf([["Capitals."]])})
    assert read_texts == {
        "B.PDF": "Capitals.\n",
        "a.pdf": "A first line (in brackets),\nand a second: café.\n\nThe second page.\n",
    }
    assert counts == {}


def test_words_that_line_ends_cut_are_whole_and_hyphens_of_the_text_stay(tmp_path):
    lines = ["This is the first exam-", "ple of what a well-", "known author writes: well-known."]
    read_texts, _ = read_files(tmp_path, {"a.pdf": pdf([lines])})
    joined = "This is the first example of what a well-known author writes: well-known.\n"
    assert read_texts["a.pdf"].replace("\n", " ").split() == joined.split()


def test_a_docx_is_headings_paragraphs_tables_and_what_was_inserted(tmp_path):
    body = (
        paragraph("On bread", style="Heading1") + paragraph("Flour &amp; water.") + TABLE + TRACKED
    )
    read_texts, counts = read_files(tmp_path, {"a.docx": docx_file(body)})
    lines = [line.strip() for line in read_texts["a.docx"].split("\n") if line.strip()]
    assert lines[:2] == ["On bread", "Flour & water."] and lines[-1] == "was inserted"
    assert "left cell" in lines[2] and "right cell" in "".join(lines[2:]) and counts == {}


def test_hostile_files_cost_themselves_alone_and_are_counted_by_reason(tmp_path):
    good = pdf([["A good page."]])
    files = {
        "good.pdf": good,
        "no.pdf": b"no PDF at all",
        "cut.pdf": good[:100],
        "locked.pdf": pdf([["x"]], trailer=ENCRYPTED),
        "scan.pdf": pdf([[]]),
        "empty.pdf": b"",
        "bomb.pdf": pdf([["x"]], content=bomb(3_000)),
        "good.docx": docx_file(paragraph("A good paragraph.")),
        "no.docx": b"no archive",
        "cut.docx": docx_file(paragraph("x"))[:-30],
        "locked.docx": docx.OLE + bytes(512),
        "huge.docx": docx_file(paragraph("x" * (33 << 20))),
        "entities.docx": docx_file("", {"word/document.xml": ENTITIES}),
        "deep.docx": docx_file("<w:sdt><w:sdtContent>" * 50_000),
    }
    read_texts, counts = read_files(tmp_path, files)
    assert read_texts == {"good.docx": "A good paragraph.\n", "good.pdf": "A good page.\n"}
    assert counts == {
        "pdf_broken": 3,
        "pdf_crash": 1,
        "pdf_encrypted": 1,
        "pdf_without_text": 1,
        "docx_broken": 4,
        "docx_encrypted": 1,
        "docx_too_large": 1,
    }


def test_a_damaged_page_costs_itself_alone_and_is_counted(tmp_path):
    pages = [["The first page."], ["Lost."], ["The third page."]]
    data = pdf(pages).replace(b"/Kids [4 0 R 6 0 R 8 0 R]", b"/Kids [4 0 R 3 0 R 8 0 R]")
    read_texts, counts = read_files(tmp_path, {"a.pdf": data})
    assert read_texts == {"a.pdf": "The first page.\n\nThe third page.\n"}
    assert counts == {"pdf_damaged_page_spans": 1}


def test_without_the_extra_they_are_counted_and_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(texts.LIBRARIES, "pdf", "no-such-package")
    (tmp_path / "a.pdf").write_bytes(pdf([["A page."]]))
    with pytest.raises(
        ValueError,
        match=r"holds no text but 1 files such as 'a.pdf'; read them after pip install 'meshwright\[documents\]'",
    ):
        Texts(folder=str(tmp_path)).parts("mine", work=tmp_path)
    (tmp_path / "a.txt").write_text("A text.\n")
    documents, drops = read_with_drops(Texts(folder=str(tmp_path)), tmp_path)
    assert [document.path for document in documents] == ["a.txt"]
    assert drops.counts["web"] == {"suffix_not_read_pdf": 1}
    assert drops.examples["suffix_not_read_pdf"] == [f"a.pdf: {texts.REMEDIES['pdf']}"]
