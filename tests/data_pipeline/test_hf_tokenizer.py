"""Laws of tokenizer.json files: nothing is lost, special pieces are out of text's reach, a file that breaks
a law is refused by name.
"""

import json
import pickle
import re
import sysconfig
from pathlib import Path

import pytest
import tokenizers
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from data_pipeline.chat.roles import Roles
from data_pipeline.tokenizers import fast_bpe
from data_pipeline.tokenizers.control import CONTROL_PIECES
from data_pipeline.tokenizers.fast_bpe import FAST_FROM_CHARS, fast_encoder
from data_pipeline.tokenizers.hugging_face import HuggingFaceTokenizer
from data_pipeline.tokenizers.tokenizer import Tokenizer

TEXTS = [
    (Path(sysconfig.get_paths()["stdlib"]) / name).read_text()
    for name in ("heapq.py", "textwrap.py", "bisect.py", "queue.py")
]
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "▁<PRE>", *CONTROL_PIECES]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
ALPHABET = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet(), "show_progress": False}
NAMES = {"bos": "<s>", "eos": "</s>", "control": {"<|end|>": "<|im_end|>"}}

traps = st.sampled_from(
    [
        *SPECIAL,
        " <PRE>",
        "<0x41>",
        "Ġ",
        "▁",
        "\0",
        "\r\n",
        "\t",
        "    ",
        " ",
        "🦊",
        "e\u0301",
        "\u2028",
        "Привет, ",
        "ſ",
        "\ufffd",
        "'ll",
    ]
)
words = st.sampled_from(
    [
        "'ll",
        "<0x41>",
        "<think>",
        "    return",
        "½",
        "é",
        "中文",
        "𝒳",
        "\u1680",
        *re.findall(r"\w+|\W+", TEXTS[0]),
    ]
)
any_text = st.lists(st.one_of(traps, st.text(max_size=20)), max_size=8).map("".join)


def byte_level() -> tokenizers.Tokenizer:
    """As GPT-2, Llama 3 and Qwen are made; with what must not matter: NFC, a template that adds pieces,
    truncation.
    """
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer, made.decoder = normalizers.NFC(), decoders.ByteLevel()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, **ALPHABET)
    )
    made.add_tokens(["    return", "<think>"])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    made.enable_truncation(5)
    return made


def metaspace(model: str) -> tokenizers.Tokenizer:
    """As Gemma is made: spaces as U+2581, other letters in bytes where no piece has them."""
    fallback = {"byte_fallback": True, "unk_token": "<unk>"}
    made = tokenizers.Tokenizer(
        models.BPE(**fallback) if model == "bpe" else models.Unigram(byte_fallback=True)
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    kind = {"bpe": trainers.BpeTrainer, "unigram": trainers.UnigramTrainer}[model]
    more = {"unk_token": "<unk>"} if model == "unigram" else {}
    made.train_from_iterator(
        TEXTS, kind(vocab_size=700, special_tokens=[*SPECIAL, *BYTES], show_progress=False, **more)
    )
    file = json.loads(made.to_str())
    file["model"]["byte_fallback"] = True
    file["added_tokens"] = [
        piece for piece in file["added_tokens"] if piece["content"] not in BYTES
    ]
    return tokenizers.Tokenizer.from_str(json.dumps(file))


KINDS = {
    "byte_level": byte_level,
    "metaspace_bpe": lambda: metaspace("bpe"),
    "metaspace_unigram": lambda: metaspace("unigram"),
}


def component(path: Path, **names) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer.model_validate_json(
        json.dumps({"path": str(path), **NAMES, **names})
    )


def made(folder: Path, file: tokenizers.Tokenizer, **names) -> Tokenizer:
    (folder / "tokenizer.json").write_text(file.to_str())
    component(folder / "tokenizer.json", **names).make(
        {}, folder / "made" / "tokenizer.model", weights={}
    )
    return Tokenizer(folder / "made" / "tokenizer.model")


@pytest.fixture(scope="module", params=KINDS)
def file(request) -> tokenizers.Tokenizer:
    return KINDS[request.param]()


@pytest.fixture(scope="module", params=["prompts", "corpora"])
def tokenizer(request, file, tmp_path_factory) -> Tokenizer:
    """One that has seen little text, and one that has gone over to the fast encoder."""
    tokenizer = made(tmp_path_factory.mktemp("tokenizer"), file)
    if request.param == "corpora":
        tokenizer.encode("x " * FAST_FROM_CHARS)
    return tokenizer


@settings(max_examples=150)
@given(text=any_text)
@example(text="▁ ▁▁<s><s>s><<s> ▁<PRE> <PRE>")
@example(text="  leading, trailing \n\n\tand\tinner   spaces  ")
def test_decoding_what_was_encoded_gives_the_text_back_without_a_special_id(tokenizer, file, text):
    ids = tokenizer.encode(text)
    kept = tokenizer.normalized(text)  # in NFC, where the file says so
    assert tokenizer.decode(ids) == kept
    assert tokenizer.byte_lengths[ids].sum() == len(kept.encode())
    assert not {file.token_to_id(piece) for piece in SPECIAL} & set(ids)


@settings(max_examples=150)
@given(text=st.lists(st.one_of(words, st.text(max_size=20)), max_size=8).map("".join))
def test_the_ids_are_those_of_the_file(tokenizer, file, text):
    text = text.replace("▁", "")
    # which the file alone takes for the piece; a unigram one also takes <0x41> for a byte
    pieces = SPECIAL if isinstance(file.model, models.BPE) else (*SPECIAL, *BYTES)
    assume(not any(piece.replace("▁", " ") in text for piece in pieces))
    plain = tokenizers.Tokenizer.from_str(file.to_str())
    plain.no_truncation()
    assert tokenizer.encode(text) == plain.encode(text, add_special_tokens=False).ids


def test_the_ids_of_real_text_are_those_of_the_file(tokenizer, file):
    plain = tokenizers.Tokenizer.from_str(file.to_str())
    plain.no_truncation()
    expected = [plain.encode(text, add_special_tokens=False).ids for text in TEXTS]
    assert tokenizer.encode_all(TEXTS) == expected


@pytest.mark.parametrize(
    ("kind", "is_fast"),
    [("byte_level", True), ("metaspace_bpe", True), ("metaspace_unigram", False)],
)
def test_every_kind_of_bpe_has_a_fast_encoder(kind, is_fast, tmp_path, monkeypatch):
    opened, tokenizer = [], made(tmp_path, KINDS[kind]())
    monkeypatch.setattr(
        fast_bpe, "fast_encoder", lambda *args: opened.append(fast_encoder(*args)) or opened[-1]
    )
    for _ in range(2):
        tokenizer.encode("x " * FAST_FROM_CHARS)
    (encoder,) = opened
    assert (encoder is not None) == is_fast


def test_an_encoder_that_gives_other_ids_on_a_probe_is_not_used():
    file = json.loads(metaspace("bpe").to_str())
    slow = tokenizers.Tokenizer.from_str(json.dumps(file))
    assert fast_encoder(lambda text: slow.encode(text).ids, file, TEXTS) is not None
    assert fast_encoder(lambda text: slow.encode(text).ids[1:], file, TEXTS) is None


def test_the_named_pieces_have_their_ids_and_stand_for_no_text(tokenizer, file):
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == tuple(
        map(file.token_to_id, ("<s>", "</s>", "</s>"))
    )
    assert tokenizer.end_of_turn == file.token_to_id("<|im_end|>")
    assert tokenizer.roles == {
        role: file.token_to_id(f"<|{role}|>") for role in ("system", "user", "assistant")
    }
    assert tokenizer.fim == {
        part: file.token_to_id(f"<|fim_{part}|>") for part in ("prefix", "suffix", "middle")
    }
    assert tokenizer.decode(map(file.token_to_id, SPECIAL)) == ""
    assert tokenizer.vocab_size == file.get_vocab_size() == len(tokenizer.byte_lengths)


def test_a_tokenizer_survives_pickling(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert (
        copy.encode_all(TEXTS) == tokenizer.encode_all(TEXTS)
        and copy.fingerprint == tokenizer.fingerprint
    )


def test_a_lone_surrogate_is_refused(tokenizer):
    with pytest.raises(ValueError, match="lone surrogate"):
        tokenizer.encode("a\ud800b")


def test_chat_without_its_pieces_is_refused_and_eos_ends_an_answer(tmp_path):
    plain = tokenizers.Tokenizer(models.BPE())
    plain.pre_tokenizer, plain.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    plain.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>"], **ALPHABET)
    )
    tokenizer = made(tmp_path, plain, eos="<s>", control={})
    assert tokenizer.roles == {} and tokenizer.end_of_turn == tokenizer.eos == tokenizer.bos
    with pytest.raises(ValueError, match="no pieces for the roles"):
        Roles(tokenizer)
    with pytest.raises(ValueError, match="no pieces <|fim_prefix|>"):
        _ = tokenizer.fim


def changed(**parts) -> tokenizers.Tokenizer:
    file = byte_level()
    for name, part in parts.items():
        setattr(file, name, part)
    return file


LOSSY = {
    "lower case": ({"normalizer": normalizers.Lowercase()}, "Ⅷ ①' comes back as '.* ⅷ"),
    "NFKC": ({"normalizer": normalizers.NFKC()}, "½|\\\\u2028|ﬁ"),
    "strip": ({"normalizer": normalizers.Strip()}, "' leading' comes back as 'leading'"),
    "prefix space": (
        {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)},
        "comes back as ' ",
    ),
    "dropped space": (
        {
            "pre_tokenizer": pre_tokenizers.Sequence(
                [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel()]
            )
        },
        "comes",
    ),
}


@pytest.mark.parametrize("case", LOSSY)
def test_a_file_that_does_not_keep_text_exactly_is_refused_with_an_example(case, tmp_path):
    parts, message = LOSSY[case]
    with pytest.raises(
        ValueError,
        match=f"tokenizer.json does not keep text exactly: .*({message}).*byte-level or byte-fallback",
    ):
        made(tmp_path, changed(**parts))
    assert not (tmp_path / "made").exists()


def test_a_file_that_has_no_piece_for_a_letter_is_refused(tmp_path):
    file = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
    file.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    file.train_from_iterator(
        TEXTS,
        trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False),
    )
    with pytest.raises(ValueError, match="does not keep text exactly"):
        made(tmp_path, file)


@pytest.mark.parametrize(
    ("field", "value"),
    [("bos", "<bos>"), ("eos", "return"), ("pad", "<pad>"), ("control", {"<|user|>": "<human>"})],
)
def test_a_piece_that_is_not_special_in_the_file_is_refused_with_those_that_are(
    field, value, tmp_path
):
    with pytest.raises(
        ValueError,
        match=rf"tokenizer\.{field}.* is no special piece of .*choose one of .*</s>, <s>",
    ):
        made(tmp_path, byte_level(), **{field: value})


def test_a_control_piece_that_is_none_of_ours_is_refused(tmp_path):
    with pytest.raises(ValidationError, match="control.*Input should be .*<|end|>"):
        component(tmp_path / "tokenizer.json", control={"<|robot|>": "<s>"})


@pytest.mark.parametrize(
    ("data", "message"),
    [("{}", "has no `model`"), ("[", "is not JSON"), ('{"model": {"type": "New"}}', "can read")],
)
def test_a_file_that_is_no_tokenizer_json_is_refused(data, message, tmp_path):
    (tmp_path / "tokenizer.json").write_text(data)
    with pytest.raises(ValueError, match=message):
        component(tmp_path / "tokenizer.json").make({}, tmp_path / "made", weights={})


def test_a_tokenizer_json_opened_as_it_is_says_how_to_name_its_pieces(tmp_path):
    byte_level().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(
        ValueError, match=r"does not name its bos and eos; make it with HuggingFaceTokenizer\(path="
    ):
        Tokenizer(tmp_path / "tokenizer.json")


def test_the_fingerprint_follows_the_content_of_the_file(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("a")
    before = component(path).fingerprint()
    path.write_text("b")
    assert before != component(path).fingerprint()
