"""The one renderer: conversation → tokens and target weights."""

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np

from data_pipeline.shards.record import Sequence as Tokens
from data_pipeline.tokenizers.tokenizer import Tokenizer


def render(messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> Tokens:
    """`<bos><|user|>…<|end|><|assistant|>…<|end|>`, with weight 1 exactly on the assistant's content and
    its `<|end|>`.

    Raises:
        ValueError: there is no message, or a message is not {"role": system | user | assistant, "content":
        text}.
    """
    return render_all([messages], tokenizer)[0]


def render_all(conversations: Sequence[Sequence[Mapping[str, str]]], tokenizer: Tokenizer) -> list[Tokens]:
    """`render` for many conversations, five times faster than one by one."""
    if conversations and not tokenizer.roles:
        raise ValueError(
            "the tokenizer has no pieces for the roles of a chat; name the file's own in HuggingFaceTokenizer(control=…)"
        )
    for messages in conversations:
        _check(messages, tokenizer)
    encoded = iter(
        tokenizer.encode_all([message["content"] for message in chain.from_iterable(conversations)])
    )
    return [
        _join([(message["role"], next(encoded)) for message in messages], tokenizer)
        for messages in conversations
    ]


def _check(messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> None:
    if not messages:
        raise ValueError("the conversation is empty; it needs at least one message")
    for message in messages:
        if set(message) != {"role", "content"} or message["role"] not in tokenizer.roles:
            roles = ", ".join(tokenizer.roles)
            raise ValueError(
                f"message {dict(message)!r:.80} must have a role of {roles} and a content, and nothing else"
            )


def _join(turns: list[tuple[str, list[int]]], tokenizer: Tokenizer) -> Tokens:
    tokens, weight = [tokenizer.bos], [0]
    for role, content in turns:
        tokens += [tokenizer.roles[role], *content, tokenizer.end_of_turn]
        weight += [0, *[int(role == "assistant")] * (len(content) + 1)]
    return Tokens(np.array(tokens, np.int32), np.array(weight, np.uint8))


def prompt(messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> list[int]:
    """The tokens of a conversation up to and with the `<|assistant|>` that opens the next answer; equal to
    `render`'s first tokens.

    Raises:
        ValueError: the last message is the assistant's own, or as in `render`.
    """
    tokens = render(messages, tokenizer).tokens
    if messages[-1]["role"] == "assistant":
        raise ValueError("the last message has role 'assistant'; a prompt ends with a user or system message")
    return [*tokens.tolist(), tokenizer.roles["assistant"]]
