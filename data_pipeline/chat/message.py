"""Messages of a conversation: who writes, and of each part of what is written whether a model learns it."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

Kind = Literal["text", "image", "sound", "call", "result"]
ASSISTANT, TOOL = "assistant", "tool"


class Part(NamedTuple):
    """A stretch of a message that is of one kind and has one writer.

    Attributes:
        kind: What it is; a `call` asks a tool for something, a `result` is what the tool gave back.
        content: The text of a text, call or result; the path of an image or sound.
        trained: Whether its tokens are targets. The role does not decide that: what a tool wrote into an
        answer is no target, and a turn of the assistant may be left out of the loss.
    """

    kind: Kind
    content: str
    trained: bool = False


class Message(NamedTuple):
    """What one role says in one turn: system, user, assistant, or tool."""

    role: str
    parts: tuple[Part, ...]

    @property
    def is_trained(self) -> bool:
        """Whether any of its parts is a target."""
        return any(part.trained for part in self.parts)

    @property
    def text(self) -> str:
        """The message's text parts, joined without a separator."""
        return "".join(part.content for part in self.parts if part.kind == "text")


def text_message(role: str, text: str) -> Message:
    """A message of one text, which is a target if the assistant writes it."""
    return Message(role, (Part("text", text, role == ASSISTANT),))


def read_messages(rows: Iterable[Mapping[str, Any]]) -> list[Message]:
    """Messages as data holds them: {"role": …, "content": …}, a content being a text or a list of parts.

    A part is {"kind": …, "content": …, "trained": …}. By default what the assistant writes is a target
    (results, which tools write, are not), and nothing else is.

    Raises:
        ValueError: a row has other fields, or fields of another type.
    """
    return [_read_message(row) for row in rows]


def _read_message(row: Mapping[str, Any]) -> Message:
    if set(row) != {"role", "content"} or not isinstance(row["role"], str):
        # A field that is not read, such as `name` or `tool_calls`, would be lost silently.
        rule = "must have a role and a content, and nothing else"
        raise ValueError(f"message {dict(row)!r:.80} {rule}; rename or remove its other fields")
    role, content = row["role"], row["content"]
    if isinstance(content, str):
        return text_message(role, content)
    if not isinstance(content, list | tuple):
        raise ValueError(
            f"message {dict(row)!r:.80} must have a text or a list of parts as its content"
        )
    return Message(role, tuple(_read_part(role, part) for part in content))


def _read_part(role: str, row: Any) -> Part:
    # What is no mapping has no kind, and is refused below.
    fields = dict(row) if isinstance(row, Mapping) else {}
    kind = fields.pop("kind", None)
    content = fields.pop("content", None)
    trained = fields.pop("trained", role == ASSISTANT and kind != "result")
    has_types = isinstance(content, str) and isinstance(trained, bool)
    if fields or kind not in get_args(Kind) or not has_types:
        kinds = ", ".join(get_args(Kind))
        rule = f"must have a kind of {kinds}, a text as its content, and trained true or false if at all"
        raise ValueError(f"part {row!r:.80} of a message {rule}")
    return Part(kind, content, trained)
