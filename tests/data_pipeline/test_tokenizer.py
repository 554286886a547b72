"""Laws of the tokenizer: nothing is lost, control ids are out of text's reach, the same text gives the same file."""

import pickle
import random
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_pipeline.tokenizer import CHAT_PIECES, SentencePiece, Tokenizer, sample

TEXTS = [(Path(sysconfig.get_paths()["stdlib"]) / name).read_text() for name in ("heapq.py", "textwrap.py", "bisect.py", "queue.py")]
BPE = SentencePiece(vocab_size=700, model="bpe")

pieces = (*CHAT_PIECES, "<s>", "</s>", "<pad>", "<unk>", "<0x41>", "▁", "▅")
traps = st.sampled_from([*pieces, "\ufffd", "\0", "\r\n", "\t", "    ", "\x1b", "🦊", "e\u0301", "\u2028"])
any_text = st.lists(st.one_of(traps, st.text(max_size=20)), max_size=8).map("".join)


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def tokenizer(request, tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    BPE.model_copy(update={"model": request.param}).train(TEXTS, path)
    return Tokenizer(path)


@settings(deadline=None, max_examples=300)
@given(text=any_text)
@example(text="▁")
@example(text=" ▁ ▁▁")
@example(text="\0")
@example(text="  leading, trailing \n\n\tand\tinner   spaces  ")
def test_decoding_what_was_encoded_gives_the_text_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.byte_lengths[ids].sum() == len(text.encode())


@settings(deadline=None, max_examples=300)
@given(text=any_text)
def test_no_text_gives_a_control_id(tokenizer, text):
    control = {tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.end_of_turn, 1, *tokenizer.roles.values()}
    assert control == set(range(8))
    assert not control & set(tokenizer.encode(text))


def test_control_ids_stand_for_no_bytes_and_decode_to_nothing(tokenizer):
    assert tokenizer.vocab_size == 700 and tokenizer.byte_lengths.shape == (700,)
    assert not tokenizer.byte_lengths[:8].any() and tokenizer.byte_lengths[8:].all()
    assert tokenizer.decode(np.arange(8)) == ""


def test_many_texts_at_once_give_the_ids_of_each_alone(tokenizer):
    texts = [*TEXTS, "", "▁ and ▁", "x"]
    assert tokenizer.encode_all(texts, n_threads=2) == [tokenizer.encode(text) for text in texts]
    assert all(tokenizer.decode(ids) == text for ids, text in zip(tokenizer.encode_all(texts), texts, strict=True))


def test_indentation_costs_one_token(tokenizer):
    assert len(tokenizer.encode(" " * 8)) == 1


def test_a_cut_character_decodes_to_the_replacement_character(tokenizer):
    assert tokenizer.decode(tokenizer.encode("🦊")[:-1]) == "\ufffd"


def test_a_lone_surrogate_is_refused(tokenizer):
    with pytest.raises(ValueError, match="lone surrogate"):
        tokenizer.encode("a\ud800b")


def test_a_tokenizer_survives_pickling(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0]) and copy.end_of_turn == tokenizer.end_of_turn


@pytest.mark.parametrize("model", ["bpe", "unigram"])
def test_the_same_texts_give_the_same_file_in_any_order(model, tmp_path):
    component = SentencePiece(vocab_size=500, model=model, sample_mib=0.05)
    component.train(TEXTS, tmp_path / "a")
    component.train(random.Random(0).sample(TEXTS, len(TEXTS)), tmp_path / "elsewhere" / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "elsewhere" / "b").read_bytes()


@settings(deadline=None)
@given(texts=st.lists(st.text("abc", min_size=1, max_size=40), min_size=1, max_size=30), n_bytes=st.integers(40, 400), seed=st.integers())
def test_a_sample_fits_its_limit_and_does_not_depend_on_the_order(texts, n_bytes, seed):
    units = sample(texts, n_bytes / 2**20)
    assert sum(len(unit.encode()) for unit in units) <= n_bytes
    assert units == sample(random.Random(seed).sample(texts, len(texts)), n_bytes / 2**20)
    assert sorted(sample(texts, None)) == sorted(texts)


@pytest.mark.parametrize("model", ["bpe", "unigram"])
def test_a_vocabulary_larger_than_the_text_supports_is_refused_with_the_largest_possible(model, tmp_path):
    with pytest.raises(ValueError, match=r"vocab_size=50000 .* set it to \d+ or lower") as error:
        SentencePiece(vocab_size=50000, model=model).train(TEXTS[:1], tmp_path / "tokenizer.model")
    assert not list(tmp_path.iterdir())
    largest = int(str(error.value).split("set it to ")[1].split()[0])
    SentencePiece(vocab_size=largest, model=model).train(TEXTS[:1], tmp_path / "tokenizer.model")
    assert Tokenizer(tmp_path / "tokenizer.model").vocab_size == largest


def test_a_vocabulary_too_small_for_the_letters_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"vocab_size=264 is too small .* set it to \d+ or higher"):
        SentencePiece(vocab_size=264, model="bpe").train(TEXTS[:1], tmp_path / "tokenizer.model")


@pytest.mark.parametrize("texts", [[], [""]])
def test_training_on_no_text_is_refused(texts, tmp_path):
    with pytest.raises(ValueError, match="no text to train on"):
        BPE.train(texts, tmp_path / "tokenizer.model")


def test_reserved_letters_in_a_text_do_not_hide_it_from_training(tmp_path):
    BPE.train(TEXTS, tmp_path / "plain")
    BPE.train([text + letter for text, letter in zip(TEXTS, "▁▅\0▁", strict=True)], tmp_path / "with")
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "with").read_bytes()


@pytest.mark.parametrize("data", [b"", b"no model", b"\0" * 100])
def test_a_file_that_is_no_model_is_refused(data, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(ValueError, match="is not a SentencePiece model|has no piece"):
        Tokenizer(tmp_path / "tokenizer.model")
