"""Laws of the tokenizer: nothing is lost, control ids are out of text's reach, the same text gives the same
file.
"""

import pickle
import random
import re
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_pipeline.tokenizers import fast_bpe
from data_pipeline.tokenizers.control import CHAT_PIECES, CONTROL_PIECES
from data_pipeline.tokenizers.fast_bpe import FAST_FROM_CHARS, fast_encoder
from data_pipeline.tokenizers.sample import sample, weighted_sample
from data_pipeline.tokenizers.sentence_model import tokenizer_json
from data_pipeline.tokenizers.tokenizer import SentencePiece, Tokenizer

TEXTS = [
    (Path(sysconfig.get_paths()["stdlib"]) / name).read_text()
    for name in ("heapq.py", "textwrap.py", "bisect.py", "queue.py")
]
BPE = SentencePiece(vocab_size=700, model="bpe")

pieces = (*CONTROL_PIECES, "<s>", "</s>", "<pad>", "<unk>", "<0x41>", "▁", "▅")
traps = st.sampled_from(
    [
        *pieces,
        "\ufffd",
        "\0",
        "\r\n",
        "\t",
        "    ",
        "\x1b",
        "🦊",
        "e\u0301",
        "\u2028",
        "Привет, ",
        "Ёж",
    ]
)
any_text = st.lists(st.one_of(traps, st.text(max_size=20)), max_size=8).map("".join)


words = st.sampled_from(re.findall(r"\w+|\W+", TEXTS[0]))
code = st.lists(st.one_of(words, st.text(" \n\tab01=/-(", max_size=12)), max_size=30).map("".join)


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def model_path(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp(request.param) / "tokenizer.model"
    BPE.model_copy(update={"model": request.param}).train(TEXTS, path)
    return path


@pytest.fixture(scope="module", params=["prompts", "corpora"])
def tokenizer(request, model_path) -> Tokenizer:
    """One that has seen little text, and one that has gone over to the fast encoder."""
    tokenizer = Tokenizer(model_path)
    if request.param == "corpora":
        tokenizer.encode("x" * FAST_FROM_CHARS)
    return tokenizer


@pytest.fixture(scope="module")
def reference(model_path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(model_path))


@settings(max_examples=150)
@given(text=any_text)
@example(text="▁")
@example(text=" ▁ ▁▁")
@example(text="\0")
@example(text="  leading, trailing \n\n\tand\tinner   spaces  ")
def test_decoding_what_was_encoded_gives_the_text_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.byte_lengths[ids].sum() == len(text.encode())


@settings(max_examples=150)
@given(text=any_text)
def test_no_text_gives_a_control_id(tokenizer, text):
    control = {
        tokenizer.pad,
        tokenizer.bos,
        tokenizer.eos,
        tokenizer.end_of_turn,
        1,
        *tokenizer.control.values(),
    }
    assert control == set(range(13))
    assert not control & set(tokenizer.encode(text))


@settings(max_examples=150)
@given(text=st.one_of(any_text, code))
@example(text="/" * 7 + " " * 13 + "=" * 40 + "  ")
def test_the_ids_are_those_of_sentencepiece(tokenizer, reference, text):
    text = text.replace("▁", "")  # which SentencePiece alone takes for a space
    assert tokenizer.encode(text) == reference.encode(text)


def test_the_ids_of_real_text_are_those_of_sentencepiece(tokenizer, reference):
    assert tokenizer.encode_all(TEXTS) == reference.encode(TEXTS)


def test_the_fast_encoder_is_used_for_bpe_and_only_after_much_text(model_path, monkeypatch):
    opened, tokenizer = [], Tokenizer(model_path)
    monkeypatch.setattr(
        fast_bpe, "fast_encoder", lambda *args: opened.append(fast_encoder(*args)) or opened[-1]
    )
    tokenizer.encode(TEXTS[0])
    assert not opened
    for _ in range(2):
        tokenizer.encode("x" * FAST_FROM_CHARS)
    (encoder,) = opened
    assert (encoder is None) == (model_path.parent.name.startswith("unigram"))


@pytest.mark.parametrize("letters", ["ab", "a b", "=- ", "абв\n"])
def test_where_many_merges_overlap_both_encoders_choose_the_same(letters, tmp_path):
    random_text = random.Random(letters)
    SentencePiece(vocab_size=330, model="bpe").train(
        ["".join(random_text.choices(letters, k=2000)) for _ in range(9)], tmp_path / "m"
    )
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m"))
    fast = fast_encoder(model.encode, tokenizer_json(model), [])
    for n_letters in range(1, 200):
        text = "".join(random_text.choices(letters, k=n_letters))
        assert fast(text) == model.encode(text)


def test_an_older_model_with_pieces_across_spaces_is_encoded_as_sentencepiece_does(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["of the people by the people for the people"] * 9),
        model_prefix=str(tmp_path / "m"),
        model_type="bpe",
        vocab_size=300,
        split_by_whitespace=False,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        byte_fallback=True,
        pad_id=3,
        control_symbols=list(CHAT_PIECES),
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    tokenizer, text = Tokenizer(tmp_path / "m.model"), "by the people of the people"
    assert any("▁" in model.id_to_piece(i).lstrip("▁") for i in model.encode(text))
    assert (
        fast_encoder(model.encode, tokenizer_json(model), [])(text)
        == tokenizer.encode(text)
        == model.encode(text)
    )
    with pytest.raises(ValueError, match="has no pieces <|fim_prefix|>"):
        _ = tokenizer.fim


def test_control_ids_stand_for_no_bytes_and_decode_to_nothing(tokenizer):
    assert tokenizer.vocab_size == 700 and tokenizer.byte_lengths.shape == (700,)
    assert not tokenizer.byte_lengths[:13].any() and tokenizer.byte_lengths[13:].all()
    assert tokenizer.decode(np.arange(13)) == ""


def test_many_texts_at_once_give_the_ids_of_each_alone(tokenizer):
    texts = [*TEXTS, "", "▁ and ▁", "x"]
    assert tokenizer.encode_all(texts) == [tokenizer.encode(text) for text in texts]
    assert all(
        tokenizer.decode(ids) == text
        for ids, text in zip(tokenizer.encode_all(texts), texts, strict=True)
    )


def test_pieces_for_filling_in_and_tools_have_their_ids(tokenizer, reference):
    assert tokenizer.fim == {
        part: reference.piece_to_id(f"<|fim_{part}|>") for part in ("prefix", "suffix", "middle")
    }
    assert tokenizer.control == {piece: reference.piece_to_id(piece) for piece in CONTROL_PIECES}


def test_indentation_costs_one_token(tokenizer):
    assert len(tokenizer.encode(" " * 8)) == 1


@pytest.mark.parametrize("model", ["bpe", "unigram"])
@pytest.mark.parametrize(("indent", "end"), [("    ", "\n"), ("\t", "\n"), ("  ", "\r\n")])
def test_runs_of_white_space_are_learned(model, indent, end, tmp_path):
    texts = [text.replace("    ", indent).replace("\n", end) for text in TEXTS]
    SentencePiece(vocab_size=1000, model=model).train(texts, tmp_path / "m")
    tokenizer = Tokenizer(tmp_path / "m")
    for run in (indent, 2 * indent, end, 2 * end):
        assert len(tokenizer.encode("x" + run + "x")) == 3
    assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in texts)


def test_a_cut_character_decodes_to_the_replacement_character(tokenizer):
    assert tokenizer.decode(tokenizer.encode("🦊")[:-1]) == "\ufffd"


def test_a_lone_surrogate_is_refused(tokenizer):
    with pytest.raises(ValueError, match="lone surrogate"):
        tokenizer.encode("a\ud800b")


def test_a_tokenizer_survives_pickling(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert (
        copy.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
        and copy.end_of_turn == tokenizer.end_of_turn
    )


@pytest.mark.parametrize("model", ["bpe", "unigram"])
def test_the_same_texts_give_the_same_file_in_any_order(model, tmp_path):
    component = SentencePiece(vocab_size=500, model=model, sample_mib=0.05)
    component.train(TEXTS, tmp_path / "a")
    component.train(random.Random(0).sample(TEXTS, len(TEXTS)), tmp_path / "elsewhere" / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "elsewhere" / "b").read_bytes()


@given(
    texts=st.lists(st.text("abc", min_size=1, max_size=40), min_size=1, max_size=30),
    n_bytes=st.integers(40, 400),
    seed=st.integers(),
)
def test_a_sample_fits_its_limit_and_does_not_depend_on_the_order(texts, n_bytes, seed):
    units = sample(texts, n_bytes / 2**20)
    assert sum(len(unit.encode()) for unit in units) <= n_bytes
    assert units == sample(random.Random(seed).sample(texts, len(texts)), n_bytes / 2**20)
    assert sorted(sample(texts, None)) == sorted(texts)


letters = st.lists(st.integers(1, 30_000), min_size=1, max_size=4)


@settings(max_examples=30)
@given(
    sizes=st.tuples(letters, letters, letters),
    weights=st.tuples(*[st.integers(1, 9)] * 3),
    mib=st.sampled_from([None, 0.03, 0.2]),
)
def test_each_source_makes_up_its_weight_of_the_bytes_in_any_order(sizes, weights, mib):
    texts = {
        letter: [letter * n for n in found] for letter, found in zip("aяz", sizes, strict=True)
    }
    weight = dict(zip("aяz", map(float, weights), strict=True))
    units = weighted_sample(texts, weight, mib)
    total = (
        sum(len(t.encode()) for found in texts.values() for t in found)
        if mib is None
        else mib * 2**20
    )
    for letter in texts:
        share = total * weight[letter] / sum(weights)
        assert abs(sum(len(u.encode()) for u in units if letter in u) - share) <= 3
    backwards = {letter: texts[letter][::-1] for letter in reversed(texts)}
    assert units == weighted_sample(backwards, weight, mib)


def test_a_source_of_weight_zero_teaches_nothing_and_its_texts_are_not_read(tmp_path):
    sources = {"code": TEXTS, "books": iter([])}
    BPE.make(sources, tmp_path / "a", weights={"code": 2.0, "books": 0.0})
    BPE.make({"code": TEXTS}, tmp_path / "b", weights={"code": 1.0})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_heavier_source_gets_more_of_the_vocabulary(tmp_path):
    russian = [
        "Съешь же ещё этих мягких французских булок да выпей чаю, и смотри, как быстро летит ворона над широкой рекой. "
        * 40
    ]
    BPE.make({"code": TEXTS, "ru": russian}, tmp_path / "light", weights={"code": 0.99, "ru": 0.01})
    BPE.make({"code": TEXTS, "ru": russian}, tmp_path / "heavy", weights={"code": 0.2, "ru": 0.8})
    light, heavy = (Tokenizer(tmp_path / name) for name in ("light", "heavy"))
    assert len(heavy.encode(russian[0])) < len(light.encode(russian[0]))
    assert len(heavy.encode(TEXTS[0])) > len(light.encode(TEXTS[0]))


@pytest.mark.parametrize(
    "weights",
    [{}, {"a": 1.0}, {"a": 1.0, "b": -1.0}, {"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 1.0, "c": 1.0}],
)
def test_weights_that_are_not_one_a_source_are_refused(weights):
    with pytest.raises(ValueError, match="must be one a source.*sources: a, b"):
        weighted_sample({"a": ["x"], "b": ["y"]}, weights, None)


def test_a_source_with_a_weight_and_no_text_is_named():
    with pytest.raises(ValueError, match="source 'b' has no text"):
        weighted_sample({"a": ["x"], "b": [""]}, {"a": 1.0, "b": 1.0}, None)


@pytest.mark.parametrize("model", ["bpe", "unigram"])
def test_a_vocabulary_larger_than_the_text_supports_is_refused_with_the_largest_possible(
    model, tmp_path
):
    with pytest.raises(ValueError, match=r"vocab_size=50000 .* set it to \d+ or lower") as error:
        SentencePiece(vocab_size=50000, model=model).train(TEXTS[:1], tmp_path / "tokenizer.model")
    assert not list(tmp_path.iterdir())
    largest = int(str(error.value).split("set it to ")[1].split()[0])
    SentencePiece(vocab_size=largest, model=model).train(TEXTS[:1], tmp_path / "tokenizer.model")
    assert Tokenizer(tmp_path / "tokenizer.model").vocab_size == largest


def test_a_vocabulary_too_small_for_the_letters_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"vocab_size=269 is too small .* set it to \d+ or higher"):
        SentencePiece(vocab_size=269, model="bpe").train(TEXTS[:1], tmp_path / "tokenizer.model")


@pytest.mark.parametrize("texts", [[], [""]])
def test_training_on_no_text_is_refused(texts, tmp_path):
    with pytest.raises(ValueError, match="no text to train on"):
        BPE.train(texts, tmp_path / "tokenizer.model")


def test_reserved_letters_in_a_text_do_not_hide_it_from_training(tmp_path):
    BPE.train(TEXTS, tmp_path / "plain")
    BPE.train(
        [text + letter for text, letter in zip(TEXTS, "▁▅\0▁", strict=True)], tmp_path / "with"
    )
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "with").read_bytes()


@pytest.mark.parametrize("data", [b"", b"no model", b"\0" * 100])
def test_a_file_that_is_no_model_is_refused(data, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(ValueError, match="is not a SentencePiece model|has no piece"):
        Tokenizer(tmp_path / "tokenizer.model")
