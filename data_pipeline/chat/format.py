"""How a conversation becomes tokens and back: the contract, and which format a tokenizer has.

Training, evaluation, samples and `generate` ask `chat_format_of`, so that a model is evaluated in the format
in which it was trained and is served.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from data_pipeline.chat.message import Message
from data_pipeline.chat.roles import Roles
from data_pipeline.chat.template import Template
from data_pipeline.shards.record import Sequence as Tokens
from data_pipeline.tokenizers.tokenizer import Tokenizer


@runtime_checkable
class ChatFormat(Protocol):
    """`prompt(messages)` is a prefix of `render([*messages, answer])`, whose weights are 1 on the rest up to
    the answer's end, and `parse` reads the answer from that rest.

    Attributes:
        VERSION: Rises when the tokens of a conversation change; rendered rows are kept by it.
        stop_ids: Any of these ends an answer.
        answer_ids: Control ids that may stand within an answer, such as the one that opens a call.
    """

    VERSION: int
    stop_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]

    def render(self, messages: Sequence[Message]) -> Tokens:
        """A whole conversation; weight 1 exactly on trained parts and on what ends them.

        Raises:
            ValueError: there is no message, or one that the format has no place for.
        """
        ...

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """A conversation up to where the assistant's next answer begins.

        Raises:
            ValueError: the last message is the assistant's own, or as in `render`.
        """
        ...

    def parse(self, ids: Iterable[int]) -> Message:
        """The answer that a model wrote behind a prompt; what follows its end is not read."""
        ...


def chat_format_of(tokenizer: Tokenizer) -> ChatFormat:
    """The template that an imported model brought along, else our own roles.

    Raises:
        ValueError: the tokenizer has neither a template nor pieces for the roles.
    """
    # The template is the format that the model was trained in, so it comes first.
    return Template(tokenizer) if tokenizer.chat_template else Roles(tokenizer)
