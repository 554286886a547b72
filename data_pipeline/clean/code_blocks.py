"""Which lines of a page's text are a block of code, a console session or another listing, told by their
form: extraction leaves no mark.
"""

import functools
from typing import NamedTuple

import numpy as np

from data_pipeline.clean.characters import ALPHANUMERIC, DIGIT, LETTER, TERMINAL, codes
from data_pipeline.clean.words import Layout, shifted

# Rare in prose: one of them in a short line tells code.
SYMBOL, OPENS_LINE, ENDS_LINE, BULLET, CLOSES, JOINS = 1, 2, 4, 8, 16, 32
CHARACTERS = {
    SYMBOL: "{}=<_$\\^~@`",
    # Comments, prompts, tags, decorators, options and paths: a line of prose begins with none of them.
    OPENS_LINE: "$#%@<>{}/\\|+;&~=`",
    ENDS_LINE: "{}()[]\\;=,:|>&/",
    BULLET: "•◦▪‣·*–—-",
    CLOSES: ")]}\"'",
    JOINS: "/_@=",
}
# First words of statements and commands that have no symbol; on lines of at most `MAX_KEYWORD_WORDS`.
KEYWORDS = (
    "import from def class return if elif else: else try: except finally: for while with raise pass break "
    "continue yield lambda print end fi done esac then do function var let const static public private "
    "protected void int char float double bool string struct enum typedef namespace using package func fn "
    "impl pub use mod match case switch default: new delete throw extends export require include echo cd ls "
    "cp mv rm mkdir cat sudo apt apt-get dpkg pip npm git make gcc g++ python python3 docker curl wget chmod "
    "chown tar ssh SELECT INSERT UPDATE DELETE CREATE ALTER DROP FROM WHERE BEGIN COMMIT begin set unset"
).split()
MAX_KEYWORD_WORDS = 6
MIN_INDENT = 2  # columns; extraction indents listings and the items of nested lists, never prose
MIN_PROSE_WORDS = 5
LONG_PROSE_WORDS = 12
MIN_SYMBOL_FRAC = 0.04  # of a short line's characters, from which one symbol tells code
SURE_SYMBOL_FRAC = 0.1
MAX_PROSE_SYMBOL_FRAC = 0.1
# Shares of a paragraph's lines: a listing has comments and output beside its code, a list of prose may
# name a file.
MIN_CODE_FRAC = 0.4
MIN_LISTING_FRAC = 0.25
MAX_PROSE_FRAC = 0.4


class LineForms(NamedTuple):
    """What the lines of a layout look like, bool [lines] each.

    Attributes:
        code: Like code.
        sure: Like code even when it stands alone.
        name: With a file's, a field's or an option's name, as listings have and prose may have.
        prose: Like a sentence.
        indented: With white space before it and no bullet.
    """

    code: np.ndarray
    sure: np.ndarray
    name: np.ndarray
    prose: np.ndarray
    indented: np.ndarray


def code_lines(layout: Layout) -> np.ndarray:
    """Which of `layout.lines` are code, bool [lines]: what is left out when prose is measured.

    Lines without a blank one between them are judged together. A paragraph between two of code, all of it
    indented, is code too: a function has blank lines.
    """
    return _listings(layout, sure=True)


def listing_lines(layout: Layout) -> np.ndarray:
    """Which of `layout.lines` may belong to a listing (code, output, settings), bool [lines]: what no rule
    cuts lines out of. A menu less cut is a smaller loss than a program without its brackets.
    """
    return _listings(layout, sure=False)


def _listings(layout: Layout, *, sure: bool) -> np.ndarray:
    lines = layout.lines
    if not len(lines.first):
        return np.zeros(0, bool)
    forms = line_forms(layout)
    paragraph = paragraphs_of(layout)
    begin = np.flatnonzero(np.diff(paragraph, prepend=-1))
    n_lines = np.diff(np.append(begin, len(paragraph)))

    def n(flags: np.ndarray) -> np.ndarray:
        return np.add.reduceat(flags.astype(np.int64), begin)

    n_code = n(forms.code if sure else forms.code | (forms.name & ~forms.prose))
    n_prose = n(forms.prose)
    least = MIN_CODE_FRAC if sure else MIN_LISTING_FRAC
    listing = (n_code >= least * n_lines) & (n_prose <= MAX_PROSE_FRAC * n_lines)
    # One line alone is a label or a formula as often as code.
    listing &= (n_lines > 1) | (n(forms.sure) > 0)
    # What stands between two listings of the same text, or beside one and looks like code.
    before, after = neighbours(listing, lines.document[begin])
    if sure:
        listing |= before & after & (n(forms.indented) == n_lines)
    else:
        listing |= (before & after & (n_prose == 0)) | (
            (before | after) & (n(forms.code) == n_lines)
        )
    # A sentence right above or below a listing is none of it.
    is_edge = np.zeros(len(paragraph), bool)
    is_edge[begin] = is_edge[np.append(begin[1:], len(paragraph)) - 1] = True
    return listing[paragraph] & ~(is_edge & forms.prose)


def neighbours(flags: np.ndarray, document: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The flags of the paragraph before each and of the one after it, False where that is of another
    text.
    """
    before, after = np.zeros(len(flags), bool), np.zeros(len(flags), bool)
    same = document[1:] == document[:-1]
    before[1:], after[:-1] = flags[:-1] & same, flags[1:] & same
    return before, after


def line_forms(layout: Layout) -> LineForms:
    """What each of `layout.lines` looks like, by its words, signs and the white space before it."""
    lines = layout.lines
    begin, end = layout.start[lines.first], layout.end[lines.stop - 1]
    n_words = lines.stop - lines.first
    kinds = kind_of_characters().take(layout.chars, mode="clip")
    # A bracket right behind a name is a call; in prose a space stands before it.
    calls = (layout.chars == ord("(")) & shifted((layout.kinds & ALPHANUMERIC) != 0)
    symbol_frac = counts(((kinds & SYMBOL) != 0) | calls, begin, end) / (end - begin)
    first, last = kinds[begin], kinds[end - 1]
    bullet = ((first & BULLET) != 0) & (n_words > 1)
    # Tabs and spaces before the first word; where a bullet follows it is a nested list.
    is_indented = (begin - lines.begin >= MIN_INDENT) | (layout.chars[lines.begin] == ord("\t"))
    is_indented &= ~bullet
    opens = (first & OPENS_LINE) != 0
    # Of a settings file; `[1]` and `[edit]` inside a line are marks of Wikipedia.
    opens |= (layout.chars[begin] == ord("[")) & (layout.chars[end - 1] == ord("]"))
    # A list of prose ends its items with a semicolon too, but not behind a bracket or a quote.
    ends_statement = (last & ENDS_LINE) != 0
    ends_statement &= (symbol_frac > 0) | ((kinds[end - 2] & CLOSES) != 0)
    keyword = np.isin(layout.hashes[lines.first], keyword_hashes()) & (n_words <= MAX_KEYWORD_WORDS)
    is_prose = sentences(layout) & (symbol_frac <= MAX_PROSE_SYMBOL_FRAC) & ~opens & ~is_indented
    # A numbered heading such as `1.2 Files` is indented by some pages, and is no code.
    is_set_in = is_indented & ((layout.kinds[begin] & DIGIT) == 0)
    is_code = (symbol_frac >= MIN_SYMBOL_FRAC) | opens | ends_statement | keyword | is_set_in
    is_code &= ~is_prose
    is_sure = is_code & (symbol_frac >= SURE_SYMBOL_FRAC)
    has_name = names(layout, kinds) | ((last & ENDS_LINE) != 0)
    return LineForms(is_code, is_sure, has_name, is_prose, is_indented)


def sentences(layout: Layout) -> np.ndarray:
    """Which lines have a sentence's length and end, and words of letters, bool [lines]."""
    lines = layout.lines
    n_words = lines.stop - lines.first
    ends = (layout.kinds[layout.end[lines.stop - 1] - 1] & TERMINAL) != 0
    wordy = (n_words >= LONG_PROSE_WORDS) | (ends & (n_words >= MIN_PROSE_WORDS))
    # A line of numbers or of operators is no sentence, however long.
    return wordy & (np.add.reduceat((layout.flags & LETTER) != 0, lines.first) >= n_words / 2)


def names(layout: Layout, kinds: np.ndarray) -> np.ndarray:
    """Which lines have a name as listings have them: `Pin: version *`, a path, `notes.txt`, bool [lines]."""
    lines = layout.lines
    begin, end = layout.start[lines.first], layout.end[lines.stop - 1]
    key = layout.chars[layout.end[lines.first] - 1] == ord(":")
    key &= lines.stop - lines.first > 1
    joins = ((kinds & JOINS) != 0) & between((layout.kinds & ALPHANUMERIC) != 0)
    # A dot between letters alone: `1.2` numbers a section.
    joins |= (layout.chars == ord(".")) & between((layout.kinds & LETTER) != 0)
    return key | (counts(joins, begin, end) > 0) | (layout.chars[begin] == ord("-"))


def between(flags: np.ndarray) -> np.ndarray:
    """Whether the flags of the elements before and after each are set."""
    return shifted(flags) & np.append(flags[1:], False)


def counts(flags: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """How many flags are set in each stretch `begin:end`."""
    # Prefix sums: the count of a stretch is a difference of two.
    sums = np.concatenate([[0], np.cumsum(flags)])
    return sums[end] - sums[begin]


def paragraphs_of(layout: Layout) -> np.ndarray:
    """The number of each line's paragraph, int64 [lines]; blank lines and the ends of texts part them."""
    lines = layout.lines
    starts = np.ones(len(lines.first), bool)
    starts[1:] = (np.diff(lines.document) != 0) | (np.diff(lines.number) != 1)
    return np.cumsum(starts) - 1


@functools.cache
def kind_of_characters() -> np.ndarray:
    """The flags of each, uint8; the last entry is of all others."""
    table = np.zeros((1 << 16) + 1, np.uint8)
    for kind, characters in CHARACTERS.items():
        table[codes(characters)] |= kind
    return table


@functools.cache
def keyword_hashes() -> np.ndarray:
    """The hashes that `Layout.hashes` gives the keywords."""
    return np.sort(Layout([" ".join(KEYWORDS)]).hashes)
