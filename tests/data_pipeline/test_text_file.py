"""One long text in pieces, and a vocabulary of its letters."""

import gzip

import pytest

from data_pipeline.documents.drops import Drops
from data_pipeline.readers.part import read_all
from data_pipeline.readers.text_file import TextFile
from data_pipeline.tokenizers.tokenizer import SentencePiece, Tokenizer

TEXT = (
    "  First Citizen:\n\n\nBefore we proceed any further, hear me speak.\t\n" * 7 + "Ende — schön"
)


def read(path, pieces):
    return list(read_all(TextFile(path=str(path), pieces=pieces), "plays", work=path.parent))


@pytest.mark.parametrize("pieces", [2, 3, 10])
def test_the_pieces_are_the_text_and_equally_long(pieces, tmp_path):
    (tmp_path / "plays.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    documents = read(tmp_path / "plays.txt.gz", pieces)
    assert "".join(document.text for document in documents) == TEXT
    assert {len(document.text) - len(TEXT) // pieces for document in documents} <= {0, 1}
    assert [document.group for document in documents] == [
        f"plays.txt.gz#{i:03d}" for i in range(pieces)
    ]


def test_a_folder_of_several_texts_is_refused(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(TEXT)
    with pytest.raises(ValueError, match="holds 2 texts; name one file, or read them with Books"):
        read(tmp_path, 2)


def test_a_damaged_file_is_counted(tmp_path):
    (tmp_path / "plays.txt.gz").write_bytes(gzip.compress(TEXT.encode())[:-20])
    drops = Drops()
    assert not list(
        read_all(
            TextFile(path=str(tmp_path / "plays.txt.gz"), pieces=2),
            "plays",
            work=tmp_path,
            drops=drops,
        )
    )
    assert drops.counts["plays"] == {"file_broken_gzip": 1}


def test_a_vocabulary_of_letters_has_one_id_a_letter_and_loses_no_byte(tmp_path):
    letters = set(TEXT)
    SentencePiece(vocab_size=269 + len(letters), model="char", character_coverage=1.0).train(
        [TEXT], tmp_path / "m"
    )
    tokenizer = Tokenizer(tmp_path / "m")
    assert tokenizer.vocab_size == 269 + len(letters) and len(tokenizer.encode(TEXT)) == len(TEXT)
    for text in (TEXT, "другие буквы\0\r\n \u2581 🦊", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text
