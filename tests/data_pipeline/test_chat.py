"""Laws of the chat renderer: one bos, parts tokenized alone, weights on the assistant's words only."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.chat.render import prompt, render
from data_pipeline.tokenizers.tokenizer import ROLES, SentencePiece, Tokenizer

contents = st.text(max_size=12) | st.sampled_from(["<|end|>", "<s>", " a", "\n"])
messages = st.lists(
    st.builds(lambda role, content: {"role": role, "content": content}, st.sampled_from(ROLES), contents),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    SentencePiece(vocab_size=300, model="bpe").train(
        ["What does the function do? It returns the list of words of a text, in order."], path
    )
    return Tokenizer(path)


def test_a_conversation_is_spelled_out_as_documented(tokenizer):
    question, answer = tokenizer.encode("What?"), tokenizer.encode("A list.")
    tokens, weight = render(
        [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A list."}], tokenizer
    )
    user, assistant, end = tokenizer.roles["user"], tokenizer.roles["assistant"], tokenizer.end_of_turn
    assert tokens.tolist() == [tokenizer.bos, user, *question, end, assistant, *answer, end]
    assert weight.tolist() == [0] * (len(question) + 4) + [1] * (len(answer) + 1)
    assert tokens.dtype == np.int32 and weight.dtype == np.uint8


@settings(deadline=None)
@given(messages=messages)
def test_joined_tokens_are_those_of_the_parts_and_every_answer_is_weighted_with_its_end(tokenizer, messages):
    tokens, weight = render(messages, tokenizer)
    ids, targets = [tokenizer.bos], []
    for message in messages:
        content = tokenizer.encode(message["content"])
        start = len(ids) + 1
        ids += [tokenizer.roles[message["role"]], *content, tokenizer.end_of_turn]
        targets += range(start, len(ids)) if message["role"] == "assistant" else []
    assert tokens.tolist() == ids and np.flatnonzero(weight).tolist() == targets
    assert (tokens == tokenizer.bos).sum() == 1 and (tokens == tokenizer.end_of_turn).sum() == len(messages)


@settings(deadline=None)
@given(messages=messages)
def test_a_prompt_is_what_render_puts_before_the_answer(tokenizer, messages):
    messages = [*messages, {"role": "user", "content": "?"}]
    whole = render([*messages, {"role": "assistant", "content": "Yes."}], tokenizer)
    start = prompt(messages, tokenizer)
    assert start == whole.tokens[: len(start)].tolist() and start[-1] == tokenizer.roles["assistant"]
    assert tokenizer.decode(whole.tokens[len(start) :]) == "Yes."


@pytest.mark.parametrize(
    "bad",
    [
        [],
        [{"role": "robot", "content": "x"}],
        [{"role": "user"}],
        [{"role": "user", "content": "", "to": ""}],
    ],
)
def test_a_malformed_conversation_is_refused(tokenizer, bad):
    with pytest.raises(ValueError, match="at least one message|must have a role of system, user, assistant"):
        render(bad, tokenizer)


def test_a_prompt_that_ends_with_the_assistant_is_refused(tokenizer):
    with pytest.raises(ValueError, match="ends with a user"):
        prompt([{"role": "assistant", "content": "x"}], tokenizer)
