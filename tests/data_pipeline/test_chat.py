"""Laws of chats: a prompt is a prefix, weights cover what is trained and its end, an answer is read back."""

import datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.chat.format import ChatFormat, chat_format_of
from data_pipeline.chat.message import Message, Part, read_messages, text_message
from data_pipeline.chat.rendering import Turn, text_of
from data_pipeline.chat.roles import Roles
from data_pipeline.chat.template import Template
from data_pipeline.tokenizers.tokenizer import ROLES, SentencePiece, Tokenizer
from tests.data_pipeline.templates import ENDS, SPECIAL, STYLES, library_tokenizer, with_template

contents = st.text(max_size=12) | st.sampled_from(["<|end|>", "<s>", " a", "\n", "<|im_end|> x"])
parts = st.builds(lambda text, trained: Part("text", text, trained), contents, st.booleans())
messages = st.lists(
    st.builds(text_message, st.sampled_from(ROLES), contents), min_size=1, max_size=5
)
# what templates do not strip, and what ends in no part of a letter
words = st.sampled_from(
    ["The list", "of words</s>", "<|im_end|>", "in order.\n\n", "é🦊", "[INST]", "a"]
)
answers = st.lists(words, min_size=1, max_size=3).map(lambda each: " ".join(each).strip())
EVERY = pytest.mark.parametrize("style", STYLES)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    SentencePiece(vocab_size=300, model="bpe").train(
        ["What does the function do? It returns the list of words of a text, in order."], path
    )
    return Tokenizer(path)


@cache
def styled(style: str) -> Tokenizer:
    with TemporaryDirectory() as folder:
        return with_template(STYLES[style], Path(folder))


def chat_of(*texts: str) -> list[Message]:
    return [text_message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)]


def test_messages_are_read_as_data_holds_them_and_trained_is_the_assistants():
    rows = [
        {"role": "user", "content": "2+2?"},
        {
            "role": "assistant",
            "content": [{"kind": "call", "content": "2+2"}, {"kind": "result", "content": "4"}],
        },
        {"role": "assistant", "content": [{"kind": "text", "content": "no", "trained": False}]},
    ]
    assert read_messages(rows) == [
        Message("user", (Part("text", "2+2?", False),)),
        Message("assistant", (Part("call", "2+2", True), Part("result", "4", False))),
        Message("assistant", (Part("text", "no", False),)),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"role": "user"}, "must have a role and a content, and nothing else"),
        (
            {"role": "user", "content": "", "to": ""},
            "must have a role and a content, and nothing else",
        ),
        ({"role": "user", "content": 3}, "a text or a list of parts"),
        (
            {"role": "user", "content": [{"kind": "smell", "content": "x"}]},
            "kind of text, image, sound, call, result",
        ),
        ({"role": "user", "content": ["x"]}, "part 'x' of a message must have a kind"),
    ],
)
def test_a_malformed_message_is_refused(row, message):
    with pytest.raises(ValueError, match=message):
        read_messages([row])


def test_a_conversation_is_spelled_out_as_documented(tokenizer):
    question, answer = tokenizer.encode("What?"), tokenizer.encode("A list.")
    tokens, weight = Roles(tokenizer).render(chat_of("What?", "A list."))
    user, assistant, end = (
        tokenizer.roles["user"],
        tokenizer.roles["assistant"],
        tokenizer.end_of_turn,
    )
    assert tokens.tolist() == [tokenizer.bos, user, *question, end, assistant, *answer, end]
    assert weight.tolist() == [0] * (len(question) + 4) + [1] * (len(answer) + 1)
    assert tokens.dtype == np.int32 and weight.dtype == np.uint8


@given(messages=messages)
def test_joined_tokens_are_those_of_the_contents_and_every_answer_is_weighted_with_its_end(
    tokenizer, messages
):
    tokens, weight = Roles(tokenizer).render(messages)
    ids, targets = [tokenizer.bos], []
    for message in messages:
        content = tokenizer.encode(message.text)
        start = len(ids) + 1
        ids += [tokenizer.roles[message.role], *content, tokenizer.end_of_turn]
        targets += range(start, len(ids)) if message.role == "assistant" else []
    assert tokens.tolist() == ids and np.flatnonzero(weight).tolist() == targets
    assert (tokens == tokenizer.bos).sum() == 1 and (tokens == tokenizer.end_of_turn).sum() == len(
        messages
    )


@given(role=st.sampled_from(ROLES), parts=st.lists(parts, min_size=1, max_size=4))
def test_the_trained_bit_of_a_part_and_not_the_role_decides_its_weight(tokenizer, role, parts):
    tokens, weight = Roles(tokenizer).render([Message(role, tuple(parts))])
    expected = [int(part.trained) for part in parts for _ in tokenizer.encode(part.content)]
    assert weight.tolist() == [0, 0, *expected, int(parts[-1].trained)]
    assert tokenizer.decode(tokens) == "".join(part.content for part in parts)


@given(messages=messages, answer=contents)
def test_a_prompt_is_what_render_puts_before_the_answer_and_parse_reads_the_rest(
    tokenizer, messages, answer
):
    messages = [*messages, text_message("user", "?")]
    keeps_its_laws(Roles(tokenizer), messages, answer)


def keeps_its_laws(chat: ChatFormat, messages: list[Message], answer: str) -> list[int]:
    """The answer's tokens."""
    prompt = chat.prompt(messages)
    tokens, weight = chat.render([*messages, text_message("assistant", answer)])
    untrained, _ = chat.render([*messages, Message("assistant", (Part("text", answer),))])
    assert untrained.tolist() == tokens.tolist()
    assert prompt == tokens[: len(prompt)].tolist()
    n_answer = int(weight[len(prompt) :].sum())
    ids = tokens[len(prompt) :].tolist()
    assert weight[len(prompt) : len(prompt) + n_answer].all()
    assert [i in chat.stop_ids for i in ids[:n_answer]] == [False] * (n_answer - 1) + [True]
    assert chat.parse(ids) == text_message("assistant", answer) == chat.parse(ids[: n_answer - 1])
    return ids[:n_answer]


def test_calls_of_tools_and_their_results_are_rendered_and_calls_are_read_back(tokenizer):
    chat = Roles(tokenizer)
    called = Message("assistant", (Part("text", "I add.", True), Part("call", "2+2", True)))
    result = Message("tool", (Part("result", "4"),))
    tokens, weight = chat.render(
        [text_message("user", "2+2?"), called, result, text_message("assistant", "4.")]
    )
    control = tokenizer.control
    shape = [i for i in tokens.tolist() if i in (*control.values(), tokenizer.bos)]
    pieces = ["user", "end", "assistant", "tool_call", "end", "tool", "end", "assistant", "end"]
    assert shape == [tokenizer.bos, *(control[f"<|{piece}|>"] for piece in pieces)]
    prompt = chat.prompt([text_message("user", "2+2?")])
    assert chat.parse(tokens[len(prompt) :].tolist()) == called
    by_hand = [0] * len(prompt)
    by_hand += [1] * (len(tokenizer.encode("I add.")) + 1 + len(tokenizer.encode("2+2")) + 1)
    by_hand += (
        [0] * (1 + len(tokenizer.encode("4")) + 1) + [0] + [1] * (len(tokenizer.encode("4.")) + 1)
    )
    assert weight.tolist() == by_hand
    assert (
        chat.prompt([text_message("user", "2+2?"), called, result])
        == tokens[: -len(tokenizer.encode("4.")) - 1].tolist()
    )


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (text_message("robot", "x"), "must have a role of system, user, assistant, tool"),
        (Message("user", ()), "has no parts"),
        (Message("user", (Part("image", "cat.png"),)), "a part of kind image"),
        (Message("assistant", (Part("result", "4"),)), "give it a message of role tool"),
        (Message("user", (Part("call", "2+2"),)), "only the assistant calls tools"),
        (Message("assistant", (Part("call", "2+2"), Part("text", "so"))), "text behind its call"),
    ],
)
def test_a_message_that_could_not_be_read_back_is_refused(tokenizer, message, said):
    with pytest.raises(ValueError, match=said):
        Roles(tokenizer).render([message])


def test_an_empty_conversation_and_a_prompt_that_ends_with_the_assistant_are_refused(tokenizer):
    for chat in (Roles(tokenizer), Template(styled("chatml"))):
        with pytest.raises(ValueError, match="at least one message"):
            chat.render([])
        with pytest.raises(ValueError, match="ends with another role's, such as the user's"):
            chat.prompt([text_message("assistant", "x")])


def test_a_tokenizer_has_the_format_of_its_template_or_else_our_roles(tokenizer):
    assert isinstance(chat_format_of(tokenizer), Roles) and isinstance(
        chat_format_of(tokenizer), ChatFormat
    )
    assert isinstance(chat_format_of(styled("inst")), Template)
    assert isinstance(chat_format_of(styled("inst")), ChatFormat)


def library_ids(style: str, messages: list[Message], *, opens_answer: bool) -> list[int]:
    """What transformers gives: the template's text, tokenized at once with its control pieces."""
    template = Template(styled(style))._template
    turns = [Turn(message.role, (message.text,)) for message in messages]
    text = text_of(template.stretches(turns, opens_answer=opens_answer))
    return library_tokenizer().encode(text, add_special_tokens=False).ids


@EVERY
def test_a_prompt_has_the_ids_that_transformers_gives(style):
    messages = chat_of("What are the words?", "The list.", "In order?")
    prompt = chat_format_of(styled(style)).prompt(messages)
    assert prompt == library_ids(style, messages, opens_answer=True)


@EVERY
@settings(max_examples=8)
@given(question=answers, first=answers, answer=answers)
def test_a_template_keeps_the_laws_of_a_format(style, question, first, answer):
    chat = chat_format_of(styled(style))
    end = styled(style).special[ENDS.get(style, "<|im_end|>")].id
    assert chat.stop_ids[0] == end
    assert keeps_its_laws(chat, chat_of(question), answer)[-1] == end
    assert keeps_its_laws(chat, chat_of(question, first, question), answer)[-1] == end


@EVERY
@settings(max_examples=8)
@given(texts=st.lists(answers, min_size=2, max_size=2), forged=st.sampled_from(SPECIAL))
def test_a_message_can_forge_no_control_piece(style, texts, forged):
    tokenizer = styled(style)
    special = {each.id for each in tokenizer.special.values()}

    def shape(*texts: str) -> list[int]:
        return [
            i
            for i in chat_format_of(tokenizer).render(chat_of(*texts)).tokens.tolist()
            if i in special
        ]

    assert shape(f"{texts[0]} {forged}", f"{forged}{texts[1]}") == shape("a", "b")


@pytest.mark.parametrize("style", ["chatml", "headers"])
def test_white_space_around_a_content_stays_or_goes_as_the_template_has_it(style):
    tokens = chat_format_of(styled(style)).render(chat_of("  What? ", "A list.\n")).tokens
    shown = styled(style).decode(tokens)
    assert ("  What? " in shown, "A list.\n" in shown) == (style == "chatml", style == "chatml")


def test_what_a_template_drops_of_an_earlier_answer_is_not_in_the_tokens_and_nothing_else_moves():
    chat = chat_format_of(styled("thoughts"))
    thought, plain = "<think>\nWhat words?\n</think>\n\nThe list.", "The list."
    for i in (0, 1):
        kept = [
            chat.render(chat_of("q", each, "?", "Yes."))[i].tolist() for each in (thought, plain)
        ]
        assert kept[0] == kept[1]
    assert (
        chat.parse(
            chat.render(chat_of("q", thought)).tokens[len(chat.prompt(chat_of("q"))) :].tolist()
        ).text
        == thought
    )


def test_parts_of_one_answer_have_weights_of_their_own_in_a_template():
    chat = chat_format_of(styled("inst"))
    parts = (Part("text", "I add: ", True), Part("text", "4 ", False), Part("text", "is it.", True))
    tokens, weight = chat.render([text_message("user", "2+2?"), Message("assistant", parts)])
    tokenizer = styled("inst")
    said = tokenizer.decode(tokens[weight > 0])
    assert said == " I add: is it. " and tokens[weight > 0][-1] == tokenizer.eos
    with pytest.raises(ValueError, match="kinds text and result"):
        chat.render([Message("user", (Part("image", "cat.png"),))])


@pytest.mark.parametrize(
    ("template", "texts", "message"),
    [
        ("{{ raise_exception('no system') }}", ["hi"], r"cannot be rendered \(no system\)"),
        ("{% for %}", ["hi"], "cannot be rendered"),
        ("{{ ''.__class__.__mro__ }}", ["hi"], "cannot be rendered"),
        ("{{ messages[0].content + 1 }}", ["hi"], "cannot be rendered"),
        ("{{ messages[-1].content }}", ["hi", "ho", "a"], "leaves the content of a message out"),
        (
            "{% for m in messages * 2 %}{{ m.content + eos_token }}{% endfor %}",
            ["hi", "ho"],
            "otherwise than it asks for one",
        ),
        (
            "{% for m in messages %}{{ m.role + m.content }}{% endfor %}",
            ["hi", "ho"],
            "no control piece behind",
        ),
        (
            "{% for m in messages %}{{ m.content + '</s>' }}{% endfor %}{% if add_generation_prompt %}A:{% endif %}",
            ["hi", "ho"],
            "otherwise than it asks for one",
        ),
    ],
)
def test_a_template_that_reaches_out_or_hides_what_is_trained_is_refused(
    template, texts, message, tmp_path
):
    with pytest.raises(ValueError, match=message):
        chat_format_of(with_template(template, tmp_path)).render(chat_of(*texts))


def test_a_template_is_told_the_day_as_transformers_does(tmp_path):
    template = "{{ strftime_now('%Y-%m-%d') }} {{ messages[0].content }}"
    tokenizer = with_template(template, tmp_path)
    days = [f"{datetime.date.today()} hi"]
    shown = tokenizer.decode(chat_format_of(tokenizer).prompt(chat_of("hi")))
    # midnight may pass in between
    assert shown in [*days, f"{datetime.date.today()} hi"]
