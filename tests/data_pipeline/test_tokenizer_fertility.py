"""Laws of the fertility table: its counts are those of the texts, and its ratios follow from them."""

import pytest

from data_pipeline.stages.vocabulary import fertility
from data_pipeline.tokenizers.tokenizer import SentencePiece, Tokenizer

TEXTS = ["the cat sat on the mat\n", "  мама мыла раму ", "", "x"] * 40


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    SentencePiece(vocab_size=310, model="bpe").train(TEXTS, path)
    return Tokenizer(path)


def test_counts_are_those_of_the_texts_alone_and_ratios_follow_from_them(tokenizer):
    row = fertility(tokenizer, {"all": iter(TEXTS)})["all"]
    assert row["documents"] == len(TEXTS)
    assert row["bytes"] == sum(len(text.encode()) for text in TEXTS)
    assert row["words"] == 40 * (6 + 3 + 0 + 1)
    assert row["tokens"] == sum(len(tokenizer.encode(text)) for text in TEXTS)
    assert row["bytes_per_token"] == row["bytes"] / row["tokens"]
    assert row["tokens_per_word"] == row["tokens"] / row["words"]


def test_sources_are_measured_apart_and_an_empty_one_is_all_zeros(tokenizer):
    table = fertility(tokenizer, {"a": TEXTS, "none": [], "b": TEXTS[:1]})
    assert table["a"] == fertility(tokenizer, {"a": TEXTS})["a"]
    assert list(table) == ["a", "none", "b"] and set(table["none"].values()) == {0}
