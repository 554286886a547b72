"""Text from a model as it grows: prompts in, pieces of text out."""

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
    """A model that can write, with the tokenizer it was trained with; `context` bounds prompt and text
    together, in tokens.
    """

    model: Model
    params: Params
    tokenizer: Tokenizer
    context: int


def writer(
    loaded: Loaded, *, sampler: SamplingRule, max_tokens: int, as_chat: bool, key: Key[Array, ""]
) -> Callable[[int, str], Iterator[str]]:
    """A function (number, prompt) → pieces of the text that follows the prompt, or of the answer to it as a
    user's message if `as_chat`. Texts of other numbers are sampled independently.

    Raises:
        ValueError: a chat is asked for, and the tokenizer has no pieces for one; or as in `stream`.
    """
    tokenizer = loaded.tokenizer
    chat = chat_format_of(tokenizer) if as_chat else None
    ends = what_ends(tokenizer, chat)

    # a key a text: the same prompt again, as another text, is answered anew
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
        return pieces((new for (new,) in news), tokenizer)  # one row, as there was one prompt

    return write


def prompt_ids(prompt: str, tokenizer: Tokenizer, chat: ChatFormat | None) -> list[int]:
    """A text to be continued; in a chat, a user's message to be answered."""
    if chat is None:
        return [tokenizer.bos, *tokenizer.encode(prompt)]
    return chat.prompt([text_message("user", prompt)])


def what_ends(tokenizer: Tokenizer, chat: ChatFormat | None) -> dict[str, Any]:
    """Arguments of `stream`: the ids that end a text, or an answer in a chat, and those that may come at
    all.
    """
    # end_of_turn too: a chat model may end any text as it ends its answers
    stop_ids = (tokenizer.eos, tokenizer.end_of_turn) if chat is None else chat.stop_ids
    # a model has no reason to write any other special id
    allowed_V = tokenizer.byte_lengths > 0
    allowed_V[list(stop_ids)] = True
    return {"stop_ids": stop_ids, "allowed_V": allowed_V}


def pieces(news: Iterable[list[int]], tokenizer: Tokenizer) -> Iterator[str]:
    """The text of tokens as they come; a letter whose bytes are not all there yet is held back."""
    ids: list[int] = []
    n_shown = 0  # characters
    for new in news:
        ids += new
        # all is decoded again, as bytes that are no letter yet may become one; U+FFFD stands for such bytes
        ready = tokenizer.decode(ids).rstrip("\ufffd")
        yield ready[n_shown:]
        n_shown = len(ready)
    yield tokenizer.decode(ids)[n_shown:]
