"""Lines cut out of texts, and what is left of a text without its code blocks."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from data_pipeline.clean.code_blocks import code_lines, listing_lines
from data_pipeline.clean.normalise import retext
from data_pipeline.clean.rule import Signals
from data_pipeline.clean.words import Layout, layouts
from data_pipeline.documents.document import Document

# Reason → which of `layout.lines` fall to it, bool.
BadLines = Callable[[Layout, list[Document]], dict[str, np.ndarray]]


def cut_lines(
    documents: list[Document], bad_lines: BadLines, *, skip_code: bool = False
) -> tuple[list[Document], Signals]:
    """The documents without the lines that `bad_lines(layout, documents)` names, and how many fell to each
    reason first; with `skip_code` lines of code blocks stay.
    """
    edited, chunk_counts, position = [], [], 0
    for layout in layouts(tuple(document.text for document in documents)):
        chunk = documents[position : position + layout.n]
        position += layout.n
        # A line that is bad for several reasons is counted for the first, so that the counts add up to
        # lines cut.
        reasons = bad_lines(layout, chunk)
        cut = np.zeros(len(layout.lines.first), bool)
        may_go = ~listing_lines(layout) if skip_code else ~cut
        counted = {}
        for reason, bad in reasons.items():
            counted[reason] = layout.per_line_text(bad & may_go & ~cut)
            cut |= bad & may_go
        chunk_counts.append(counted)
        texts = without_lines(layout, [document.text for document in chunk], cut)
        edited += [retext(document, text) for document, text in zip(chunk, texts, strict=True)]
    return edited, {
        name: np.concatenate([signals[name] for signals in chunk_counts])
        for name in chunk_counts[0]
    }


def without_lines(layout: Layout, texts: Sequence[str], cut: np.ndarray) -> list[str]:
    """The texts of a chunk without the marked ones of its `lines`; "" where no word is left."""
    lines = layout.lines
    # A difference array: +1 where a cut line begins, -1 after its newline. The second is an addition,
    # because the end of one cut line may be the beginning of the next.
    change = np.zeros(len(layout.chars) + 1, np.int8)
    change[lines.end[cut] + 1] = -1
    change[lines.begin[cut]] += 1
    stays = np.cumsum(change[:-1], dtype=np.int8) == 0
    text = layout.chars[stays].tobytes().decode("utf-32-le", "surrogatepass")
    # How many kept characters come before each position: turns bounds in the old text into bounds in the
    # new one.
    before = np.concatenate([[0], np.cumsum(stays)])
    texts = list(texts)
    for number in np.unique(lines.document[cut]):
        start, stop = before[layout.text_start[number]], before[layout.text_end[number] + 1]
        left = text[start : max(start, stop - 1)]  # without the last line's newline
        texts[number] = left if left.strip() else ""
    return texts


def without_code(documents: list[Document], skip_code: bool) -> list[Document]:
    """What a rule measures: the documents, with `skip_code` without the lines of their code blocks."""
    if not skip_code:
        return documents
    texts = _prose(tuple(document.text for document in documents))
    return [retext(document, text) for document, text in zip(documents, texts, strict=True)]


# Kept for the next rule, as `layouts` keeps the arrays: most rules measure the same batch.
@functools.lru_cache(maxsize=1)
def _prose(texts: tuple[str, ...]) -> tuple[str, ...]:
    prose: list[str] = []
    for layout in layouts(texts):
        chunk = texts[len(prose) : len(prose) + layout.n]
        prose += without_lines(layout, chunk, code_lines(layout))
    return tuple(prose)
