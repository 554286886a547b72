"""Templates as long as models ship them, with calls of tools, results and thoughts, have transformers' ids."""

import json
from pathlib import Path

import pytest

from data_pipeline.chat.format import chat_format_of
from data_pipeline.chat.message import Message, Part, text_message
from tests.data_pipeline.template_kinds import ADD, CONVERSATIONS, KINDS, LIST, Say, call_text
from tests.data_pipeline.templates import with_template

IDS = json.loads(Path(__file__).with_name("template_kinds.json").read_text())


def message_of(each: Say) -> Message:
    is_trained = each.role == "assistant"
    kind = "result" if each.role == "tool" else "text"
    texts = [Part(kind, text, is_trained) for text in each.texts]
    return Message(
        each.role, (*texts, *(Part("call", call_text(call), is_trained) for call in each.calls))
    )


@pytest.mark.parametrize("name", KINDS)
def test_prompts_have_the_ids_of_transformers_and_refusals_are_its(name, tmp_path):
    chat = chat_format_of(with_template(KINDS[name], tmp_path))
    for conversation, ids in zip(CONVERSATIONS, IDS[name], strict=True):
        messages = [message_of(each) for each in conversation]
        if ids is None:
            with pytest.raises(ValueError, match="cannot be rendered"):
                chat.prompt(messages)
        else:
            assert chat.prompt(messages) == ids


@pytest.mark.parametrize(
    ("name", "end"), [("hermes", "<|im_end|>"), ("reasoner", "<|im_end|>"), ("inst", "</s>")]
)
def test_a_call_is_trained_up_to_the_end_of_its_turn(name, end, tmp_path):
    tokenizer = with_template(KINDS[name], tmp_path)
    chat = chat_format_of(tokenizer)
    asked = [text_message("user", "2+2?")]
    calls = tuple(Part("call", call_text(call), True) for call in (ADD, LIST))
    tokens, weight = chat.render([*asked, Message("assistant", (Part("text", ""), *calls))])
    trained = tokens[weight > 0]
    assert trained[-1] == tokenizer.special[end].id == chat.stop_ids[0]
    shown = tokenizer.decode(trained)
    assert all(word in shown for word in ("add", "two & <two>", "words", "🦊", "order"))


@pytest.mark.parametrize(
    "call", ["2+2", "[" * 9999, '{"name": "", "arguments": {}}', '{"name": 3}']
)
def test_a_call_that_no_template_can_show_is_refused(call, tmp_path):
    chat = chat_format_of(with_template(KINDS["hermes"], tmp_path))
    with pytest.raises(ValueError, match="must be JSON of the form .*; rewrite it"):
        chat.render([text_message("user", "a"), Message("assistant", (Part("call", call),))])


def test_a_template_that_leaves_a_call_out_is_refused_for_training(tmp_path):
    chat = chat_format_of(with_template(KINDS["turns"], tmp_path))
    answer = Message(
        "assistant", (Part("text", "I add.", True), Part("call", call_text(ADD), True))
    )
    with pytest.raises(ValueError, match="leaves a call of a tool out"):
        chat.render([text_message("user", "2+2?"), answer])


def test_a_call_can_forge_no_control_piece(tmp_path):
    tokenizer = with_template(KINDS["hermes"], tmp_path)
    special = {each.id for each in tokenizer.special.values()}

    def shape(word: str) -> list[int]:
        call = json.dumps({"name": f"f{word}", "arguments": {word: [word, {word: word}]}})
        answer = Message("assistant", (Part("text", word, True), Part("call", call, True)))
        tokens = chat_format_of(tokenizer).render([text_message("user", word), answer]).tokens
        return [i for i in tokens.tolist() if i in special]

    assert shape("<|im_end|>") == shape("</s>") == shape("a")


WAYS = {
    "format": "c.format('b')",
    "percent": "c.replace('{}', '%s') % 'b'",
    "filter": "c.replace('{}', '%s') | format('b')",
    "in_list": "[c] ~ ''",
    "key": "{c: 1} | tojson",
    "mapping": "{c: c} | lower",
    "repr": "'{!r}'.format({c: c})",
    "safe": "c | safe",
    "joined": "[[c], {c: 1}] | join",
    "strip": "' '.join(c.split(' ')).strip()",
    "escaped": "c | e",
    "iterated": "c | list | join",
    "sorted": "[c, 'a'] | sort | last",
}


@pytest.mark.parametrize("way", WAYS)
def test_whatever_a_template_does_to_a_text_it_stays_text(way, tmp_path):
    template = "{% for m in messages %}{% set c = m.content %}{{ WAY }}{{ eos_token }}{% endfor %}"
    tokenizer = with_template(template.replace("WAY", WAYS[way]), tmp_path)
    ids = chat_format_of(tokenizer).prompt([text_message("user", "a {} </s><s>")])
    assert [i for i in ids if i in {each.id for each in tokenizer.special.values()}] == ids[-1:]
    assert ids[-1] == tokenizer.eos and "</s>" in tokenizer.decode(ids).replace(
        "&lt;/s&gt;", "</s>"
    )


def test_bytes_of_a_text_are_refused(tmp_path):
    template = "{{ messages[0].content.encode().decode() }}{{ eos_token }}"
    with pytest.raises(ValueError, match="makes bytes of a message"):
        chat_format_of(with_template(template, tmp_path)).prompt([text_message("user", "a")])
