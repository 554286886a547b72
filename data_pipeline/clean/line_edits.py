"""RefinedWeb's line edits as DCLM-Baseline runs them (Penedo et al. 2023, §3.3; Li et al. 2024): menus,
counters and buttons.
"""

import re
from typing import ClassVar

import numpy as np
from pydantic import BaseModel

from data_pipeline.clean.characters import DIGIT, UPPER
from data_pipeline.clean.languages import chars_per_word
from data_pipeline.clean.line_cuts import cut_lines
from data_pipeline.clean.normalise import retext
from data_pipeline.clean.rule import Limit, Signals
from data_pipeline.clean.words import Layout, measured
from data_pipeline.documents.document import Document

COUNTER = re.compile(
    r"\W*\d(?:,|\.|\d)*(?:k|m|b)?\s+(?:likes|shares|comments|retweets|reposts|quotes|bookmarks"
    r"|upvotes|downvotes|downloads|views|followers)\W*",
    re.IGNORECASE,
)
MAX_COUNTER_CHARS = 60  # longer lines are prose that mentions a number
BUTTON = re.compile(r"items in cart|read more\.\.\.\s*$|^\s*sign-in", re.IGNORECASE)
HINTS = ("items in cart", "read more...", "sign-in")


class LineEdits(BaseModel, frozen=True, extra="forbid", strict=True):
    """Cuts lines that are capitals, numbers, counters ("3 likes") or single words, and buttons out of short
    lines.

    Attributes:
        sources: The sources it applies to.
        max_upper_frac, max_digit_frac: Of a line's characters.
        min_line_words: Of a line that is not blank.
        max_button_line_words: Up to which a line loses "items in cart", "read more..." at its end,
        "sign-in" at its beginning.
        max_cut_word_frac: A document that lost more of its words is dropped.
    """

    VERSION: ClassVar[int] = 1
    LATE: ClassVar[frozenset[str]] = frozenset({"max_cut_word_frac"})
    EDITS: ClassVar[bool] = True
    sources: tuple[str, ...]
    max_upper_frac: float = 0.5
    max_digit_frac: float = 0.999999
    min_line_words: int = 2
    max_button_line_words: int = 10
    max_cut_word_frac: float = 0.05

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """Lines cut for each reason (of several, the first), buttons, and the share of words that went."""
        # Counted before anything is cut: the limit is on the share of words that this rule itself removes.
        before = measured(documents, n_tokens)["n"]
        edited, counts = cut_lines(documents, self.bad_lines)
        buttons = np.zeros(len(edited))
        for number, document in enumerate(edited):
            text, buttons[number] = self.without_buttons(document.text)
            edited[number] = retext(document, text)
        after = measured(edited, n_tokens)["n"]
        return edited, {
            **counts,
            "button_spans": buttons,
            "cut_word_frac": 1 - after / np.maximum(1, before),
        }

    def bad_lines(self, layout: Layout, documents: list[Document]) -> dict[str, np.ndarray]:
        """Reason → bool [lines], which of `layout.lines` are cut for it."""
        lines = layout.lines
        begin, end = layout.start[lines.first], layout.end[lines.stop - 1]

        def frac(flag: int) -> np.ndarray:
            # Prefix sums over all characters of the chunk: a line's count is a difference of two.
            sums = np.concatenate([[0], np.cumsum((layout.kinds & flag) != 0)])
            return (sums[end] - sums[begin]) / (end - begin)

        scales = chars_per_word(document.language for document in documents)
        counters = np.zeros(len(begin), bool)
        # A counter is short and has a digit; the regular expression runs on those lines alone.
        for line in np.flatnonzero((end - begin <= MAX_COUNTER_CHARS) & (frac(DIGIT) > 0)):
            at = layout.text_start[lines.document[line]]
            counters[line] = (
                COUNTER.fullmatch(
                    documents[lines.document[line]].text, begin[line] - at, end[line] - at
                )
                is not None
            )
        return {
            "capitals_lines": frac(UPPER) > self.max_upper_frac,
            "number_lines": frac(DIGIT) > self.max_digit_frac,
            "counter_lines": counters,
            "one_word_lines": (lines.stop - lines.first) / scales[lines.document]
            < self.min_line_words,
        }

    def without_buttons(self, text: str) -> tuple[str, int]:
        """The text without buttons in short lines, and how many there were."""
        lowered = text.lower()
        # Most texts have none of the phrases, and are not split into lines at all.
        if not any(hint in lowered for hint in HINTS):
            return text, 0
        n, lines = 0, []
        for line in text.split("\n"):
            left, n_buttons = (
                BUTTON.subn("", line)
                if len(line.split()) <= self.max_button_line_words
                else (line, 0)
            )
            n += n_buttons
            # A line that was a button and nothing else goes; blank lines of the text stay.
            if left.strip() or not n_buttons:
                lines.append(left)
        text = "\n".join(lines)
        return text if text.strip() else "", n

    def limits(self) -> tuple[Limit, ...]:
        """The limit on the share of words that the edits removed."""
        return (Limit("line_edits", "cut_word_frac", most=self.max_cut_word_frac),)


def n_tokens(layout: Layout, languages: tuple[str, ...]) -> Signals:
    """What stands between white space."""
    return {"n": np.diff(layout.first)}
