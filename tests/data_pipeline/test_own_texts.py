"""A folder of one's own texts: each is a document, and what is not read is counted by its suffix."""

import gzip

import pytest

from data_pipeline.engine.runner import Engine
from data_pipeline.readers.texts import Texts
from data_pipeline.stages import ingest
from tests.data_pipeline.reading import read


def test_every_text_is_a_document_and_the_rest_is_counted(tmp_path):
    for n in range(3):
        (tmp_path / f"{n}.txt").write_text(f"Note {n}.\n")
        (tmp_path / f"{n}.MD").write_text(f"# Note {n}\n\n* item\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.rst").write_text("Title\n=====\n")
    (tmp_path / "page.html").write_text("<main><p>A page with a sentence in it.</p></main>")
    (tmp_path / "packed.md.gz").write_bytes(gzip.compress(b"# Packed\n"))
    for name in ("a.png", "b.PNG", "c.doc", "Makefile", "log.2024-01-12", ".hidden"):
        (tmp_path / name).write_bytes(b"%")
    documents, counts = read(Texts(folder=str(tmp_path)), tmp_path)
    names = ["0.MD", "0.txt", "1.MD", "1.txt", "2.MD", "2.txt", "deep/a.rst"]
    names += ["packed.md.gz", "page.html"]
    assert [document.path for document in documents] == names
    assert documents[0].text == "# Note 0\n\n* item\n"
    assert counts == {
        "suffix_not_read_png": 2,
        "suffix_not_read_doc": 1,
        "suffix_not_read_none": 1,
        "suffix_not_read_other": 1,
    }


def test_a_folder_without_texts_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"holds no file; name a folder that does"):
        Texts(folder=str(tmp_path)).parts("mine", work=tmp_path)
    (tmp_path / "a.png").write_bytes(b"%")
    with pytest.raises(ValueError, match=r"holds no \.txt, .*\.docx file; name a folder that does"):
        Texts(folder=str(tmp_path)).parts("mine", work=tmp_path)


# Whatever a text comes as, it is read as it was written, or counted.
ODD = {
    "utf16.txt": "Größe\r\n".encode("utf-16"),
    "utf16be.txt": b"\xfe\xff" + "Größe\n".encode("utf-16-be"),
    "mark.md": b"\xef\xbb\xbf# Gr\xc3\xb6\xc3\x9fe\n",
    "latin.txt": "Die Größe des Hauses überraschte die Gäste sehr, und später lachten sie.\n".encode(
        "latin-1"
    ),
    "nul.txt": b"a\0b",
    "empty.txt": b"",
    "blank.rst": b" \n\n",
    "behind.txt.gz": gzip.compress(b"One. ") + gzip.compress(b"Two.\n") + b"left over",
    "padded.txt.gz": gzip.compress(b"Padded.\n") + bytes(700),
    "cut.txt.gz": gzip.compress(b"A text that breaks off." * 99)[:-9],
    "no.txt.gz": b"no gzip",
    "new\nline.txt": b"A line.\n",
    "empty.html": b"",
}


def test_odd_files_are_read_as_they_were_written_or_counted(tmp_path):
    for name, data in ODD.items():
        (tmp_path / name).write_bytes(data)
    deep = tmp_path.joinpath(*["d"] * 300)
    deep.mkdir(parents=True)
    (deep / "deep.txt").write_text("Deep down.\n")
    documents, counts = read(Texts(folder=str(tmp_path)), tmp_path)
    texts = {document.path.rpartition("/")[2]: document.text for document in documents}
    assert texts == {
        "utf16.txt": "Größe\n",
        "utf16be.txt": "Größe\n",
        "mark.md": "# Größe\n",
        "latin.txt": ODD["latin.txt"].decode("latin-1"),
        "behind.txt.gz": "One. Two.\n",
        "padded.txt.gz": "Padded.\n",
        "new\nline.txt": "A line.\n",
        "deep.txt": "Deep down.\n",
    }
    assert counts == {
        "file_undecodable": 1,
        "file_empty": 2,
        "file_broken_gzip": 2,
        "page_without_text": 1,
    }


def test_a_document_above_the_limit_is_counted_and_never_judged(tmp_path, monkeypatch):
    monkeypatch.setattr(ingest, "MAX_DOCUMENT_BYTES", 100)
    (tmp_path / "raw").mkdir()
    for n in range(3):
        (tmp_path / "raw" / f"{n}.txt").write_text("é" * (20 + 20 * n))
    sources = {"mine": Texts(folder=str(tmp_path / "raw"))}
    (part,) = ingest.ingest(
        sources,
        tmp_path / "stages",
        work=tmp_path / "work",
        limit_mib=None,
        engine=Engine(workers=1),
        advance=lambda: None,
    )
    assert part.n_documents == 2 and part.report()["dropped"] == {"mine": {"document_too_large": 1}}
    assert part.report()["examples"] == {"document_too_large": ["2.txt: 120 bytes"]}


def test_of_many_suffixes_the_frequent_ones_are_named(tmp_path):
    (tmp_path / "a.txt").write_text("A text.\n")
    for n in range(30):
        (tmp_path / f"notes.about{n}").write_bytes(b"x")
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(b"x")
    (tmp_path / "log.1").write_bytes(b"x")
    _, counts = read(Texts(folder=str(tmp_path)), tmp_path)
    assert counts.pop("suffix_not_read_png") == 3 and counts.pop("suffix_not_read_other") == 20
    assert len(counts) == 11 and set(counts.values()) == {1}
