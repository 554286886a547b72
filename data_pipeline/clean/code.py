"""Source files worth learning from: StarCoder's filters (Li et al. 2023, §3; Kocetkov et al. 2022)."""

import re
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from pydantic import BaseModel

from data_pipeline.clean.characters import ALPHANUMERIC
from data_pipeline.clean.rule import Limit, Signals
from data_pipeline.clean.words import Layout, measured
from data_pipeline.documents.document import Document

XML = frozenset(("xml", "xslt", "svg", "html"))
DATA = frozenset(("json", "yaml"))
XML_HEADER, XML_HEADER_CHARS = "<?xml version=", 100
# \Z: what is never closed extends to the end; searching on from each opening would take quadratic time.
HIDDEN = re.compile(
    r"<(script|style)\b[^<>]*>.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)|<[^<>]*>",
    re.IGNORECASE | re.DOTALL,
)
SPACES = re.compile(r"\s+")
STRING = r'"(?:\\.|[^"\\\n])*"' + r"|'(?:\\.|[^'\\\n])*'"
LONG_STRING = '""".*?(?:"""|\\Z)' + r"|'''.*?(?:'''|\Z)"
# A comment, or a string in which something looks like one. In Python a string that stands alone on its lines
# is a docstring.
PYTHON = re.compile(
    rf"(?P<comment>\#[^\n]*|^[ \t]*[rRuU]?(?>{LONG_STRING})[ \t]*$)|{LONG_STRING}|{STRING}",
    re.DOTALL | re.MULTILINE,
)
C_LIKE = re.compile(
    rf"(?P<comment>//[^\n]*|/\*.*?(?:\*/|\Z))|`(?:\\.|[^`\\])*`|{STRING}", re.DOTALL
)
COMMENTED = {"python": PYTHON, "java": C_LIKE, "javascript": C_LIKE}


class CodeQuality(BaseModel, frozen=True, extra="forbid", strict=True):
    """Limits on lines and characters of a file, in any language.

    Attributes:
        sources: The sources it applies to.
        max_line_chars, max_mean_line_chars: Of its lines, blank ones counted.
        min_alphanumeric_frac: Letters and digits among all characters.
    """

    VERSION: ClassVar[int] = 2
    LATE: ClassVar[frozenset[str]] = frozenset(
        {"max_line_chars", "max_mean_line_chars", "min_alphanumeric_frac"}
    )
    EDITS: ClassVar[bool] = False
    sources: tuple[str, ...]
    # StarCoder's three thresholds (§3.1); longer lines are data or minified code.
    max_line_chars: int = 1_000
    max_mean_line_chars: float = 100.0
    min_alphanumeric_frac: float = 0.25

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """Measures one signal for each limit."""
        return documents, measured(documents, line_lengths)

    def limits(self) -> tuple[Limit, ...]:
        """One limit a field, each with a drop reason of its own."""
        return (
            Limit("code_long_line", "longest_line_chars", most=self.max_line_chars),
            Limit("code_mean_line", "mean_line_chars", most=self.max_mean_line_chars),
            Limit("code_alphanumeric", "alphanumeric_frac", least=self.min_alphanumeric_frac),
        )


def line_lengths(layout: Layout, languages: tuple[str, ...]) -> Signals:
    """Characters of the longest line and of the mean line, and the share of letters and digits; the last
    newline ends a line.
    """
    # The layout has a newline after every text, so differences of their positions are line lengths.
    newlines = np.flatnonzero(layout.chars == ord("\n"))
    chars = np.diff(newlines, prepend=-1) - 1
    first = np.searchsorted(newlines, layout.text_start)
    empty = layout.text_end == layout.text_start
    # A file that ends in a newline has nothing between that one and the one the layout adds: no further line.
    ended = ~empty & (layout.chars[layout.text_end - 1] == ord("\n"))
    n_lines = np.maximum(1, np.diff(np.append(first, len(newlines))) - ended)
    # Prefix sums: the count of any text is a difference of two of them.
    alphanumeric = np.concatenate([[0], np.cumsum((layout.kinds & ALPHANUMERIC) != 0)])
    length = np.maximum(1, layout.text_end - layout.text_start)
    total = (
        np.concatenate([[0], np.cumsum(chars)])[np.append(first[1:], len(newlines))]
        if layout.n
        else chars
    )
    return {
        "longest_line_chars": np.maximum.reduceat(chars, first) if layout.n else chars,
        "mean_line_chars": np.diff(total, prepend=0) / n_lines,
        "alphanumeric_frac": (alphanumeric[layout.text_end] - alphanumeric[layout.text_start])
        / length,
    }


class CodeKind(BaseModel, frozen=True, extra="forbid", strict=True):
    """Limits on files of some languages, told by `Document.language`: XML under another name, pages with
    little text, data, comments.

    Attributes:
        sources: The sources it applies to.
        min_visible_frac, min_visible_chars: Of an HTML file, the text outside of tags, scripts and styles.
        min_data_chars, max_data_chars: Of a JSON or YAML file.
        min_comment_frac, max_comment_frac: Characters in comments and docstrings among all, of Python, Java
        and JavaScript.
    """

    VERSION: ClassVar[int] = 1
    LATE: ClassVar[frozenset[str]] = frozenset(
        {
            "min_visible_frac",
            "min_visible_chars",
            "min_data_chars",
            "max_data_chars",
            "min_comment_frac",
            "max_comment_frac",
        }
    )
    EDITS: ClassVar[bool] = False
    sources: tuple[str, ...]
    min_visible_frac: float = 0.2
    min_visible_chars: int = 100
    min_data_chars: int = 50
    max_data_chars: int = 5_000
    min_comment_frac: float = 0.01
    max_comment_frac: float = 0.8

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """One signal a limit; NaN for files of other languages."""
        visible = of_some(
            documents,
            lambda document: visible_chars(document.text) if document.language == "html" else None,
        )
        chars = np.array([max(1, len(document.text)) for document in documents], np.float64)
        return documents, {
            "xml_header": of_some(documents, has_xml_header),
            "visible_frac": visible / chars,
            "visible_chars": visible,
            "data_chars": of_some(
                documents,
                lambda document: len(document.text) if document.language in DATA else None,
            ),
            "comment_frac": of_some(documents, comment_frac),
        }

    def limits(self) -> tuple[Limit, ...]:
        """The limits of XML, then HTML, data files and comments."""
        return (
            Limit("code_xml_header", "xml_header", most=0),
            Limit("code_html_text", "visible_frac", least=self.min_visible_frac),
            Limit("code_html_text", "visible_chars", least=self.min_visible_chars),
            Limit("code_data_size", "data_chars", self.min_data_chars, self.max_data_chars),
            Limit("code_comments", "comment_frac", self.min_comment_frac, self.max_comment_frac),
        )


def of_some(documents: list[Document], measure: Callable[[Document], float | None]) -> np.ndarray:
    """What is measured of each, float64; NaN where that is None."""
    return np.array(
        [np.nan if (value := measure(document)) is None else value for document in documents],
        np.float64,
    )


def has_xml_header(document: Document) -> float | None:
    """Whether a file that should not be XML begins like one."""
    return (
        None if document.language in XML else float(XML_HEADER in document.text[:XML_HEADER_CHARS])
    )


def visible_chars(html: str) -> int:
    """Characters that a reader of the page may see, runs of white space as one."""
    return len(SPACES.sub(" ", HIDDEN.sub(" ", html)).strip())


def comment_frac(document: Document) -> float | None:
    """Share of characters in comments, by a scan for comments and strings."""
    # Only languages whose comments a regular expression can tell from strings.
    pattern = COMMENTED.get(document.language)
    if pattern is None:
        return None
    n = sum(
        match.end("comment") - match.start("comment")
        for match in pattern.finditer(document.text)
        if match["comment"]
    )
    return n / max(1, len(document.text))
