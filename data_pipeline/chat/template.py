"""The chat format of a model that brings a template of its own (Jinja, as transformers writes them).

A template turns messages into one text in which control pieces are spelled out. That text is tokenized as in
transformers' `apply_chat_template`, with two differences. What a message says is read as plain text, so that
it cannot forge control pieces. And no token reaches over the start of a last answer, because a model that is
served reads a prompt, after which its own first token begins.
"""

import json
import re
from collections.abc import Container, Iterable, Sequence
from functools import cached_property
from itertools import takewhile
from typing import NamedTuple

import numpy as np

from data_pipeline.chat.control_spans import Control, control_pattern, control_spans
from data_pipeline.chat.message import ASSISTANT, Message, text_message
from data_pipeline.chat.rendering import OWN, JinjaTemplate, Turn, text_of
from data_pipeline.shards.record import Sequence as Tokens
from data_pipeline.tokenizers.tokenizer import Tokenizer

# what a prompt of one user is asked for, to see what the template writes around an answer
PROBE = (text_message("user", "Why?"), text_message(ASSISTANT, "Because."))
# Templates write roles between `<|` and `|>`, so a role must not be able to spell another piece.
ROLE = re.compile(r"[\w-]+")
REFUSED = "the model's chat template"
REMEDY = (
    "such answers cannot be trained in it: make their parts trained=False, or change the template"
)


class _Around(NamedTuple):
    """What a model has to write itself before and after an answer, and the ids that end it."""

    lead: str
    tail: str
    stop_ids: tuple[int, ...]


class _Rendered(NamedTuple):
    """A rendering: its text, the part that each character came from (or `OWN`), and its control pieces."""

    text: str
    origins: np.ndarray
    controls: list[Control]


class Template:
    """The template that stands in the tokenizer's file, as that of an imported model does."""

    VERSION = 3
    answer_ids = ()  # what opens a call is text to `parse`, and where a file hides it, nothing shows it

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._template = JinjaTemplate(tokenizer.chat_template, pieces=tokenizer.chat_pieces)
        self._pattern = control_pattern(tokenizer.special)

    def render(self, messages: Sequence[Message]) -> Tokens:
        """As in `ChatFormat`.

        Raises:
            ValueError: also where the template shows a trained answer otherwise than it would be prompted
            for, or writes no control piece behind it.
        """
        turns = _turns(messages)
        rendered = self._rendered(turns, opens_answer=False)
        weights = np.zeros(len(rendered.text), np.uint8)  # one a character
        cuts: set[int] = set()
        first_part = 0
        for i, message in enumerate(messages):
            if message.is_trained:
                weights |= self._targets(rendered, turns, message, i, first_part)
            cuts |= _part_seams(rendered, message, first_part)
            first_part += len(message.parts)
        if messages[-1].role == ASSISTANT:
            # A model that is served begins its answer with a token of its own.
            cuts.add(self._prompt_length(rendered, turns, len(turns) - 1) or 0)
        return self._tokens(rendered, weights, cuts)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens up to where the assistant's next answer begins, as `ChatFormat` says."""
        if messages and messages[-1].role == ASSISTANT:
            rule = "a prompt ends with another role's, such as the user's"
            raise ValueError(f"the last message has role 'assistant'; {rule}")
        rendered = self._rendered(_turns(messages), opens_answer=True)
        weights = np.zeros(len(rendered.text), np.uint8)
        return self._tokens(rendered, weights, set()).tokens.tolist()

    def parse(self, ids: Iterable[int]) -> Message:
        """As in `ChatFormat`; calls of tools stay in the text: every model spells them in its own way."""
        around = self._around
        text = self._tokenizer.decode(takewhile(lambda i: i not in around.stop_ids, ids))
        return text_message(ASSISTANT, text.removeprefix(around.lead).removesuffix(around.tail))

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The piece that the template writes behind an answer, and those that the tokenizer names."""
        return self._around.stop_ids

    @cached_property
    def _around(self) -> _Around:
        turns = _turns(PROBE)
        rendered = self._rendered(turns, opens_answer=False)
        answer = np.flatnonzero(rendered.origins == len(PROBE) - 1)
        if not len(answer):
            raise ValueError(f"{REFUSED} leaves an answer out, so that none can be read; change it")
        stop_ids = [*self._tokenizer.stop_ids]
        lead = tail = ""
        start = self._prompt_length(rendered, turns, len(turns) - 1)
        if start is not None:
            lead = rendered.text[start : answer[0]]
        end = int(answer[-1]) + 1
        closing = next((each for each in rendered.controls if each.start >= end), None)
        if closing is not None:
            tail = rendered.text[end : closing.start]
            stop_ids.insert(0, closing.id)
        return _Around(self._visible(lead), tail, tuple(dict.fromkeys(stop_ids)))

    def _visible(self, text: str) -> str:
        """A template's text as `decode` gives it back."""
        spelled = self._tokenizer.special
        lengths = self._tokenizer.byte_lengths
        return self._pattern.sub(lambda m: m[0] if lengths[spelled[m[0]].id] else "", text)

    def _rendered(self, turns: Sequence[Turn], *, opens_answer: bool) -> _Rendered:
        stretches = self._template.stretches(turns, opens_answer=opens_answer)
        lengths = [len(stretch.text) for stretch in stretches]
        origins = np.repeat(np.array([each.origin for each in stretches], np.int64), lengths)
        controls = control_spans(stretches, self._pattern, self._tokenizer.special)
        return _Rendered(text_of(stretches), origins, controls)

    def _targets(
        self, rendered: _Rendered, turns: Sequence[Turn], message: Message, i: int, first_part: int
    ) -> np.ndarray:
        """Weight 1 on the characters of message `i` that a model learns, from the end of the prompt up to
        the piece that ends the turn, included.
        """
        trained = np.array([part.trained for part in message.parts], np.uint8)
        part = rendered.origins - first_part  # of this message's parts, those from 0 on
        shown = np.flatnonzero((part >= 0) & (part < len(trained)))
        if not len(shown) and "".join(turns[i].parts).strip():
            raise ValueError(f"{REFUSED} leaves the content of a message out; {REMEDY}")
        calls = range(len(turns[i].parts), len(trained))
        if not set(calls) <= set(part[shown].tolist()):
            raise ValueError(f"{REFUSED} leaves a call of a tool out; {REMEDY}")
        start = None
        if message.role == ASSISTANT:
            start = self._prompt_length(rendered, turns, i)
            if start is None or (len(shown) and start > shown[0]):
                what = "shows an answer otherwise than it asks for one"
                raise ValueError(f"{REFUSED} {what}; {REMEDY}")
        if len(shown):
            begin = int(shown[0])
            end = int(shown[-1]) + 1
        elif start is None:
            return np.zeros(
                len(rendered.text), np.uint8
            )  # an empty message, of which nothing is learned
        else:
            # An empty answer has a place, and its end is a target.
            begin = end = start
        others = (rendered.origins != OWN) & ((part < 0) | (part >= len(trained)))
        if others[begin:end].any():
            raise ValueError(f"{REFUSED} repeats the content of a message; {REMEDY}")
        # behind a call there are pieces that close it, before the one that ends the turn
        turn_end = _turn_end(rendered, end, others, self.stop_ids if calls else None)
        weights = np.zeros(len(rendered.text), np.uint8)
        weights[begin if start is None else start : begin] = trained[0]
        # what the template writes within an answer belongs to the part before it
        lengths = np.diff([*shown, end]) if end > begin else [0]
        weights[begin:end] = np.repeat(
            trained[part[shown]] if end > begin else trained[:1], lengths
        )
        weights[end:turn_end] = trained[-1]
        return weights

    def _prompt_length(self, rendered: _Rendered, turns: Sequence[Turn], i: int) -> int | None:
        """Characters of the prompt that the messages before message `i` make, which is an answer. None if
        the rendering does not begin with that prompt, as some templates open a thought there.
        """
        try:
            prompt = text_of(self._template.stretches(turns[:i], opens_answer=True))
        except (
            ValueError
        ):  # some refuse to begin with an answer, or to stop behind a system message
            return None
        return len(prompt) if rendered.text.startswith(prompt) else None

    def _tokens(self, rendered: _Rendered, weights: np.ndarray, cuts: set[int]) -> Tokens:
        tokens: list[int] = []
        token_weights: list[int] = []
        # where text ends and the next begins; a control piece also takes up white space beside it
        done = 0
        ends = [*rendered.controls, Control(len(rendered.text), len(rendered.text), -1)]
        for control in ends:
            inner = sorted(cut for cut in cuts if done < cut < control.start)
            for end in (*inner, control.start):
                ids = self._tokenizer.encode(rendered.text[done:end])
                tokens += ids
                token_weights += self._weights(rendered.text[done:end], weights[done:end], ids)
                done = end
            if control.id >= 0:
                tokens.append(control.id)
                token_weights.append(int(weights[control.start : control.end].min()))
                # white space that is in the prompt and in the answer is taken up in the prompt alone
                crossed = [cut for cut in cuts if control.start < cut < control.end]
                done = min(crossed, default=control.end)
        return Tokens(np.array(tokens, np.int32), np.array(token_weights, np.uint8))

    def _weights(self, text: str, weights: np.ndarray, ids: Sequence[int]) -> list[int]:
        """A weight for each token of a text with a weight for each character: a token that reaches over the
        start of a target is none.
        """
        if not ids or weights.min() == weights.max():
            return [int(weights[0])] * len(ids) if ids else []
        bounds = [*(np.flatnonzero(np.diff(weights)) + 1).tolist(), len(text)]
        # in bytes, of the text as it is encoded, which some files normalize
        byte_ends = [len(self._tokenizer.normalized(text[:end]).encode()) for end in bounds]
        byte_weights = np.repeat(weights[np.array(bounds) - 1], np.diff([0, *byte_ends]).clip(0))
        starts = np.cumsum([0, *self._tokenizer.byte_lengths[list(ids)][:-1]])
        starts = np.minimum(starts, len(byte_weights) - 1)
        return np.minimum.reduceat(byte_weights, starts).tolist()


def _turns(messages: Sequence[Message]) -> list[Turn]:
    """Messages as a template reads them: each with one text, and calls of tools behind it."""
    if not messages:
        raise ValueError("the conversation is empty; it needs at least one message")
    return [_turn(message) for message in messages]


def _turn(message: Message) -> Turn:
    kinds = [part.kind for part in message.parts]
    n_calls = kinds.count("call")
    n_texts = len(kinds) - n_calls
    if not kinds or not {*kinds[:n_texts]} <= {"text", "result"} or "call" in kinds[:n_texts]:
        what = f"message {message!r:.80} must have parts, of kinds text and result, then calls"
        remedy = "rewrite its other parts as text"
        raise ValueError(f"{what}: a model's own template is given texts; {remedy}")
    if not ROLE.fullmatch(message.role):
        rule = "must be of letters, digits, _ and -, so that it spells no control piece"
        raise ValueError(f"role {message.role!r:.80} of a message {rule}; rename it")
    contents = tuple(part.content for part in message.parts)
    try:
        "".join(contents).encode()
    except UnicodeEncodeError as error:
        what = f"message {message!r:.80} has a lone surrogate (U+D800-DFFF)"
        raise ValueError(f"{what}; decode its file with errors='replace'") from error
    for call in contents[n_texts:]:
        _check_call(call)
    return Turn(message.role, contents[:n_texts], contents[n_texts:])


def _check_call(call: str) -> None:
    try:
        fields = json.loads(call)
    except (ValueError, RecursionError):
        fields = None
    match fields:
        case {"name": str(name), "arguments": {**_rest}} if name:
            return
    form = '{"name": …, "arguments": {…}}'
    rule = f"must be JSON of the form {form} for a model's own template"
    raise ValueError(f"call {call!r:.80} of a message {rule}; rewrite it")


def _turn_end(
    rendered: _Rendered, end: int, others: np.ndarray, stop_ids: Container[int] | None
) -> int:
    """Behind the first control piece that follows a message's content, which ends at `end`; with `stop_ids`
    behind the first of these.
    """
    # how far to look: up to what another message says
    behind = np.flatnonzero(others[end:])
    limit = end + int(behind[0]) if len(behind) else len(rendered.text)
    closing = [each for each in rendered.controls if end <= each.start and each.end <= limit]
    ends = [each.end for each in closing if stop_ids is None or each.id in stop_ids]
    if not ends:
        raise ValueError(f"{REFUSED} writes no control piece behind an answer; {REMEDY}")
    return ends[0]


def _part_seams(rendered: _Rendered, message: Message, first_part: int) -> set[int]:
    """Where a trained part of a message meets one that is not: no token reaches over that."""
    if len({part.trained for part in message.parts}) < 2:
        return set()
    part = rendered.origins - first_part
    is_here = (part >= 0) & (part < len(message.parts))
    trained = np.array([each.trained for each in message.parts])[np.where(is_here, part, 0)]
    changes = is_here[1:] & is_here[:-1] & (trained[1:] != trained[:-1])
    return set((np.flatnonzero(changes) + 1).tolist())
