"""Generate text from prompts, yielded in pieces as it is generated."""

import codecs
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Key

from data_pipeline.chat.format import ChatFormat, chat_format_of
from data_pipeline.chat.message import text_message
from data_pipeline.tokenizers.tokenizer import Tokenizer
from inference.decode import stream
from inference.generating import SamplingRule
from model.api import Model, Params


class Loaded(NamedTuple):
    """A model with the tokenizer it was trained with; `context` is the most tokens of prompt and text
    together.
    """

    model: Model
    params: Params
    tokenizer: Tokenizer
    context: int


def writer(
    loaded: Loaded, *, sampler: SamplingRule, max_tokens: int, as_chat: bool, key: Key[Array, ""]
) -> Callable[[int, str], Iterator[str]]:
    """Make a function (number, prompt) → pieces of the text that continues the prompt, or with `as_chat`
    of the answer to it as a user's message. Texts with different numbers are sampled independently.

    Raises:
        ValueError: `as_chat`, but the tokenizer has no special pieces for chats; or as in `stream`.
    """
    tokenizer = loaded.tokenizer
    chat = chat_format_of(tokenizer) if as_chat else None
    ends = what_ends(tokenizer, chat)

    # A key for each number: the same prompt with another number gets another answer.
    def write(number: int, prompt: str) -> Iterator[str]:
        ids = prompt_ids(prompt, tokenizer, chat)
        news = stream(
            loaded.model,
            loaded.params,
            [ids],
            sampler=sampler,
            context=loaded.context,
            max_tokens=max_tokens,
            key=jax.random.fold_in(key, number),
            **ends,
        )
        return pieces((new for (new,) in news), tokenizer)  # a single prompt gives a single row

    return write


def prompt_ids(prompt: str, tokenizer: Tokenizer, chat: ChatFormat | None) -> list[int]:
    """Token ids of a text to be continued, or in a chat of a user's message to be answered."""
    if chat is None:
        ids = tokenizer.encode(prompt)
        # a model needs at least one token to begin from
        return [tokenizer.bos, *ids] if tokenizer.adds_bos or not ids else ids
    return chat.prompt([text_message("user", prompt)])


def what_ends(tokenizer: Tokenizer, chat: ChatFormat | None) -> dict[str, Any]:
    """`stop_ids` and `allowed_V` of `stream`: ids that end a text, or an answer in a chat, and ids that
    may be chosen.
    """
    # ends of a turn too: a chat model may end a plain text the way it ends answers
    stop_ids = tokenizer.stop_ids if chat is None else chat.stop_ids
    # what opens the call of a tool, in a chat
    within = () if chat is None else chat.answer_ids
    # no other special id may be generated: they have no text
    allowed_V = tokenizer.byte_lengths > 0
    allowed_V[[*stop_ids, *within]] = True
    return {"stop_ids": stop_ids, "allowed_V": allowed_V}


def pieces(news: Iterable[list[int]], tokenizer: Tokenizer) -> Iterator[str]:
    """Decode tokens as they come; a character is held back until all its bytes are there."""
    # It tells the beginning of a character from bytes that make none, and from U+FFFD that was written.
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for new in news:
        yield decoder.decode(tokenizer.bytes_of(new))
    # What is still held back is the beginning of a character that the last token cut off: no text.
