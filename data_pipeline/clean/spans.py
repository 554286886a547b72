"""The parts of a document that say something in words: docstrings of Python code, paragraphs of a page or
book; and how to cut them out.
"""

import ast
import functools
import itertools
import re
import warnings
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from data_pipeline.clean.characters import mark_ranges
from data_pipeline.documents.document import Document

# The marks of all scripts (categories Mn and Mc), as ranges of a character class.
MARKS = mark_ranges()
# Lines of an API page that name a thing: signature, class, bare name, value, heading. What follows one
# explains it, like a docstring.
STRUCTURE = re.compile(
    r"\s*(?:"
    r"(?:async )?[\w.]+(?: = [\w.]+)?\(.*\)(?: -> .*)?(?: from [\w.]+| method of .*)?"
    r"|class \w.*|[\w.]+|[\w.]+ = .*|[A-Z][\w ]* (?:defined here|inherited from [\w.]+|resolution order):"
    r")"
)
# `\w` has no marks, and would cut words of Indic scripts at their vowel signs.
WORD = re.compile(rf"(?:[^\W_]|[{MARKS}])+")
# The three statements that may carry a docstring, besides the module itself.
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Span(NamedTuple):
    """Characters `start:end` of a document.

    Attributes:
        start: Of the span's first line, or of its first character where code shares the line.
        end: After its last character (text and whole lines of code: after the newline).
        replacement: What keeps code valid when the span is cut.
        units: Its texts to compare: the whole, then for a docstring each paragraph.
        lead: How many of the units are a docstring or its first paragraph, which count however short they
        are.
    """

    start: int
    end: int
    replacement: str
    units: tuple[str, ...]
    lead: int


def words_of(text: str) -> tuple[str, ...]:
    """Lower-cased runs of letters and digits."""
    # lower() last: it may change the length of a text, but not its number of words.
    return tuple(" ".join(WORD.findall(text)).lower().split())


def spans_of(document: Document) -> list[Span]:
    """Docstrings of a Python file; paragraphs of anything else."""
    if is_python(document):
        return list(docstring_spans(document.text, parse(document.text)))
    return list(paragraph_spans(document.text))


def is_python(document: Document) -> bool:
    """Whether the document is a Python file that this Python can parse."""
    return document.path.endswith((".py", ".pyi")) and parse(document.text) is not None


def line_spans(text: str) -> list[Span]:
    """Every line of the text as a span."""
    ends = list(itertools.accumulate(len(line) for line in text.splitlines(keepends=True)))
    return [
        Span(start, end, "", (text[start:end],), 0)
        for start, end in zip([0, *ends], ends, strict=False)
    ]


def cut(document: Document, spans: Iterable[Span]) -> str:
    """The text without the spans (paragraphs of one docstring may lie inside another span: nested spans are
    cut once).
    """
    pieces, position = [], 0
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        if span.start >= position:
            pieces += [document.text[position : span.start], span.replacement]
            position = span.end
    return "".join([*pieces, document.text[position:]])


@functools.lru_cache(maxsize=4)  # a document is asked for its tree a few times in a row
def parse(code: str) -> ast.Module | None:
    """The tree of Python source; None when it is not valid in this Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in old code
        try:
            return ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def definitions(body: list, outer: str = "") -> Iterator[tuple[str, Definition]]:
    """(qualified name, node) of every function and class below, in source order; `<locals>` marks what a
    function defines inside.
    """
    for node in body:
        if isinstance(node, Definition):
            name = f"{outer}{node.name}"
            yield name, node
            yield from definitions(
                node.body, f"{name}." if isinstance(node, ast.ClassDef) else f"{name}.<locals>."
            )
            continue
        # Definitions inside of if, try, with, for and match; every one of these fields is a list of
        # statements.
        fields = dict(ast.iter_fields(node))
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            children = fields.get(part)
            if isinstance(children, list):
                yield from definitions(children, outer)


def docstring_spans(code: str, tree: ast.Module) -> Iterator[Span]:
    """The docstrings of the module and of everything it defines."""
    # Offset of each line, for `ast` gives positions as line and column.
    starts = [0]
    for line in code.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    for owner in (tree, *(node for _, node in definitions(tree.body))):
        if owner.body and is_string(owner.body[0]):
            yield docstring_span(code, starts, owner.body)


def is_string(node: ast.stmt) -> bool:
    """Whether the statement is a string and nothing else."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def docstring_span(code: str, starts: list[int], body: list[ast.stmt]) -> Span:
    """The span of a body's first statement, a string; `starts` are the offsets of the lines."""
    value, text = body[0].value, body[0].value.value
    start = offset(code, starts, value.lineno, value.col_offset)
    end = offset(code, starts, value.end_lineno, value.end_col_offset)
    line_start, line_end = starts[value.lineno - 1], starts[value.end_lineno]
    # Nothing else on its lines: then whole lines go, and no blank line with indentation is left behind.
    alone = not code[line_start:start].strip() and not code[end : line_end - 1].strip()
    # another string would become the docstring; an empty body is no Python
    needed = len(body) == 1 or is_string(body[1])
    units = (text, *paragraphs(text))
    if alone and not needed:
        # The last line may have no newline.
        return Span(line_start, min(line_end, len(code)), "", units, 2)
    return Span(start, end, "pass", units, 2)


def offset(code: str, starts: list[int], line: int, column_bytes: int) -> int:
    """Character offset of a position that `ast` gives as line and UTF-8 bytes."""
    start, end = starts[line - 1], starts[line]
    # Columns are UTF-8 bytes: characters only where the line is ASCII.
    text = code[start : end - 1]
    return start + (column_bytes if text.isascii() else len(text.encode()[:column_bytes].decode()))


def paragraphs(text: str) -> list[str]:
    """The stretches of text between blank lines."""
    return [part for part in re.split(r"\n[ \t]*\n", text) if part.strip()]


def paragraph_spans(text: str) -> Iterator[Span]:
    """Each paragraph, each run of lines that only name things, and each explanation of several paragraphs
    as a whole.
    """
    # Paragraphs since the last structure line: together they explain what it names.
    region: list[Span] = []
    explains = False
    for start, end, is_structure in stretches(text):
        span = Span(
            start,
            end,
            "",
            (text[start:end],),
            1 if explains and not region and not is_structure else 0,
        )
        if is_structure:
            yield from whole(region, text)
            yield span
            region, explains = [], True
            continue
        region.append(span)
        yield span
    yield from whole(region, text)


def whole(region: list[Span], text: str) -> Iterator[Span]:
    """The one span of an explanation of several paragraphs."""
    if len(region) > 1 and region[0].lead:
        yield Span(
            region[0].start, region[-1].end, "", (text[region[0].start : region[-1].end],), 1
        )


def stretches(text: str) -> Iterator[tuple[int, int, bool]]:
    """(start, end, whether its lines only name things) of paragraphs and of runs of structure lines, in
    order; blank lines part both.
    """
    position = 0
    kinds = []  # a line each: None where it is blank
    for line in text.splitlines(keepends=True):
        kinds.append(
            (
                position,
                position + len(line),
                STRUCTURE.fullmatch(line.rstrip()) is not None if line.strip() else None,
            )
        )
        position += len(line)
    for is_structure, lines in itertools.groupby(kinds, key=lambda line: line[2]):
        run = list(lines)
        if is_structure is not None:
            yield run[0][0], run[-1][1], is_structure
