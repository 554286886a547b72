"""Tokenizer files in the manner of Gemma 3, Qwen 3 and DeepSeek-V3: text reaches none of their pieces."""

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from data_pipeline.chat.format import chat_format_of
from data_pipeline.chat.message import text_message
from data_pipeline.tokenizers.hugging_face import HuggingFaceTokenizer
from data_pipeline.tokenizers.tokenizer import Tokenizer
from data_pipeline.tokenizers.trained import TrainedTokenizer

TEXTS = ["user model assistant\n\nThe list of words,  in order.   x\n\n\n"] * 3
QWEN = {
    "special": ["<|im_start|>", "<|im_end|>"],
    "added": ["<tool_call>", "</tool_call>", "<think>"],
}
QWEN["added"] += ["</think>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
QWEN["template"] = """\
{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- if tools %}{{- '<tool_call></tool_call>' }}{%- endif %}"""
DEEPSEEK = {"special": ["<s>", "</s>"], "added": ["<｜User｜>", "<｜Assistant｜>"]}
DEEPSEEK["added"] += ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"]
DEEPSEEK["template"] = """\
{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}{% else %}
{{- '<｜Assistant｜>' + m.content + eos_token }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"""
GEMMA = {
    "special": ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
    "template": """\
{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + m.role + '\\n' + m.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}""",
}
GEMMA["added"] = ["\n\n", "▁▁", "▁▁▁", "<table>"]
KINDS = {"qwen": QWEN, "deepseek": DEEPSEEK, "gemma": GEMMA}
NAMES = {
    "qwen": ("<|im_start|>", "<|im_end|>"),
    "deepseek": ("<s>", "</s>"),
    "gemma": ("<bos>", "<eos>"),
}


def tokenizer_file(kind: str) -> tokenizers.Tokenizer:
    pieces = KINDS[kind]
    fallback = {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
    made = tokenizers.Tokenizer(models.BPE(**(fallback if kind == "gemma" else {})))
    more = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    special = pieces["special"]
    if kind == "gemma":
        made.normalizer = normalizers.Replace(" ", "▁")
        made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        made.decoder = decoders.Sequence(steps)
        byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
        more = {}
        special = [*special, "<unk>", *byte_pieces, "▁▁", "▁▁▁", "\n\n"]
    else:
        made.normalizer = normalizers.NFC() if kind == "qwen" else None
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, show_progress=False, **more
    )
    made.train_from_iterator(TEXTS, trainer)
    file = json.loads(made.to_str())
    kept = {*pieces["special"], "<unk>"}
    file["added_tokens"] = [each for each in file["added_tokens"] if each["content"] in kept]
    made = tokenizers.Tokenizer.from_str(json.dumps(file))
    made.add_tokens([AddedToken(piece, normalized=False) for piece in pieces["added"]])
    return made


def imported(kind: str, folder: Path) -> Tokenizer:
    tokenizer_file(kind).save(str(folder / "tokenizer.json"))
    bos, eos = NAMES[kind]
    settings = {"bos_token": bos, "eos_token": eos, "chat_template": KINDS[kind]["template"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    spec = HuggingFaceTokenizer(path=str(folder / "tokenizer.json"), bos=bos, eos=eos)
    spec.make({}, folder / "tokenizer.model", weights={})
    return Tokenizer(folder / "tokenizer.model")


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_makes_a_piece_that_structures_and_prompts_are_the_files_own(kind, tmp_path):
    tokenizer = imported(kind, tmp_path)
    file = tokenizer_file(kind)
    text_pieces = {"\n\n", "▁▁", "▁▁▁", "<table>"}
    pieces = [*KINDS[kind]["special"], *KINDS[kind]["added"]]
    ids = {file.token_to_id(piece) for piece in pieces if piece not in text_pieces}
    chat = chat_format_of(tokenizer)
    empty = [i for i in chat.prompt([text_message("user", "hi")]) if i in ids]
    for piece in pieces:
        for text in (piece, f"a {piece}{piece} b", piece[:-1] + piece):
            assert not ids & set(tokenizer.encode(text))
            assert tokenizer.decode(tokenizer.encode(text)) == text
            forged = chat.prompt([text_message("user", f"hi{text}")])
            assert [i for i in forged if i in ids] == empty
    text = "The  list\n\nof   words <table> x    y"
    assert tokenizer.encode(text) == file.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", ["qwen", "deepseek"])
def test_a_models_own_pieces_fill_in_the_middle(kind, tmp_path):
    tokenizer = imported(kind, tmp_path)
    spelled = [piece for piece in KINDS[kind]["added"] if "fim" in piece]
    file = tokenizer_file(kind)
    assert list(tokenizer.fim.values()) == [file.token_to_id(piece) for piece in spelled]


def test_nfc_is_done_as_the_file_says(tmp_path):
    tokenizer = imported("qwen", tmp_path)
    text = "e\u0301 K"
    ids = tokenizer_file("qwen").encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text) == ids and tokenizer.decode(ids) == "é K"


def test_a_template_beside_a_tokenizer_stays_with_it_when_a_model_is_trained_on(tmp_path):
    tokenizer = imported("qwen", tmp_path)
    again = TrainedTokenizer(path=str(tmp_path / "tokenizer.model"))
    again.make({}, tmp_path / "again.model", weights={})
    copied = Tokenizer(tmp_path / "again.model")
    assert copied.chat_template == tokenizer.chat_template == QWEN["template"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"added_tokens": {"a": 1}}, "added_tokens"),
        ({"added_tokens": [{"id": 2**31, "content": "<x>"}]}, "less than 16777216"),
        ({"added_tokens": [{"id": "7", "content": "<x>"}]}, "added_tokens.0.id"),
        ({"normalizer": "NFC"}, "normalizer"),
        ({"model": {"type": "BPE", "vocab": [1, 2], "merges": []}}, "vocab"),
        ({"model": {"type": "BPE", "vocab": {"a": 2**31}, "merges": []}}, "less than 16777216"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [3]}}, "can read"),
    ],
)
def test_a_field_of_another_type_or_size_is_refused_by_name(change, message, tmp_path):
    file = json.loads(tokenizer_file("deepseek").to_str())
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**file, **change}))
    with pytest.raises(ValueError, match=message):
        HuggingFaceTokenizer(path=str(path), bos="<s>", eos="</s>").make({}, path, weights={})


def test_a_regular_expression_without_end_is_refused(tmp_path):
    file = json.loads(tokenizer_file("deepseek").to_str())
    split = {"type": "Split", "pattern": {"Regex": "(a|aa|a+)+$"}, "behavior": "Isolated"}
    bomb = {
        "type": "Sequence",
        "pretokenizers": [{**split, "invert": False}, file["pre_tokenizer"]],
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**file, "pre_tokenizer": bomb}))
    with pytest.raises(ValueError, match="takes more than|ends the library|cannot be read"):
        HuggingFaceTokenizer(path=str(path), bos="<s>", eos="</s>").make({}, path, weights={})
