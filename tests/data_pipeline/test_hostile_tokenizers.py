"""Damaged and hostile tokenizer.json files are refused in one sentence, within limits on time and memory."""

import json
import re
from pathlib import Path

import pytest

from data_pipeline.tokenizers.hugging_face import HuggingFaceTokenizer
from data_pipeline.tokenizers.tokenizer_json import MAX_FILE_BYTES
from launch.exchange.tokenizer_files import imported
from model.hugging_face.checkpoint import Checkpoint
from tests.data_pipeline.templates import library_tokenizer

PIECE = {"id": 3, "content": "<x>"}


def bpe(**fields) -> dict:
    return {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [], **fields}}


def split(regex: str) -> dict:
    pattern = {"pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {"pre_tokenizer": {"type": "Split", **pattern}}


TYPES = {
    "added_tokens": ({"added_tokens": {"a": 1}}, "added_tokens"),
    "id_large": ({"added_tokens": [{**PIECE, "id": 2**31}]}, "less than 16777216"),
    "id_text": ({"added_tokens": [{**PIECE, "id": "7"}]}, "added_tokens.0.id"),
    "id_negative": ({"added_tokens": [{**PIECE, "id": -1}]}, "added_tokens.0.id"),
    "id_fraction": ({"added_tokens": [{**PIECE, "id": 1.5}]}, "added_tokens.0.id"),
    "content": ({"added_tokens": [{**PIECE, "content": ["<x>"]}]}, "added_tokens.0.content"),
    "empty_content": ({"added_tokens": [{**PIECE, "content": ""}]}, "added_tokens.0.content"),
    "no_objects": ({"added_tokens": ["<x>"] * 999}, "added_tokens.0"),
    "many_added": ({"added_tokens": [PIECE] * 140_000}, "at most 131072"),
    "normalizer": ({"normalizer": "NFC"}, "normalizer"),
    "normalizer_type": ({"normalizer": {"type": "NFX"}}, "can read"),
    "normalizer_number": ({"normalizer": {"type": 3}}, "can read"),
    "pre_tokenizer": ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": {}}}, "can read"),
    "decoder": ({"decoder": [1]}, "decoder"),
    "no_model": ({"model": None}, "has no `model`"),
    "model_text": ({"model": "BPE"}, "has no `model`"),
    "model_type": (bpe(type="New"), "can read"),
    "model_number": (bpe(type=7), "can read"),
    "vocab_list": (bpe(vocab=[1, 2]), "can read"),
    "vocab_none": (bpe(vocab=None), "can read"),
    "vocab_text": (bpe(vocab="abc"), "model.vocab='abc' is no vocabulary"),
    "vocab_large": (bpe(vocab={"a": 2**31}), "model.vocab.a=2147483648 must be an integer"),
    "vocab_huge": (bpe(vocab={"a": 10**30}), "must be an integer from 0 to 16777215"),
    "vocab_bool": (bpe(vocab={"a": True}), "must be an integer"),
    "merges_numbers": (bpe(merges=[3]), "can read"),
    "merges_words": (bpe(merges=["a"]), "can read"),
    "merges_unknown": (bpe(merges=[["a", "z"]]), "can read"),
    "unk": (bpe(unk_token=["<unk>"]), "unk_token must be a text"),
    "unigram": ({"model": {"type": "Unigram", "vocab": [["a", "b"]]}}, "can read"),
    "unigram_unk": (
        {"model": {"type": "Unigram", "unk_id": 9, "vocab": [["a", -1.0]]}},
        "can read|cannot be read|ends the library",
    ),
}
BOMBS = {
    "alternatives": split("(a|aa|a+)+$"),
    "letters": split("(x+x+)+y"),
    "words": split(r"(\w+\s?)*$"),
    "lookbehind": split(r"(?=((é+)+)+$)z"),
    "brackets": split("(" * 50_000 + "a" + ")" * 50_000),
    "unclosed": split("(" * 9),
    "replace": {"normalizer": {"type": "Replace", "pattern": {"Regex": "(.+)+q"}, "content": ""}},
    "growth": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 99}]
            * 9,
        }
    },
    "nesting": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}},
    # merges that lead back to where they came from
    "cycle": bpe(
        vocab={"a": 0, "": 1, "ab": 2, "b": 3},
        merges=[["a", ""], ["", "a"], ["a", "b"], ["ab", ""]],
    ),
    "prefix": bpe(merges=[["a", "b"]], continuing_subword_prefix="##########"),
}
for _ in range(400):
    inner = BOMBS["nesting"]["pre_tokenizer"]
    BOMBS["nesting"] = {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [inner]}}


def folder_with(change: dict, folder: Path) -> Checkpoint:
    """A checkpoint whose tokenizer.json has other fields than it should."""
    file = {**json.loads(library_tokenizer().to_str()), **change}
    (folder / "tokenizer.json").write_text(json.dumps(file))
    settings = {"bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return Checkpoint(folder, {}, ())


def refusal(checkpoint: Checkpoint) -> str:
    with pytest.raises(ValueError) as refused:
        imported(checkpoint, None, checkpoint.path / "tokenizer.model")
    said = str(refused.value)
    assert str(checkpoint.path) in said and len(said) < 700 and "\n" not in said
    assert said.endswith("or remove it to import the weights alone")
    return said


@pytest.mark.parametrize("case", TYPES)
def test_a_field_of_another_type_or_size_is_refused_by_name(case, tmp_path):
    change, message = TYPES[case]
    checkpoint = folder_with(change, tmp_path)
    with pytest.raises(ValueError, match=message):
        imported(checkpoint, None, tmp_path / "tokenizer.model")
    refusal(checkpoint)


@pytest.mark.parametrize("case", BOMBS)
def test_a_file_that_would_never_end_is_refused(case, tmp_path):
    checkpoint = folder_with(BOMBS[case], tmp_path)
    if case in ("replace", "cycle"):  # which end, and change texts
        assert "does not keep text exactly" in imported(checkpoint, None, tmp_path / "x.model")
    else:
        refusal(checkpoint)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[" * 99_999,
        "{" * 99_999,
        '{"a":' * 99_999,
        "1" * 9999,
        '{"model": NaN}',
        "nul",
        "\ud800",
    ],
)
def test_what_is_no_json_is_refused(text, tmp_path):
    checkpoint = folder_with({}, tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(text.encode(errors="surrogatepass"))
    refusal(checkpoint)


def test_a_file_larger_than_any_is_not_read(tmp_path):
    checkpoint = folder_with({}, tmp_path)
    with (tmp_path / "tokenizer.json").open("r+b") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # without taking any place on the disk
    assert "134,217,729 bytes" in refusal(checkpoint)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("tokenizer_config.json", b'{"bos_token": 3, "eos_token": "</s>"}'),
        ("tokenizer_config.json", b'{"chat_template": {"a": 1}}'),
        ("tokenizer_config.json", b"[" * 99_999),
        ("chat_template.jinja", b"{{ bos_token }}\xff"),
        ("generation_config.json", b'{"eos_token_id": ["a"]}'),
        ("generation_config.json", b"[]"),
    ],
)
def test_files_beside_it_are_refused_alike(name, data, tmp_path):
    checkpoint = folder_with({}, tmp_path)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(name)) as refused:
        imported(checkpoint, None, tmp_path / "tokenizer.model")
    assert "\n" not in str(refused.value)


def test_a_tokenizer_that_changes_texts_is_left_out_and_the_weights_are_imported(tmp_path):
    checkpoint = folder_with({"normalizer": {"type": "Lowercase"}}, tmp_path)
    said = imported(checkpoint, None, tmp_path / "tokenizer.model")
    assert said.startswith("  no tokenizer: ") and "does not keep text exactly" in said


def test_a_bomb_named_by_a_configuration_is_refused_too(tmp_path):
    path = folder_with(BOMBS["alternatives"], tmp_path).path / "tokenizer.json"
    with pytest.raises(ValueError, match="takes more than 1 s|ends the library|cannot be read"):
        HuggingFaceTokenizer(path=str(path), bos="<s>", eos="</s>").make({}, path, weights={})
