"""The comments in the head of a source file, as blocks of text without their signs.

Texts that a program prints are no comments, though they often look like some: templates of generators hold
heads of files, and strings over several lines are passed over in the languages that have them.
"""

import re
from typing import NamedTuple

LINE_COMMENT = re.compile(
    r"[ \t]*(?:#+|//+|--|;+|%+|!|'|\*+(?!/)|dnl\b|rem\b)[ \t]?(.*)", re.IGNORECASE
)
# Where another sign at the start of a line is no comment: `//` in Python, `#` in C.
HASH_COMMENT = re.compile(r"[ \t]*#+[ \t]?(.*)")
SLASH_COMMENT = re.compile(r"[ \t]*(?://+|\*+(?!/))[ \t]?(.*)")
# Fixed form: a letter in the first column.
FORTRAN_COMMENT = re.compile(r"(?:[ \t]*!+|[cC*](?=[\s*!-]|$))[ \t]?(.*)")
SIGNS = {
    "fortran": FORTRAN_COMMENT,
    "vim script": re.compile(r"[ \t]*\"[ \t]?(.*)"),
    **dict.fromkeys(("python", "shell", "ruby", "perl", "makefile", "cmake", "r"), HASH_COMMENT),
    **dict.fromkeys(
        ("c", "c++", "java", "javascript", "typescript", "go", "rust", "kotlin", "scala", "swift"),
        SLASH_COMMENT,
    ),
    **dict.fromkeys(("c#", "dart", "objective-c", "cuda", "css", "groovy"), SLASH_COMMENT),
}
OPEN = re.compile(r"[ \t]*(?:[rRuU]?(\"\"\"|''')|(/\*)|(<!--)|(\(\*)|(\{-))(.*)")
CLOSE = ('"""', "*/", "-->", "*)", "-}")
# What opens a string that may go on over lines, by language, and what closes it ({} = what was caught).
TEXT_BLOCK = (re.compile(r'(""")'), "{}")
BACKTICK = (re.compile(r"(`)"), "{}")
HERE = (re.compile(r"<<[-~<]?\s?[\"']?([A-Za-z_]\w*)"), "{}")
SPANNING = {
    "python": (re.compile(r"(\"\"\"|''')"), "{}"),
    **dict.fromkeys(("java", "kotlin", "scala", "swift", "c#", "groovy", "dart"), TEXT_BLOCK),
    **dict.fromkeys(("elixir", "julia"), TEXT_BLOCK),
    **dict.fromkeys(("go", "javascript", "typescript"), BACKTICK),
    **dict.fromkeys(("shell", "perl", "ruby", "php"), HERE),
    "c++": (re.compile(r'R"(\w*)\('), '){}"'),
    "rust": (re.compile(r'r(#+)"'), '"{}'),
    "lua": (re.compile(r"\[(=*)\["), "]{}]"),
}
# Lines of code that stand before the comment which speaks of the whole file.
PREAMBLE = re.compile(
    r"\s*(?:#|['\"]use |package\b|namespace\b|module\b|unit\b|import\b|from\b|using\b|use\b|<[?!%]|-\w+\(|@"
    r"|\{-#|extern\b|pragma\b|option\b|library\b|syntax\b|declare\b|[\])}]|<\w)",
    re.IGNORECASE,
)


class Comment(NamedTuple):
    """A block of comment: lines without their signs; lines of code part blocks.

    Attributes:
        text: Its lines.
        is_first: Whether no code stands before it but what opens any file: imports, a package, a guard.
    """

    text: str
    is_first: bool


def comments(head: str, language: str = "") -> list[Comment]:
    """The blocks of comment in a file's head; of a language that is not known, by the signs of all."""
    blocks: list[Comment] = []
    lines: list[str] = []
    closing, string_end, is_first = "", "", True
    line_comment = SIGNS.get(language, LINE_COMMENT)
    for line in head.split("\n"):
        if string_end:
            string_end = "" if string_end in line else string_end
            continue
        opened = None if closing else opened_by(line, language, is_first)
        if opened:
            closing, line = opened
        if closing:
            text, ended, _ = line.partition(closing)
            lines.append(text.strip().lstrip("*").strip())
            closing = "" if ended else closing
        elif comment := line_comment.fullmatch(line):
            lines.append(comment[1].strip())
        elif line.strip():
            blocks.append(Comment("\n".join(lines).strip(), is_first))
            lines = []
            is_first = is_first and PREAMBLE.match(line) is not None
            string_end = end_of_string(line, language)
        else:
            lines.append("")
    blocks.append(Comment("\n".join(lines).strip(), is_first))
    return [block for block in blocks if block.text]


def opened_by(line: str, language: str, is_first: bool) -> tuple[str, str] | None:
    """(what closes it, the rest of the line) where a comment over several lines begins."""
    opened = OPEN.match(line)
    # In Python a text in three quotes is the module's only before any code.
    if opened is None or (opened[1] and language == "python" and not is_first):
        return None
    number = next(i for i, mark in enumerate(opened.groups()[:5]) if mark)
    return opened[1] or CLOSE[number], opened[6]


def end_of_string(line: str, language: str) -> str:
    """What closes the string that is still open at the end of a line of code; "" where none is."""
    if language not in SPANNING:
        return ""
    opening, closing = SPANNING[language]
    position, end = 0, ""
    while opened := opening.search(line, position):
        end = closing.format(opened[1])
        position = line.find(end, opened.end())
        # A document after `<<` begins on the next line, whatever else stands on this one.
        if position < 0 or opening is HERE[0]:
            return end
        position += len(end)
    return ""
