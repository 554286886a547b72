"""Which licence the head of a source file puts that file under: an SPDX tag, or what its comments grant.

Comments also speak of the licences of others ("uses foo, which is licensed under …"): those are passed over.
"""

import re
from collections.abc import Iterator

from data_pipeline.readers.licence_conditions import NEAR
from data_pipeline.readers.licences import (
    PERMISSIVE,
    allowed,
    expression,
    granted,
    with_other,
    words,
)

# How much of a file's head is searched: the longest common licence there (BSD-3-Clause, after a list of
# copyrights) ends far before.
HEAD_CHARS = 6_000
SPDX_TAG = re.compile(r"^[^\w\n]*SPDX-License-Identifier:[ \t]*([^\n]*)", re.MULTILINE)
LINE_COMMENT = re.compile(
    r"[ \t]*(?:#+|//+|--|;+|%+|!|'|\*+(?!/)|dnl\b|rem\b)[ \t]?(.*)", re.IGNORECASE
)
OPEN = re.compile(r"[ \t]*(?:[rRuU]?(\"\"\"|''')|(/\*)|(<!--)|(\(\*)|(\{-))(.*)")
CLOSE = ('"""', "*/", "-->", "*)", "-}")
# What a sentence says before "licensed under …" when it speaks of its own file.
OWN = frozenset(
    """a all also and any are be by code content contents copyright covered copy document documentation dual
    example examples file files free hereby in is it its library made material module notice of or
    package part permissively plugin portion program project released repository rights reserved sample
    script software source sources stylesheet template test tests the these this tool used work you
    your""".split()
)
GRANT = re.compile(
    r"\b(?:licen[sc]e[ds]|released|distributed|available|covered|governed|provided|published)\b[^.;:]{0,40}?"
    r"\bunder\b",
    re.IGNORECASE,
)
OTHERS = re.compile(
    r"\W*(?:this \w+ )?(?:uses|using|requires?|needs?|depends|includes?|bundles?|contains|embeds|links?"
    r"|loads|wraps|based on|derived from|adapted from|ported from|borrowed|copied|taken|inspired|see also"
    r"|similar|compatible|unlike|thanks)\b",
    re.IGNORECASE,
)
SENTENCE = re.compile(r"(?<=[.;!?])\s+(?=[A-Z(\"'])|\n[ \t]*\n")
CLOSED = re.compile(
    r"proprietary and confidential|confidential and proprietary|unauthori[sz]ed (?:copying|reproduction)"
    r"|trade secrets? of|all rights reserved proprietary|proprietary information of|proprietary software of"
)


def licence_of_head(text: str) -> str:
    """What a source file says of its own licence: its SPDX tag, else what the comments in its head grant."""
    head = text[:HEAD_CHARS]
    tags = []
    for tag in SPDX_TAG.findall(head):
        if spdx := expression(tag.split("*/")[0].split("-->")[0]):
            tags.append(spdx)
    if tags:
        # A choice keeps its brackets when another tag stands beside it.
        each = (f"({tag})" if len(tags) > 1 and " OR " in tag else tag for tag in tags)
        return " AND ".join(dict.fromkeys(each))
    found: list[str] = []
    blocks = comments(head)
    # A text whose lines have no signs of comments is looked at whole.
    for comment in blocks if blocks and _of_comment(blocks[0]) else [*blocks, head]:
        licence = _of_comment(comment)
        found += [part for part in licence.split(" AND ") if part and part not in found]
    return " AND ".join(found)


def is_closed(text: str) -> bool:
    """Whether the comments in a file's head say that it is nobody's to copy."""
    return any(CLOSED.search(words(comment)) for comment in comments(text[:HEAD_CHARS]))


def _of_comment(comment: str) -> str:
    own = words(" ".join(_own_sentences(comment)))
    # Most comments are about code, and every licence we know has one of these words.
    if "licen" not in own and "permi" not in own and "public" not in own and "redistrib" not in own:
        return ""
    return with_other(granted(own), own, near=NEAR)


def _own_sentences(comment: str) -> Iterator[str]:
    """The sentences of a comment but those that tell of a permissive licence of something else. What is not
    permissive counts whoever has it: a file made of copyleft code is under its licence.
    """
    for sentence in SENTENCE.split(comment):
        licence = granted(words(sentence))
        if not (licence and allowed(licence, PERMISSIVE) and _is_of_others(sentence)):
            yield sentence


def _is_of_others(sentence: str) -> bool:
    grant = GRANT.search(sentence)
    if grant is None:
        return OTHERS.match(sentence) is not None
    # Whoever "licenses this file to you under …" speaks of it too.
    if re.search(r"\bthis\b", grant[0], re.IGNORECASE):
        return False
    before = sentence[: grant.start()]
    # A statement begins with a capital at the start of a line, whatever stands in the lines above it.
    if sentence[grant.start()].isupper() and not before.rpartition("\n")[2].strip():
        return False
    if OTHERS.match(sentence):
        return True
    # Names and years of a copyright line may come before it; its own subject is the last line.
    subject = re.sub(r"copyright.*", "", before, flags=re.IGNORECASE).lower()
    return not set(re.findall(r"[a-z]+", subject)) <= OWN


def comments(head: str) -> list[str]:
    """The blocks of comment in the head of a file, without their signs; lines of code part them."""
    blocks: list[list[str]] = [[]]
    closing = ""
    for line in head.split("\n"):
        opened = None if closing else OPEN.match(line)
        if opened:
            number = next(i for i, mark in enumerate(opened.groups()[:5]) if mark)
            closing, line = opened[1] or CLOSE[number], opened[6]
        if closing:
            text, ended, _ = line.partition(closing)
            blocks[-1].append(text.strip().lstrip("*").strip())
            closing = "" if ended else closing
            continue
        comment = LINE_COMMENT.fullmatch(line)
        if comment:
            blocks[-1].append(comment[1].strip())
        elif line.strip():
            blocks.append([])
        else:
            blocks[-1].append("")
    return [text for block in blocks if (text := "\n".join(block).strip())]
