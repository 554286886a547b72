"""A corpus may be encoded by the tokenizer of another."""

import pytest

from data_pipeline.tokenizers.tokenizer import SentencePiece, Tokenizer
from data_pipeline.tokenizers.trained import TrainedTokenizer


def test_it_is_the_tokenizer_of_the_other_corpus(tmp_path):
    SentencePiece(vocab_size=280, model="bpe").train(["hello there"] * 9, tmp_path / "a.model")
    trained = TrainedTokenizer(path=str(tmp_path / "a.model"))
    trained.make({}, tmp_path / "b.model", weights={})
    assert (
        Tokenizer(tmp_path / "b.model").fingerprint
        == Tokenizer(tmp_path / "a.model").fingerprint
        == trained.fingerprint()
    )


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match="tokenizer.path='.*none.model' does not exist; name the tokenizer.model of",
    ):
        TrainedTokenizer(path=str(tmp_path / "none.model")).make(
            {}, tmp_path / "b.model", weights={}
        )
    (tmp_path / "text.model").write_text("no tokenizer")
    with pytest.raises(ValueError, match="text.model"):
        TrainedTokenizer(path=str(tmp_path / "text.model")).make(
            {}, tmp_path / "b.model", weights={}
        )
    assert not (tmp_path / "b.model").exists()
