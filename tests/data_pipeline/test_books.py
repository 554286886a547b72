"""Books: the author's text alone, whole or by chapters, from any age of Project Gutenberg, any encoding,
scans and EPUB.
"""

import gzip
import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.documents.drops import Drops
from data_pipeline.readers.book_files import decode
from data_pipeline.readers.books import Books, unwrapped
from data_pipeline.readers.chapters import chapters
from data_pipeline.readers.epub import MAX_TEXT_BYTES, epub_text
from data_pipeline.readers.gutenberg import without_gutenberg
from data_pipeline.readers.part import read_all
from data_pipeline.readers.scans import without_scan_noise

STORY = "It began on a morning in May.\n\nIt ended as such things end.\n"
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему. Всё смешалось в доме.\n"
FRENCH = "Longtemps, je me suis couché de bonne heure. Parfois, à peine ma bougie éteinte, mes yeux se fermaient très vite.\n"


def read(folder: Path, **fields):
    drops = Drops()
    documents = list(
        read_all(
            Books(folder=str(folder), topics=False, **fields), "books", work=folder, drops=drops
        )
    )
    return documents, dict(drops.counts.get("books", {}))


def epub(
    pages: list[str | bytes],
    *,
    language: str = "en",
    entries: dict[str, bytes] | None = None,
    spine: list[int] | None = None,
) -> bytes:
    container = '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile full-path="OPS/book.opf"/>'
    items = "".join(
        f'<item id="p{n}" href="page%20{n}.xhtml" media-type="application/xhtml+xml"/>'
        for n in range(len(pages))
    )
    nav = '<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
    refs = "".join(f'<itemref idref="p{n}"/>' for n in (spine or range(len(pages))))
    opf = (
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
        f"<dc:language>{language}</dc:language></metadata><manifest>{nav}{items}</manifest>"
        f"<spine><itemref idref='nav'/>{refs}</spine></package>"
    )
    files = {
        "META-INF/container.xml": f"{container}</rootfiles></container>".encode(),
        "OPS/book.opf": opf.encode(),
        "OPS/nav.xhtml": b"<html><body><p>Contents of the navigation</p></body></html>",
        **{
            f"OPS/page {n}.xhtml": page if isinstance(page, bytes) else page.encode()
            for n, page in enumerate(pages)
        },
        **(entries or {}),
    }
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as book:
        for name, content in files.items():
            book.writestr(name, content)
    return data.getvalue()


def page(title: str, text: str) -> str:
    head = '<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title>Never read</title></head>'
    return f"{head}<body><h2>{title}</h2><p>{text}</p></body></html>"


@pytest.mark.parametrize(
    ("header", "footer"),
    [
        (
            "Title: A Book\nLanguage: English\n\n*** START OF THE PROJECT GUTENBERG EBOOK A BOOK ***\n\nProduced by A. Volunteer\n\n",
            "\n*** END OF THE PROJECT GUTENBERG EBOOK A BOOK ***\nLicence\n",
        ),
        (
            "Language: English\n\n***START OF THE PROJECT GUTENBERG EBOOK A BOOK WITH A\nLONG NAME***\n\n\n"
            "E-text prepared by A. Volunteer\nand the Online Distributed Proofreading Team\n\n\n",
            "\nEnd of the Project Gutenberg EBook of A Book, by Somebody\n\n*** END OF THIS PROJECT GUTENBERG EBOOK A BOOK ***\n",
        ),
        (
            "The Project Gutenberg Etext of A Book\n\nLanguage: English\n\n**Information**\n\n"
            "***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***\nWhy is this here?\n"
            "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n",
            "\nEnd of Project Gutenberg's Etext of A Book\n",
        ),
        (
            "Language: English\n*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*\n\n[Transcriber's Note: Spelling is as\n\n"
            "it was.]\n\n[Illustration: The author]\n\n",
            "\n\n\nTranscriber's Notes\n\nA comma was added.\n\nEnd of The Project Gutenberg Etext of A Book\n",
        ),
        (
            "Language: English\n*** START OF THE COPYRIGHTED PROJECT GUTENBERG EBOOK, A BOOK ***\n\n"
            "Transcriber’s Note\n\nItalics are left.\n\n",
            "\n*** END OF THE COPYRIGHTED PROJECT GUTENBERG EBOOK, A BOOK ***\n",
        ),
    ],
    ids=["2024", "2005", "1993", "2002", "copyrighted"],
)
def test_of_every_age_of_gutenberg_the_story_alone_is_left(header, footer):
    assert without_gutenberg(header + STORY + footer) == (STORY, "en")


def test_the_small_print_behind_the_first_etexts_is_cut():
    small = "\n***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***\nlegal\n*END*THE SMALL PRINT! Ver.1*END*\n"
    assert without_gutenberg(STORY * 9 + small).text.strip() == (STORY * 9).strip()


def test_what_is_no_gutenberg_book_is_not_touched():
    text = "Produced by nobody we know, this begins a story.\n\nThe small print of the contract was long.\n"
    assert without_gutenberg(text) == (text, "")


def test_good_books_are_read_by_path_and_bad_ones_counted_by_reason(tmp_path):
    files = {
        "a.txt": STORY.encode(),
        "b.txt.gz": gzip.compress(STORY.upper().encode()),
        "broken.txt.gz": gzip.compress(b"A truncated book." * 99)[:-12],
        "empty.txt": b" \n",
        "program.txt": b"\x7fELF\x02\x01\x01\0\0\0" * 9,
        "new\nline.txt": b"A file whose name holds a line break.\n",
        "Windows.TXT": b"One line\r\nand another.\r\n",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    documents, counts = read(tmp_path)
    assert [d.path for d in documents] == ["Windows.TXT", "a.txt", "b.txt.gz", "new\nline.txt"]
    assert documents[0].text == "One line\nand another.\n" and documents[1].group == "book:a.txt"
    assert counts == {
        "file_broken_gzip": 1,
        "file_empty": 1,
        "file_undecodable": 1,
        "file_unreadable": 1,
    }


def test_a_bomb_is_counted_before_it_is_unpacked(tmp_path):
    (tmp_path / "bomb.txt.gz").write_bytes(
        gzip.compress(bytes(1 << 20)) * (MAX_TEXT_BYTES // (1 << 20) + 1)
    )
    (tmp_path / "bomb.epub").write_bytes(
        epub(["x"], entries={"OPS/page 0.xhtml": b" " * (MAX_TEXT_BYTES + 1)})
    )
    (tmp_path / "good.txt").write_text(STORY)
    documents, counts = read(tmp_path)
    assert [d.path for d in documents] == ["good.txt"] and counts == {
        "file_too_large": 1,
        "epub_too_large": 1,
    }


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (RUSSIAN, "utf-8"),
        (RUSSIAN, "utf-8-sig"),
        (RUSSIAN, "utf-16"),
        (RUSSIAN, "utf-32"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (RUSSIAN, "cp866"),
        (FRENCH, "cp1252"),
    ],
)
def test_a_book_in_a_legacy_encoding_is_read_as_it_was_written(text, encoding):
    assert decode((text * 5).encode(encoding)) == text * 5


def test_the_encoding_that_gutenbergs_header_declares_wins_over_detection():
    assert decode("Character set encoding: ISO-8859-2\n\nŽluť\n".encode("iso8859-2")).endswith(
        "Žluť\n"
    )


CONTENTS = "A BOOK\n\nCONTENTS\n\nCHAPTER I\n\nCHAPTER II\n\nEPILOGUE\n\n\n"
BOOK = (
    CONTENTS
    + "PART ONE\n\n\nCHAPTER I\n\n{0}\nChapter II. Of a title\nin two lines\n\n{0}\n\nEPILOGUE\n\n{0}"
)
BODY = (
    "The first chapter was the best part of it all, as everybody said who had read the book.\n\n"
    * 8
)


def test_a_chapter_is_a_document_with_its_headings_and_the_group_is_the_book(tmp_path):
    (tmp_path / "a.txt").write_text(BOOK.format(BODY))
    documents, counts = read(tmp_path, unit="chapter")
    assert [d.text.split("\n")[0] for d in documents] == [
        "A BOOK",
        "PART ONE",
        "Chapter II. Of a title",
        "EPILOGUE",
    ]
    assert [d.path for d in documents] == [f"a.txt#{n:03d}" for n in range(4)] and {
        d.group for d in documents
    } == {"book:a.txt"}


@pytest.mark.parametrize(
    "heading",
    ["ГЛАВА ПЕРВАЯ", "Часть вторая", "Kapitel 3", "Chapitre IV", "XII.", "Second Book", "Letter 4"],
)
def test_headings_of_other_kinds_and_languages_are_known(heading):
    assert len(chapters(f"{BODY}\n\n{heading}\n\n{BODY}")) == 2


@pytest.mark.parametrize(
    "line",
    ["The eighth book of the Republic abounds in pictures.", "I", "Chapter and verse were cited."],
)
def test_a_sentence_is_no_heading(line):
    assert len(chapters(f"{BODY}\n\n{line}\nand goes on\nfor\nlines.\n\n{BODY}")) == 1


@given(
    st.lists(
        st.sampled_from(
            ["CHAPTER I\n", "\n", "\n\n", "X.\n", "BOOK TWO\n", BODY, "\f\n", "words\n"]
        ),
        max_size=12,
    ).map("".join)
)
def test_chapters_lose_nothing(text):
    assert "".join(chapters(text)) == text


def scan(n_pages: int) -> str:
    pages = []
    for n in range(1, n_pages + 1):
        words = " ".join(f"word{chr(97 + n % 26)}" for _ in range(99))
        pages.append(
            f"{n} THE WHALE\n\n{words}\nthe end of the line is hyphen-\nated, and a well-\nknown, well-known thing.\n\n{n}\n"
        )
    return "\n\n".join(pages)


def test_of_a_scan_page_numbers_heads_and_cut_words_go():
    cleaned = without_scan_noise(scan(9), min_letter_frac=0.6)
    assert (
        "WHALE" not in cleaned.text
        and "is hyphenated,\n" in cleaned.text
        and "a well-known\n" not in cleaned.text
    )
    assert (
        "a well-known,\n" in cleaned.text
        and cleaned.n_page_lines == 18
        and cleaned.n_joined_words == 18
    )


def test_of_a_scan_paragraphs_of_noise_go_by_their_letters(tmp_path):
    noise = "..,;' 1|1 _-~ ^^^ 00 l1 |||| ;;:: ** ~~ 3#5"
    (tmp_path / "a.txt").write_text(f"{BODY}{noise}\n\n{BODY}")
    (document,), counts = read(tmp_path, min_letter_frac=0.6)
    assert noise not in document.text and counts == {"scan_noise_bytes": len(noise)}
    assert noise in read(tmp_path)[0][0].text


def test_numbered_chapters_and_years_are_no_page_numbers():
    text = "".join(f"Chapter {n}\n\n{BODY * 3}\n\n" for n in range(1, 9)) + "1812\n\nWar.\n"
    assert without_scan_noise(text, min_letter_frac=0.6).n_page_lines == 0


def test_only_wrapped_prose_is_joined():
    prose = "A line of prose that was wrapped at some width by one\nwho typed it long ago, letter by letter, with his hands\nin a night.\n"
    verse = "Tyger Tyger, burning bright,\nIn the forests of the night;\n"
    table = f"    indented {'x' * 60}\n    again\n"
    assert (
        unwrapped(f"{prose}\n{verse}\n{table}") == f"{' '.join(prose.split())}\n\n{verse}\n{table}"
    )


def test_an_epub_is_read_in_the_order_of_its_spine_with_its_headings_as_chapters(tmp_path):
    pages = [page("Two", f"{BODY} &amp; caf&#233;"), page("One", BODY)]
    (tmp_path / "a.epub").write_bytes(epub(pages, language="fr-FR", spine=[1, 0]))
    (whole,), counts = read(tmp_path)
    assert (
        counts == {}
        and whole.language == "fr"
        and whole.text.index("One") < whole.text.index("Two")
        and "& café" in whole.text
    )
    assert (
        "navigation" not in whole.text and "Never read" not in whole.text and "\f" not in whole.text
    )
    assert [d.text.split("\n")[0] for d in read(tmp_path, unit="chapter")[0]] == ["One", "Two"]


def test_a_page_that_the_spine_names_by_its_places_is_read_once(tmp_path):
    opf = (
        "<package xmlns='http://www.idpf.org/2007/opf'><manifest>"
        "<item id='a' href='page%200.xhtml#one' media-type='application/xhtml+xml'/>"
        "<item id='b' href='page%200.xhtml#two' media-type='application/xhtml+xml'/>"
        "<item id='c' href='page%201.xhtml' media-type='application/xhtml+xml'/></manifest>"
        "<spine><itemref idref='c'/><itemref idref='a'/><itemref idref='b'/></spine></package>"
    )
    pages = [page("Places", BODY), page("Before", BODY)]
    (tmp_path / "a.epub").write_bytes(epub(pages, entries={"OPS/book.opf": opf.encode()}))
    (book,), counts = read(tmp_path)
    assert counts == {} and book.text.count("Places") == 1
    assert book.text.index("Before") < book.text.index("Places")


def damaged(data: bytes) -> bytes:
    return data[:200] + b"\xff" * 40 + data[240:]


ENCRYPTION = b'<encryption><CipherReference URI="OPS/page%200.xhtml"/></encryption>'
ENTITIES = b'<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><package>&b;</package>'


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no zip at all", "broken"),
        (epub(["x"])[:-30], "broken"),
        (damaged(epub(["x"])), "broken"),
        (epub(["x"], entries={"OPS/book.opf": ENTITIES}), "broken"),
        (epub(["x"], entries={"OPS/book.opf": b"<package/>"}), "no_pages"),
        (epub(["x"], entries={"META-INF/encryption.xml": ENCRYPTION}), "encrypted"),
        (epub(["x"], entries={"OPS/book.opf": b" " * (9 << 20)}), "too_large"),
    ],
    ids=["no-zip", "truncated", "damaged", "entities", "no-pages", "encrypted", "large-xml"],
)
def test_an_epub_that_cannot_be_read_says_why(data, reason):
    with pytest.raises(ValueError, match=f"^{reason}$"):
        epub_text(data)


def test_a_page_nested_without_end_costs_its_book_alone(tmp_path):
    (tmp_path / "deep.epub").write_bytes(epub([page("Deep", "<div>" * 500_000)]))
    (tmp_path / "good.epub").write_bytes(epub([page("Good", BODY)]))
    documents, counts = read(tmp_path)
    assert [document.path for document in documents] == ["good.epub"]
    assert counts == {"epub_too_deep": 1}


def test_topics_come_without_a_folder(tmp_path):
    documents = list(read_all(Books(topics=True), "books", work=tmp_path))
    assert len(documents) > 60 and {d.licence for d in documents} == {"PSF-2.0"}
    assert (
        next(d for d in documents if d.group == "topic:while")
        .text.lstrip()
        .startswith('The "while" statement')
    )


def test_nothing_to_read_is_one_clear_error(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"sources\.books\.folder='.*nowhere' does not exist; name an existing",
    ):
        read(tmp_path / "nowhere")
    with pytest.raises(
        ValueError,
        match=r"sources\.books\.folder='.*' holds no \.txt or .* file; name a folder that does",
    ):
        read(tmp_path)
    with pytest.raises(
        ValueError, match=r"sources\.books: folder=None and topics=False leave no books; set one"
    ):
        Books(topics=False).parts("books", work=tmp_path)


def test_a_folder_of_books_has_no_topics_of_python_among_them(tmp_path):
    (tmp_path / "mine.txt").write_text("My own book.\n")
    reader = Books(folder=str(tmp_path))
    assert [d.path for d in read_all(reader, "books", work=tmp_path)] == ["mine.txt"]
    # Its bytes are the same under any Python.
    assert reader.fingerprint() == ""


def test_what_is_no_book_is_counted_by_its_suffix(tmp_path):
    for n in range(3):
        (tmp_path / f"{n}.txt").write_text("A book.\n")
        (tmp_path / f"{n}.md").write_text("# A note\n")
    (tmp_path / "cover.JPG").write_bytes(b"x")
    documents, counts = read(tmp_path)
    assert len(documents) == 3
    assert counts == {"suffix_not_read_md": 3, "suffix_not_read_jpg": 1}


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ('<?xml version="1.0" encoding="iso-8859-2"?>', "iso8859-2"),
        ('<meta charset="windows-1250"/>', "cp1250"),
        ("", "utf-16"),
        ('<?xml version="1.0" encoding="iso-8859-1"?>', "utf-8"),  # a wrong declaration
    ],
)
def test_a_page_of_an_epub_is_decoded_as_other_pages_are(head, encoding):
    text = "Příliš žluťoučký kůň úpěl ďábelské ódy."
    data = f"{head}<html><body><p>{text}</p></body></html>".encode(encoding)
    assert epub_text(epub([data])).decode() == f"en\n{text}"
    # One broken byte costs its letter, not all letters beyond ASCII.
    if encoding == "utf-8":
        broken = data.replace("ž".encode(), b"\xc5", 1)
        assert epub_text(epub([broken])).decode() == f"en\n{text.replace('ž', chr(0xFFFD), 1)}"
