"""A Jinja chat template applied to messages: the text, and where in it the messages' contents stand."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from data_pipeline.chat.message import ASSISTANT

Turn = dict[str, str]  # {"role", "content"}, as templates read it
# From Unicode's private use area, so they are in hardly any text; if they are, the mark is made longer.
MARK, MARK_END = "\ue000", "\ue001"


class Span(NamedTuple):
    """Characters `start` up to `end` of a text."""

    start: int
    end: int


class Rendering(NamedTuple):
    """A conversation as text; `spans[i]` is where the content of message i stands in it."""

    text: str
    spans: list[Span]


class JinjaTemplate:
    """A template, compiled once and run in a sandbox. `bos` and `eos` are the pieces that it may name."""

    def __init__(self, source: str, *, bos: str, eos: str):
        self._source = source
        self._pieces = {"bos_token": bos, "eos_token": eos}
        self._run: Callable[..., str] | None = None

    def text(self, turns: Sequence[Turn], *, opens_answer: bool) -> str:
        """The conversation as text; with `opens_answer` also what stands before the assistant's answer.

        Raises:
            ValueError: the template cannot be rendered, or Jinja is not installed.
        """
        try:
            if self._run is None:
                self._run = _compiled(self._source)
            return self._run(
                messages=[dict(turn) for turn in turns],  # a template may change them
                add_generation_prompt=opens_answer,
                tools=None,  # defined in transformers even where there are none
                documents=None,
                **self._pieces,
            )
        except ImportError as error:
            remedy = "run `pip install 'meshwright[huggingface]'`"
            raise ValueError(f"a chat template needs the library `jinja2`; {remedy}") from error
        # A template is a foreign program and may raise anything.
        except Exception as error:
            what = f"the model's chat template cannot be rendered ({error})"
            raise ValueError(f"{what}; prompt the model with text, without chat") from error

    def rendering(self, turns: Sequence[Turn], *, opens_answer: bool) -> Rendering:
        """The text, and where the contents stand in it. A content is without the white space around it,
        which many templates strip.

        Raises:
            ValueError: as in `text`, or the template leaves a content out, repeats it, or takes it apart.
        """
        text = self.text(turns, opens_answer=opens_answer)
        mark = MARK
        while mark in text or any(mark in turn["content"] for turn in turns):
            mark += MARK
        # For most templates one more rendering, with a mark in place of each content, shows where they are.
        marked = []
        for i, turn in enumerate(turns):
            before, _, after = _stripped(turn["content"])
            marked.append({**turn, "content": f"{before}{mark}{i}{MARK_END}{after}"})
        stencil = self.text(marked, opens_answer=opens_answer)
        by_stencil = _filled(stencil, mark, [turn["content"].strip() for turn in turns])
        if by_stencil is not None and by_stencil.text == text:
            return by_stencil
        # The template looks into contents, like those that drop the thoughts of earlier answers. So contents
        # stay, and one mark at a time is put before or after one of them.
        return Rendering(
            text, [self._span(text, turns, i, mark, opens_answer) for i in range(len(turns))]
        )

    def _span(
        self, text: str, turns: Sequence[Turn], i: int, mark: str, opens_answer: bool
    ) -> Span:
        before, content, after = _stripped(turns[i]["content"])
        # A position counts only if the mark has changed nothing else in the rendering.
        bounds = []
        for marked in (f"{before}{mark}{content}{after}", f"{before}{content}{mark}{after}"):
            marked_turns = [*turns[:i], {**turns[i], "content": marked}, *turns[i + 1 :]]
            stencil = self.text(marked_turns, opens_answer=opens_answer)
            bounds.append(stencil.find(mark) if stencil.replace(mark, "", 1) == text else -1)
        start, end = bounds
        if start < 0 and turns[i]["role"] == ASSISTANT:
            # The template dropped or rewrote the beginning of the answer: take all that a model would write.
            prompt = self.text(turns[:i], opens_answer=True)
            start = len(prompt) if text.startswith(prompt) else -1
        if not 0 <= start <= end:
            what = "leaves the content of a message out, repeats it, or takes it apart"
            remedy = "change the conversation"
            raise ValueError(
                f"the model's chat template {what}, so that it cannot be weighted; {remedy}"
            )
        return Span(start, end)


def _stripped(content: str) -> tuple[str, str, str]:
    """The white space before a content, the content, and the white space behind it."""
    n_before = len(content) - len(content.lstrip())
    inner = content.strip()
    return content[:n_before], inner, content[n_before + len(inner) :]


def _filled(stencil: str, mark: str, contents: Sequence[str]) -> Rendering | None:
    """The stencil with contents instead of marks; None unless every mark stands in it once."""
    # The split alternates between the template's own text and numbers of messages.
    own, *rest = re.split(f"{mark}(\\d+){MARK_END}", stencil)
    if sorted(map(int, rest[::2])) != list(range(len(contents))):
        return None
    text = own
    spans = {}
    for number, own in zip(map(int, rest[::2]), rest[1::2], strict=True):
        spans[number] = Span(len(text), len(text) + len(contents[number]))
        text += contents[number] + own
    return Rendering(text, [spans[i] for i in range(len(contents))])


def _compiled(source: str) -> Callable[..., str]:
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what transformers trains; here the messages' parts say that."""

        tags = {"generation"}

        # Returns the body; the tag itself writes nothing.
        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> Any:
        raise TemplateError(message)

    def to_json(value: Any, **options: Any) -> str:
        # Jinja's own would write < and > as entities of HTML
        return json.dumps(value, ensure_ascii=False, **options)

    # As transformers makes it, but without `strftime_now`: a prompt must not depend on the day, and templates
    # that ask for it have a date of their own for where it is not defined. The sandbox keeps a template,
    # which may come from anywhere, from reaching Python's internals.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = to_json
    return environment.from_string(source).render
