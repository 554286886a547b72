"""The chat format of a model that brings a template of its own (Jinja, as transformers writes them).

A template turns messages into one text in which control pieces are spelled out. That text is tokenized as in
transformers, with two differences. What a message says is read as plain text, so that it cannot forge control
pieces. And no token reaches over the start of an answer, because a model that is served reads a prompt, after
which its own first token begins.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import takewhile
from typing import NamedTuple

import numpy as np

from data_pipeline.chat.message import ASSISTANT, Message, text_message
from data_pipeline.chat.rendering import JinjaTemplate, Rendering, Turn
from data_pipeline.shards.record import Sequence as Tokens
from data_pipeline.tokenizers.tokenizer import Tokenizer

# what a prompt of one user is asked for, to see what the template writes around an answer
PROBE = (text_message("user", "Why?"), text_message(ASSISTANT, "Because."))
REFUSED = "the model's chat template"
REMEDY = (
    "such answers cannot be trained in it: make their parts trained=False, or change the template"
)


class _Stretch(NamedTuple):
    """Text of a rendering with one weight. Only the template's own may hold control pieces; with `cut`, no
    token reaches over its start.
    """

    text: str
    own: bool
    weight: int = 0
    cut: bool = False


class _Run(NamedTuple):
    """A control piece, or text between two of them."""

    text: str
    control: int | None
    weight: int


class _Around(NamedTuple):
    """What a model has to write itself before and after an answer, and the ids that end it."""

    lead: str
    tail: str
    stop_ids: tuple[int, ...]


class Template:
    """The template that stands in the tokenizer's file, as that of an imported model does."""

    VERSION = 1

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        bos, eos = tokenizer.piece_of(tokenizer.bos), tokenizer.piece_of(tokenizer.eos)
        self._template = JinjaTemplate(tokenizer.chat_template or "", bos=bos, eos=eos)
        self._control = _control_pattern(tokenizer)

    def render(self, messages: Sequence[Message]) -> Tokens:
        """As in `ChatFormat`.

        Raises:
            ValueError: also where the template shows a trained answer otherwise than it would be prompted
            for, or writes no control piece behind it.
        """
        return self._tokens(self._stretches(messages, opens_answer=False))

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens up to where the assistant's next answer begins, as `ChatFormat` says."""
        if messages and messages[-1].role == ASSISTANT:
            rule = "a prompt ends with another role's, such as the user's"
            raise ValueError(f"the last message has role 'assistant'; {rule}")
        return self._tokens(self._stretches(messages, opens_answer=True)).tokens.tolist()

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
        rendering = self._template.rendering(turns, opens_answer=False)
        text = rendering.text
        answer = rendering.spans[-1]
        stop_ids = [self._tokenizer.eos, self._tokenizer.end_of_turn]
        lead = tail = ""
        start = self._answer_start(rendering, turns, len(turns) - 1)
        if start is not None:
            lead = text[start : answer.start]
        closing = self._control.search(text, answer.end)
        if closing is not None:
            tail = text[answer.end : closing.start()]
            stop_ids.insert(0, self._id_of(closing))
        # without control pieces, as `decode` shows none either
        lead = self._control.sub("", lead)
        tail = self._control.sub("", tail)
        return _Around(lead, tail, tuple(dict.fromkeys(stop_ids)))

    def _stretches(self, messages: Sequence[Message], *, opens_answer: bool) -> list[_Stretch]:
        """The rendered conversation; the template's text between messages has weight 0."""
        turns = _turns(messages)
        rendering = self._template.rendering(turns, opens_answer=opens_answer)
        text, spans = rendering

        # A template may move messages, such as the system's after the first question.
        in_text_order = sorted(range(len(messages)), key=lambda i: spans[i])
        # how far to look for the piece that ends a message: up to the content of the next
        limits = [*(spans[i].start for i in in_text_order[1:]), len(text)]
        stretches = []
        done = 0  # characters of the text that are in stretches
        for i, limit in zip(in_text_order, limits, strict=True):
            message = messages[i]
            span = spans[i]

            # Targets reach from the end of the prompt to the piece that ends the turn, included.
            is_answer = message.role == ASSISTANT
            start = self._answer_start(rendering, turns, i) if is_answer else span.start
            end = self._end(text, span.end, limit) if message.is_trained else span.end
            if message.is_trained and not opens_answer:
                _check_bounds(start, end)  # a prompt trains nothing, so there it does not matter
            start = max(done, span.start if start is None else start)
            end = span.end if end is None else end

            contents = _content_stretches(message, text[span.start : span.end])
            # `cut`, because a model that is served begins its answer with a token of its own.
            lead = _Stretch(
                text[start : span.start], own=True, weight=contents[0].weight, cut=is_answer
            )
            tail = _Stretch(text[span.end : end], own=True, weight=contents[-1].weight)
            between = _Stretch(text[done:start], own=True)
            stretches += [between, lead, *contents, tail]
            done = end
        return [*stretches, _Stretch(text[done:], own=True)]

    def _end(self, text: str, start: int, limit: int) -> int | None:
        """Behind the first control piece that follows a message's content."""
        closing = self._control.search(text, start, limit)
        return closing.end() if closing else None

    def _answer_start(self, rendering: Rendering, turns: Sequence[Turn], i: int) -> int | None:
        """Where message i begins as an answer: behind the prompt that the messages before it make. None if
        the rendering does not begin with that prompt.
        """
        prompt = self._template.text(turns[:i], opens_answer=True)
        # Some templates write more into a prompt than before a finished answer, such as an opened thought.
        is_prefix = rendering.text.startswith(prompt)
        is_before = len(prompt) <= rendering.spans[i].start
        return len(prompt) if is_prefix and is_before else None

    def _runs(self, stretches: Iterable[_Stretch]) -> list[_Run]:
        """Control pieces, and between them what is tokenized as one text."""
        runs: list[_Run] = []
        for text, own, weight, cut in stretches:
            done = 0  # characters of the stretch that are in runs
            joins = not cut
            # In the content of a message the same letters are plain text.
            matches = self._control.finditer(text) if own else ()
            for match in matches:
                _append(runs, text[done : match.start()], weight, joins=joins)
                runs.append(_Run("", self._id_of(match), weight))
                done = match.end()
                joins = False
            _append(runs, text[done:], weight, joins=joins)
        return runs

    def _tokens(self, stretches: Iterable[_Stretch]) -> Tokens:
        tokens: list[int] = []
        weight: list[int] = []  # one a token
        for run in self._runs(stretches):
            ids = self._tokenizer.encode(run.text) if run.control is None else [run.control]
            tokens += ids
            weight += [run.weight] * len(ids)
        return Tokens(np.array(tokens, np.int32), np.array(weight, np.uint8))

    def _id_of(self, match: re.Match[str]) -> int:
        special = self._tokenizer.special
        # a match may have taken white space along
        piece = match[0] if match[0] in special else match[0].strip()
        return special[piece].id


def _append(runs: list[_Run], text: str, weight: int, *, joins: bool) -> None:
    """Text behind the last run, as one with it where nothing parts them."""
    last = runs[-1] if runs else None
    if joins and last and last.control is None and last.weight == weight:
        runs[-1] = last._replace(text=last.text + text)
    elif text or not joins:
        runs.append(_Run(text, None, weight))


def _turns(messages: Sequence[Message]) -> list[Turn]:
    """Messages as a template reads them: each with one text."""
    if not messages:
        raise ValueError("the conversation is empty; it needs at least one message")
    for message in messages:
        kinds = {part.kind for part in message.parts}
        if not kinds or not kinds <= {"text", "result"}:
            what = f"message {message!r:.80} must have parts, of kinds text and result"
            remedy = "rewrite its other parts as text"
            raise ValueError(f"{what}: a model's own template is given texts; {remedy}")
    return [{"role": message.role, "content": _content(message)} for message in messages]


def _content(message: Message) -> str:
    return "".join(part.content for part in message.parts)


def _check_bounds(start: int | None, end: int | None) -> None:
    if start is None:
        raise ValueError(f"{REFUSED} shows an answer otherwise than it asks for one; {REMEDY}")
    if end is None:
        raise ValueError(f"{REFUSED} writes no control piece behind an answer; {REMEDY}")


def _content_stretches(message: Message, shown: str) -> list[_Stretch]:
    """What the template shows of a message, cut where the parts' weights differ."""
    weights = {part.trained for part in message.parts}
    if len(weights) == 1:
        return [_Stretch(shown, own=False, weight=int(weights.pop()))]
    content = _content(message)
    if shown != content.strip():
        raise ValueError(f"{REFUSED} changes a message of which some parts are trained; {REMEDY}")
    # the ends of parts, counted in what is shown: white space of the first and last part may be stripped
    n_stripped = len(content) - len(content.lstrip())
    stretches = []
    start = n_read = 0
    for part in message.parts:
        n_read += len(part.content)
        end = min(max(n_read - n_stripped, 0), len(shown))
        stretches.append(_Stretch(shown[start:end], own=False, weight=int(part.trained)))
        start = end
    return stretches


def _control_pattern(tokenizer: Tokenizer) -> re.Pattern[str]:
    """Any control piece with the white space that it takes along; of two that begin alike, the longer."""
    forms = []
    # the first alternative that matches is taken, so longer ones come first
    for piece in sorted(tokenizer.special, key=len, reverse=True):
        special = tokenizer.special[piece]
        before = r"\s*" if special.strips_left else ""
        after = r"\s*" if special.strips_right else ""
        forms.append(f"{before}{re.escape(piece)}{after}")
    return re.compile("|".join(forms))
