"""Our own chat format: one control piece a role, one that ends a turn, one that opens a call of a tool."""

from collections.abc import Iterable, Sequence
from itertools import takewhile

import numpy as np

from data_pipeline.chat.message import ASSISTANT, TOOL, Message, Part
from data_pipeline.shards.record import Sequence as Tokens
from data_pipeline.tokenizers.tokenizer import Tokenizer


class Roles:
    """`<bos><|user|>…<|end|><|assistant|>…<|tool_call|>…<|end|><|tool|>…<|end|><|assistant|>…<|end|>`.

    An answer is a text, then any number of calls; a tool answers as a message of its own. Each content is
    tokenized alone, so the tokens of a conversation are those of its messages, whatever they are joined with.

    Raises:
        ValueError: the tokenizer has no pieces for the roles.
    """

    VERSION = 1

    def __init__(self, tokenizer: Tokenizer):
        if not tokenizer.roles:
            remedy = "name the file's own in HuggingFaceTokenizer(control=…)"
            raise ValueError(f"the tokenizer has no pieces for the roles of a chat; {remedy}")
        self._tokenizer = tokenizer
        self._roles = dict(tokenizer.roles)
        # Older tokenizers have no pieces for tools.
        if "<|tool|>" in tokenizer.control:
            self._roles[TOOL] = tokenizer.control["<|tool|>"]
        self._call = tokenizer.control.get("<|tool_call|>")
        self.stop_ids = tokenizer.stop_ids
        self.answer_ids = () if self._call is None else (self._call,)

    def render(self, messages: Sequence[Message]) -> Tokens:
        """Render a conversation, as `ChatFormat` says: weight 1 on trained parts and their ends."""
        if not messages:
            raise ValueError("the conversation is empty; it needs at least one message")
        tokens = [self._tokenizer.bos]
        weight = [0]
        for message in messages:
            self._check(message)
            # The role is given, never learned.
            tokens.append(self._roles[message.role])
            weight.append(0)
            for part in message.parts:
                ids = self._part_ids(part)
                tokens += ids
                weight += [int(part.trained)] * len(ids)
            # The end of a turn is a target if the last part is.
            tokens.append(self._tokenizer.end_of_turn)
            weight.append(int(message.parts[-1].trained))
        return Tokens(np.array(tokens, np.int32), np.array(weight, np.uint8))

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens up to where the assistant's next answer begins, as `ChatFormat` says."""
        tokens = self.render(messages).tokens
        if messages[-1].role == ASSISTANT:
            rule = "a prompt ends with another role's, such as the user's"
            raise ValueError(f"the last message has role 'assistant'; {rule}")
        # The assistant's role piece, with which `render` begins an answer.
        return [*tokens.tolist(), self._roles[ASSISTANT]]

    def parse(self, ids: Iterable[int]) -> Message:
        """Read an answer, and the tool calls in it, as `ChatFormat` says."""
        stretches: list[list[int]] = [[]]  # the text, then a stretch a call
        for i in takewhile(lambda i: i not in self.stop_ids, ids):
            if i == self._call:
                stretches.append([])
            else:
                stretches[-1].append(i)
        # Control pieces in a wrong place decode to nothing.
        text, *calls = map(self._tokenizer.decode, stretches)
        parts = [Part("call", call, trained=True) for call in calls]
        # An answer of calls alone has no text part; an empty answer has an empty one.
        if text or not calls:
            parts.insert(0, Part("text", text, trained=True))
        return Message(ASSISTANT, tuple(parts))

    def _part_ids(self, part: Part) -> list[int]:
        content = self._tokenizer.encode(part.content)
        return [self._call, *content] if part.kind == "call" else content

    def _check(self, message: Message) -> None:
        """Refuse a message that `parse` could not read back."""
        if message.role not in self._roles:
            roles = ", ".join(self._roles)
            raise ValueError(f"message {message!r:.80} must have a role of {roles}; rename it")
        if not message.parts:
            raise ValueError(
                f"a message of {message.role} has no parts; give it a text, even an empty one"
            )
        kinds = [part.kind for part in message.parts]
        if unreadable := {"image", "sound"} & set(kinds):
            what = f"a message of {message.role} has a part of kind {min(unreadable)}"
            raise ValueError(f"{what}, and this format holds text, calls and results; leave it out")
        if "result" in kinds and message.role != TOOL:
            raise ValueError(
                f"a message of {message.role} has a result; give it a message of role tool"
            )
        if "call" in kinds:
            self._check_calls(message.role, kinds)

    def _check_calls(self, role: str, kinds: list[str]) -> None:
        if role != ASSISTANT or self._call is None:
            rule = "only the assistant calls tools, with a tokenizer that has <|tool_call|>"
            raise ValueError(f"a message of {role} has a call: {rule}; leave it out")
        if "text" in kinds[kinds.index("call") :]:
            raise ValueError(
                "an answer has a text behind its call of a tool; put the text before it"
            )
