"""A folder of one's own texts: each is a document, and what is not read is counted by its suffix."""

import pytest

from data_pipeline.readers.texts import Texts
from tests.data_pipeline.reading import read


def test_every_text_is_a_document_and_the_rest_is_counted(tmp_path):
    for n in range(3):
        (tmp_path / f"{n}.txt").write_text(f"Note {n}.\n")
        (tmp_path / f"{n}.MD").write_text(f"# Note {n}\n\n* item\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.rst").write_text("Title\n=====\n")
    (tmp_path / "page.html").write_text("<main><p>A page with a sentence in it.</p></main>")
    for name in ("a.pdf", "b.pdf", "c.docx", "Makefile", ".hidden"):
        (tmp_path / name).write_bytes(b"%")
    documents, counts = read(Texts(folder=str(tmp_path)), tmp_path)
    names = ["0.MD", "0.txt", "1.MD", "1.txt", "2.MD", "2.txt", "deep/a.rst", "page.html"]
    assert [document.path for document in documents] == names
    assert documents[0].text == "# Note 0\n\n* item\n"
    assert counts == {
        "suffix_not_read_pdf": 2,
        "suffix_not_read_docx": 1,
        "suffix_not_read_none": 1,
    }


def test_a_folder_without_texts_is_one_sentence(tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"%")
    with pytest.raises(ValueError, match=r"holds no \.txt, .*\.html file; name a folder that does"):
        Texts(folder=str(tmp_path)).parts("mine", work=tmp_path)
