"""Tokenizer files in the manner of Gemma 3, Llama 3.1, Qwen 3 and DeepSeek-V3: texts have their ids, and reach
none of the pieces that structure.
"""

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from data_pipeline.chat.format import chat_format_of
from data_pipeline.chat.message import text_message
from data_pipeline.tokenizers.fast_bpe import FAST_FROM_CHARS
from data_pipeline.tokenizers.hugging_face import HuggingFaceTokenizer
from data_pipeline.tokenizers.tokenizer import Tokenizer
from data_pipeline.tokenizers.trained import TrainedTokenizer
from launch.exchange.tokenizer_files import LETTERS

TEXTS = ["user model assistant\n\nThe list of words,  in order.   x\n\n\n<0x41> unmerged 1234"] * 3
TEXTS += ["(self.x) don't 'll [a] é ß Привет мир 中文日本語です 한국어 שלום مرحبا"] * 3
TEXT_PIECES = {"\n\n", "▁▁", "▁▁▁", "<table>"}
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
LLAMA = {
    "special": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|eot_id|>"],
    "added": [],
    "template": """\
{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '\n\n' + m.content | trim + '<|eot_id|>' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant\n\n' }}{% endif %}""",
}
LLAMA["special"] += [f"<|reserved_special_token_{i}|>" for i in range(252)]
KINDS = {"qwen": QWEN, "deepseek": DEEPSEEK, "gemma": GEMMA, "llama": LLAMA}
NAMES = {
    "qwen": ("<|im_start|>", "<|im_end|>"),
    "deepseek": ("<s>", "</s>"),
    "gemma": ("<bos>", "<eos>"),
    "llama": ("<|begin_of_text|>", "<|end_of_text|>"),
}
# how each cuts a text into words: numbers by three, ideographs and kana apart, then words, marks and spaces
SPLITS = {
    "qwen": [LETTERS % r"\p{N}"],
    "llama": [LETTERS % r"\p{N}{1,3}"],
    "deepseek": [
        r"\p{N}{1,3}",
        "[一-龥\u3040-ゟ゠-ヿ]+",
        r"[!-/:-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    ],
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
        made.normalizer = normalizers.NFC() if kind == "qwen" else normalizers.Sequence([])
        splits = [pre_tokenizers.Split(Regex(each), "isolated") for each in SPLITS[kind]]
        as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.pre_tokenizer = pre_tokenizers.Sequence([*splits, as_bytes])
        made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=special, show_progress=False, **more
    )
    made.train_from_iterator(TEXTS, trainer)
    file = json.loads(made.to_str())
    kept = {*pieces["special"], "<unk>"}
    file["added_tokens"] = [each for each in file["added_tokens"] if each["content"] in kept]
    if kind == "llama":
        # a word that no merges make, which is looked up whole
        file["model"]["ignore_merges"] = True
        file["model"]["vocab"]["Ġunmerged"] = len(file["model"]["vocab"])
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
    pieces = [*KINDS[kind]["special"], *KINDS[kind]["added"]]
    ids = {file.token_to_id(piece) for piece in pieces if piece not in TEXT_PIECES}
    chat = chat_format_of(tokenizer)
    empty = [i for i in chat.prompt([text_message("user", "hi")]) if i in ids]
    for piece in pieces[:20]:
        for text in (piece, f"a {piece}{piece} b", piece[:-1] + piece):
            assert not ids & set(tokenizer.encode(text))
            assert tokenizer.decode(tokenizer.encode(text)) == text
            forged = chat.prompt([text_message("user", f"hi{text}")])
            assert [i for i in forged if i in ids] == empty
    text = "The  list\n\nof   words <table> x    y"
    assert tokenizer.encode(text) == file.encode(text, add_special_tokens=False).ids


fragments = st.sampled_from(
    [
        *("<0x41>", "<0x", "41>", "<0x41", "Ġ", "Ċ", "<|", "|>", "<｜", "</", "<unk>", "[UNK]"),
        *(
            "\0",
            "\x1b[0m",
            "\x7f",
            "\r\n",
            "\r",
            "\t\t",
            "\n\n\n",
            "\n \n",
            "\x85",
            "\u2028",
            "\ufeff",
        ),
        *(" ", "  ", "   ", "        ", "\u3000", "\xa0", "\u200b", "\u1680", "\u202e", "\u061c"),
        *("0", "12", "1234567", "٣٤٥٦", "½", "Ⅷ", "１２３４", "3.14", "1,000", "二〇二六"),
        *(
            "🦊",
            "👩\u200d🚀",
            "🇫🇷",
            "👍🏽",
            "❤\ufe0f",
            "e\u0301",
            "ñ",
            "ﬁ",
            "K",
            "İ",
            "ß",
            "ſ",
            "ǆ",
        ),
        *(
            "שלום",
            "مرحبا",
            "हिन्दी",
            "ไทย",
            "中文",
            "日本語です",
            "カタカナ",
            "한국어",
            "\u1112\u1161",
        ),
        *("don't", "'LL", " unmerged", "unmerged", "The list", " of", "words", "<table>", "_x.y()"),
        *(
            "!ab",
            "#include",
            "$x$",
            "https://a.b/c?d=e",
            "\ufffd",
            "\U0010ffff",
            "𝒳",
            "\u0345\u0301",
        ),
    ]
)
fuzz = st.lists(fragments | st.text(max_size=6), max_size=12).map("".join)


@pytest.fixture(scope="module", params=[(kind, fast) for kind in KINDS for fast in (False, True)])
def pair(request, tmp_path_factory) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    """Ours and the file's, before and after many texts, when ours has gone over to the fast encoder."""
    kind, is_fast = request.param
    tokenizer = imported(kind, tmp_path_factory.mktemp(kind))
    if is_fast:
        tokenizer.encode("x " * FAST_FROM_CHARS)
    return tokenizer, tokenizer_file(kind)


@settings(max_examples=300)
@given(text=fuzz)
def test_texts_have_the_ids_of_the_file_and_come_back_as_it_has_them(pair, text):
    tokenizer, file = pair
    text = text.replace("▁", "")  # which the files do not keep apart from a space
    special = {piece.content for piece in file.get_added_tokens_decoder().values()} - TEXT_PIECES
    ids = tokenizer.encode(text)
    assert not {file.token_to_id(piece) for piece in special} & set(ids)
    assert tokenizer.decode(ids) == tokenizer.normalized(text)
    if not any(piece in text for piece in special):
        assert ids == file.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == file.decode(ids, skip_special_tokens=False)


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
