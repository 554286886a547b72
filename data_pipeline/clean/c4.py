"""C4's rules (Raffel et al. 2020, §2.2; thresholds of its reference code): what lines a page keeps, and
what pages stay.
"""

import re
from typing import ClassVar

import numpy as np
from pydantic import BaseModel

from data_pipeline.clean.characters import CLOSERS, TERMINAL, codes
from data_pipeline.clean.code_blocks import listing_lines
from data_pipeline.clean.languages import LANGUAGES, by_language, chars_per_word
from data_pipeline.clean.line_cuts import cut_lines, without_code
from data_pipeline.clean.normalise import retext
from data_pipeline.clean.quality import is_ellipsis
from data_pipeline.clean.rule import Limit, Signals
from data_pipeline.clean.words import Layout, measured
from data_pipeline.documents.document import Document

# What Wikipedia's own pages leave in their text: footnote marks and links to the editor.
WIKI_MARK = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
# Of code; in TeX one stands behind a command, another bracket, `^` or `_`.
CURLY = re.compile(r"(?<![\w^_}\]\\])\{")
NOTICES = (
    "javascript",
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)


class C4Lines(BaseModel, frozen=True, extra="forbid", strict=True):
    """Cuts marks that Wikipedia leaves, then lines of few words, of a word too long, or of cookie and
    policy notices.

    The rule of end marks is `C4EndMarks`, since FineWeb leaves it out. A text in which nothing is cut stays
    as it is, blank lines and indentation too.

    Attributes:
        sources: The sources it applies to.
        min_line_words: A line that is not blank has at least so many.
        max_word_chars: A word between white space has at most so many.
        notices: Phrases, lower case, for which a line is cut, besides those of the text's language in
        `languages.py`.
        max_notice_chars: Longer lines are prose about such things and stay; C4 has no such bound.
        skip_code: Lines of code blocks stay as they are, `a[0]` and `}` too; C4 drops pages with code.
    """

    VERSION: ClassVar[int] = 1
    LATE: ClassVar[frozenset[str]] = frozenset()
    EDITS: ClassVar[bool] = True
    sources: tuple[str, ...]
    min_line_words: int = 5
    max_word_chars: int = 1_000
    notices: tuple[str, ...] = NOTICES
    max_notice_chars: int | None = None
    skip_code: bool = False

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """How many lines were cut for each reason (of several, the first) and how many marks."""
        edited, signals = cut_lines(documents, self.bad_lines, skip_code=self.skip_code)
        unmarked = [self.without_marks(document.text) for document in documents]
        marks = np.array([n for _, n in unmarked], np.float64)
        # Only the few documents that lost a mark are laid out again; the arrays of the others are cached
        # from the rule before.
        marked = np.flatnonzero(marks)
        again, recounted = cut_lines(
            [retext(documents[number], unmarked[number][0]) for number in marked],
            self.bad_lines,
            skip_code=self.skip_code,
        )
        # Their lines may be bad in another way now, so both text and counts are those of the second pass.
        for number, document in zip(marked, again, strict=True):
            edited[number] = document
        for name, values in recounted.items():
            signals[name][marked] = values
        return edited, {"wiki_mark_spans": marks, **signals}

    def without_marks(self, text: str) -> tuple[str, int]:
        """The text without Wikipedia's marks, and how many there were."""
        if "[" not in text or not WIKI_MARK.search(text):
            return text, 0
        if not self.skip_code:
            return WIKI_MARK.subn("", text)
        layout = Layout([text])
        in_code = frozenset(layout.lines.number[listing_lines(layout)].tolist())
        n_marks, lines = 0, text.split("\n")
        for number, line in enumerate(lines):
            if number not in in_code:
                lines[number], n = WIKI_MARK.subn("", line)
                n_marks += n
        return "\n".join(lines), n_marks

    def bad_lines(self, layout: Layout, documents: list[Document]) -> dict[str, np.ndarray]:
        """Reason → bool [lines], which of `layout.lines` are cut for it."""
        lines = layout.lines
        scales = chars_per_word(document.language for document in documents)
        long = np.zeros(len(lines.first), bool)
        # Only a line longer than the bound can have a word longer than it: few lines need the exact
        # look.
        suspects = np.flatnonzero(
            layout.end[lines.stop - 1] - layout.start[lines.first] > self.max_word_chars
        )
        words = layout.end - layout.start
        for line in suspects:
            long[line] = words[lines.first[line] : lines.stop[line]].max() > self.max_word_chars
        return {
            "long_word_lines": long,
            # In scripts without spaces `words.py` counts characters, so the count is divided by a word's
            # length.
            "short_lines": (lines.stop - lines.first) / scales[lines.document]
            < self.min_line_words,
            "notice_lines": self.with_notice(layout, documents),
        }

    def with_notice(self, layout: Layout, documents: list[Document]) -> np.ndarray:
        """Which lines have one of the phrases."""
        lines = layout.lines
        has_notice = np.zeros(len(lines.first), bool)
        bounds = layout.line_bounds
        for number, document in enumerate(documents):
            phrases = phrases_of(self.notices, document.language)
            # Bytes, because lowering and searching them is several times faster than str; only ASCII is
            # lowered.
            page = document.text.encode(errors="replace").lower()
            # The page as a whole first: most pages have no notice, and then no line is looked at.
            if any(phrase in page for phrase in phrases):
                parts = page.split(b"\n")
                own = slice(bounds[number], bounds[number + 1])
                has_notice[own] = [
                    any(phrase in parts[line] for phrase in phrases) for line in lines.number[own]
                ]
        if self.max_notice_chars is not None:
            has_notice &= (
                layout.end[lines.stop - 1] - layout.start[lines.first] <= self.max_notice_chars
            )
        return has_notice

    def limits(self) -> tuple[Limit, ...]:
        """None: a page is dropped when nothing is left of it."""
        return ()


class C4EndMarks(BaseModel, frozen=True, extra="forbid", strict=True):
    """Cuts lines that do not end in an end mark of their language, or that end in an ellipsis (three dots,
    as in C4).
    """

    VERSION: ClassVar[int] = 1
    LATE: ClassVar[frozenset[str]] = frozenset()
    EDITS: ClassVar[bool] = True
    sources: tuple[str, ...]

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """How many lines were cut."""
        return cut_lines(documents, self.bad_lines)

    def bad_lines(self, layout: Layout, documents: list[Document]) -> dict[str, np.ndarray]:
        """Reason → bool [lines], which of `layout.lines` are cut for it."""
        lines, ends = layout.lines, layout.end[layout.lines.stop - 1]
        last = layout.chars[ends - 1]
        # End marks differ by language; a language without an entry is judged by those of English.
        ended = np.zeros(len(last), bool)
        for language, texts in by_language(
            tuple(document.language for document in documents)
        ).items():
            marks = LANGUAGES[language if language in LANGUAGES else "en"].end_marks
            ended |= np.isin(last, codes(marks)) & np.isin(lines.document, texts)
        # C4 takes three dots for a line cut short, but a line may end in the single character …
        return {"unended_lines": ~ended | (is_ellipsis(layout, ends) & (last == ord(".")))}

    def limits(self) -> tuple[Limit, ...]:
        """None: a page is dropped when nothing is left of it."""
        return ()


class C4Page(BaseModel, frozen=True, extra="forbid", strict=True):
    """Drops placeholder text, pages with code, and pages of few sentences; after `C4Lines`, whose cut lines
    do not count.

    A sentence ends with a word that ends in an end mark of any script (closing quotes and brackets may
    follow), or with its line; C4 uses NLTK's model of English, which also knows abbreviations.

    Attributes:
        sources: The sources it applies to.
        max_curly_word_ratio: Of `{` to words; None for sources in which code is meant. C4's 0 drops a book
        for one bracket.
        min_sentences: Of a page.
        skip_code: Measured without code blocks and formulas.
    """

    VERSION: ClassVar[int] = 2
    LATE: ClassVar[frozenset[str]] = frozenset({"max_curly_word_ratio", "min_sentences"})
    EDITS: ClassVar[bool] = False
    sources: tuple[str, ...]
    max_curly_word_ratio: float | None = 0.0
    min_sentences: int = 3
    skip_code: bool = False

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """`lorem_ipsum` (0 or 1), `curly_word_ratio`, `n_sentences`."""
        prose = without_code(documents, self.skip_code)
        lorem = [
            b"lorem ipsum" in document.text.encode(errors="replace").lower() for document in prose
        ]
        count = count_curly if self.skip_code else lambda text: text.count("{")
        curly = np.array([count(document.text) for document in prose], np.float64)
        signals = measured(prose, page_signals)
        return documents, {
            "lorem_ipsum": np.array(lorem, np.float64),
            "curly_word_ratio": curly / np.maximum(1, signals["n_words"]),
            "n_sentences": signals["n_sentences"],
        }

    def limits(self) -> tuple[Limit, ...]:
        """The limits in the order of C4's code, which decides the reason where several fail."""
        curly = (
            ()
            if self.max_curly_word_ratio is None
            else (Limit("curly_bracket", "curly_word_ratio", most=self.max_curly_word_ratio),)
        )
        return (
            Limit("lorem_ipsum", "lorem_ipsum", most=0),
            *curly,
            Limit("few_sentences", "n_sentences", least=self.min_sentences),
        )


def phrases_of(notices: tuple[str, ...], language: str) -> list[bytes]:
    """The phrases to look for in bytes of which only ASCII letters were lowered: others also as at the
    start of a sentence.
    """
    # The language's own notices come on top of the English ones, which stand on pages of all languages.
    phrases = notices + (LANGUAGES[language].notices if language in LANGUAGES else ())
    return [
        form.encode().lower()
        for phrase in phrases
        for form in {phrase, phrase if phrase.isascii() else phrase.capitalize()}
    ]


def count_curly(text: str) -> int:
    """How many curly brackets open in a text, those of formulas (`\\frac{a}{b}`, `x_{n}`) left out."""
    return len(CURLY.findall(text)) if "{" in text else 0


def page_signals(layout: Layout, languages: tuple[str, ...]) -> Signals:
    """Words and sentences of each text."""
    return {
        "n_words": layout.n_words / chars_per_word(languages),
        "n_sentences": n_sentences(layout),
    }


def n_sentences(layout: Layout) -> np.ndarray:
    """Sentences of each text, [n]."""
    last = layout.end - 1
    # One closing quote or bracket may follow the mark: then the character before it decides.
    closed = np.isin(layout.chars[last], codes(CLOSERS)) & (last > layout.start)
    ended = (layout.kinds[last - closed] & TERMINAL) != 0
    # The last word of a line always ends a sentence.
    ended[layout.lines.stop - 1] = True
    return layout.per_text(ended).astype(np.float64)
