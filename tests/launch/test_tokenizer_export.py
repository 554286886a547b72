"""Laws of exported tokenizers: every kind of ours is a tokenizer.json with equal ids."""

import json
from pathlib import Path

import pytest
import tokenizers

from data_pipeline.chat.format import chat_format_of
from data_pipeline.chat.message import text_message
from data_pipeline.chat.roles import Roles
from data_pipeline.tokenizers.hugging_face import HuggingFaceTokenizer
from data_pipeline.tokenizers.tokenizer import SentencePiece, Tokenizer
from inference.text import what_ends
from launch.exchange.tokenizer_files import exported, imported
from model.hugging_face.checkpoint import Checkpoint
from tests.data_pipeline.templates import CHATML, library_tokenizer

TEXTS = [
    "The list of words, in order.",
    "héllo 🦊🦊\n\n  x\ty  中",
    " leading and  runs   of spaces ",
]


@pytest.mark.parametrize(("kind", "size"), [("bpe", 380), ("unigram", 360), ("char", 310)])
def test_an_exported_tokenizer_gives_our_ids_and_text(kind, size, tmp_path):
    path = tmp_path / "tokenizer.model"
    source = Path(__file__).read_text(encoding="utf-8")
    spec = SentencePiece(vocab_size=size, model=kind, character_coverage=0.99)
    spec.train([part for part in source.split("\n\n") if "TEXTS =" not in part], path)
    ours = Tokenizer(path)
    theirs = tokenizers.Tokenizer.from_str(exported(path)["tokenizer.json"].decode())
    for text in TEXTS:
        ids = ours.encode(text)
        assert theirs.encode(text, add_special_tokens=False).ids == ids
        assert theirs.decode(ids) == text
    assert theirs.encode("<|user|>", add_special_tokens=False).ids == [ours.roles["user"]]


def test_an_answer_may_call_a_tool_and_a_text_may_not(tmp_path):
    path = tmp_path / "tokenizer.model"
    SentencePiece(vocab_size=300, model="bpe").train(TEXTS, path)
    tokenizer = Tokenizer(path)
    call = tokenizer.control["<|tool_call|>"]
    assert what_ends(tokenizer, Roles(tokenizer))["allowed_V"][call]
    assert not what_ends(tokenizer, None)["allowed_V"][call]


@pytest.mark.parametrize(
    "pieces",
    [
        {"eos_token": "</s>", "pad_token": "</turn>"},  # Qwen's has no bos
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<turn>", "pad_token": "</s>"},
    ],
)
def test_a_chat_template_and_the_pieces_that_it_names_survive_import_and_export(pieces, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "ours").mkdir()
    library_tokenizer().save(str(tmp_path / "theirs" / "tokenizer.json"))
    template = "{{ bos_token }}|{{ unk_token }}|{{ pad_token }}" + CHATML
    settings = {**pieces, "chat_template": template}
    (tmp_path / "theirs" / "tokenizer_config.json").write_text(json.dumps(settings))
    prompts = []
    for folder in ("theirs", "ours"):
        path = tmp_path / f"{folder}.model"
        imported(Checkpoint(tmp_path / folder, {}, ()), None, path)
        files = exported(path)
        for name, data in files.items():
            (tmp_path / "ours" / name).write_bytes(data)
        found = json.loads(files["tokenizer_config.json"])
        assert {key: found.get(key) for key in (*pieces, "bos_token")} == {
            "bos_token": None,
            **pieces,
        }
        assert found["chat_template"] == template
        prompts.append(chat_format_of(Tokenizer(path)).prompt([text_message("user", "hi")]))
    assert prompts[0] == prompts[1]


def test_the_piece_that_fills_rows_is_exported_as_its_id_is(tmp_path):
    library_tokenizer().save(str(tmp_path / "tokenizer.json"))
    settings = {"eos_token": "</s>", "pad_token": "<turn>", "chat_template": CHATML}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    path = tmp_path / "ours.model"
    spec = HuggingFaceTokenizer(path=str(tmp_path / "tokenizer.json"), bos="<s>", eos="</s>")
    spec.make({}, path, weights={})
    pad = json.loads(exported(path)["tokenizer_config.json"])["pad_token"]
    tokenizer = Tokenizer(path)
    assert pad == "</s>" and tokenizer.special[pad].id == tokenizer.pad
