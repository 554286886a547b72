"""A Jinja chat template applied to messages: the text, and which message each stretch of it came from."""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from data_pipeline.readers.worker import kept_worker

# Processor seconds for one rendering; real templates take a thousandth of one. A child process runs it, since
# nothing inside of Python stops a loop, or a string of 10^9 letters.
LIMIT_S = 0.5
CHARS_PER_S = (
    1_000_000  # what long messages are given beside that; following each letter takes a third of it
)
MEMORY_BYTES = 1 << 30  # of address space; an idle child has a tenth
HANDLER = "data_pipeline.chat.sandbox:render"
OWN = -1  # the origin of what the template itself writes


class Turn(NamedTuple):
    """A message as templates read it; the parts' texts are joined to one.

    `calls` are the parts behind them, each the JSON of a call of a tool: {"name": …, "arguments": {…}}.
    """

    role: str
    parts: tuple[str, ...]
    calls: tuple[str, ...] = ()


class Stretch(NamedTuple):
    """A stretch of a rendering: of the part numbered `origin`, counted over all turns, or `OWN`."""

    origin: int
    text: str


class JinjaTemplate:
    """A template, run in a sandbox. `pieces` are the special pieces that it may name (`bos_token` and so
    on).
    """

    def __init__(self, source: str, *, pieces: Mapping[str, str]):
        self._source = source
        self._pieces = dict(pieces)

    def stretches(self, turns: Sequence[Turn], *, opens_answer: bool) -> list[Stretch]:
        """The conversation as text; with `opens_answer` also what stands before the assistant's answer.

        Raises:
            ValueError: the template cannot be rendered within the limits, or Jinja is not installed.
        """
        request = {
            "template": self._source,
            "pieces": self._pieces,
            "messages": turns,
            "opens_answer": opens_answer,
            # the parent's clock and time zone: the child's is that of Greenwich
            "now": datetime.datetime.now().isoformat(),
        }
        data = json.dumps(request).encode()
        limit_s = LIMIT_S + len(data) / CHARS_PER_S
        worker = kept_worker(HANDLER, memory_bytes=MEMORY_BYTES)
        (answer,) = worker.run([data], timeout_s=limit_s)
        if answer.error:
            reason = _reason(answer.error, limit_s)
            what = f"the model's chat template cannot be rendered ({reason})"
            raise ValueError(f"{what}; prompt the model with text, without chat")
        return [Stretch(*stretch) for stretch in json.loads(answer.data)]


def text_of(stretches: Sequence[Stretch]) -> str:
    """The rendered text."""
    return "".join(stretch.text for stretch in stretches)


def _reason(error: str, limit_s: float) -> str:
    """Why a rendering failed, in a few words."""
    if error == "timeout":
        return f"it takes more than {limit_s:.1f} s of processor time"
    if error == "crash":
        return "its process ended, as one out of memory does"
    kind, _, words = error.partition(": ")
    if kind == "MemoryError":
        return "it needs more memory than any rendering should"
    # an exception's own words; some have several lines, or none
    lines = words.strip().splitlines()
    return lines[0][:200] if lines else kind
