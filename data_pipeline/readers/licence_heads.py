"""Which licence the head of a source file puts that file under: an SPDX tag, or what its comments grant.

Comments also speak of the licences of others ("uses foo, which is licensed under …"): those are passed over.
"""

import re
from collections.abc import Iterator

from data_pipeline.readers.comments import comments
from data_pipeline.readers.licence_conditions import NEAR
from data_pipeline.readers.licences import (
    OTHER,
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
TAG = "SPDX-License-Identifier:"
SPDX_TAG = re.compile(
    r"^[^\w\n]*SPDX-License-Identifier:[ \t]*([^\n]*)", re.MULTILINE | re.IGNORECASE
)
# Tags between these two are of a piece of another's file.
SNIPPET = re.compile(r"SPDX-SnippetBegin.*?(?:SPDX-SnippetEnd|\Z)", re.DOTALL)
# What a sentence says before "licensed under …" when it speaks of its own file.
OWN = frozenset(
    """a all also and any are be by code content contents copyright covered copy document documentation dual
    example examples file files free hereby in is it its library made material module notice of or
    package part permissively plugin portion program project released repository rights reserved sample
    script software source sources stylesheet template test tests the these this tool used work you
    your""".split()
)
GRANT = re.compile(
    r"\b(?:licen[sc]e[ds]|released|distributed|available|covered|governed|provided"
    r"|published)\b[^.;:]{0,40}?"
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
    r"proprietary and confidential|confidential and proprietary|unauthori[sz]ed (?:copying|reproduction"
    r"|use)"
    r"|trade secrets? of|all rights reserved proprietary|proprietary (?:information|software|property"
    r"|code) of"
    r"|(?:is|contains) proprietary|no part of this \w+ (?:\w+ )?may be|internal use only"
    r"|may not be (?:used|copied|distributed|disclosed|reproduced)[\w ]{0,80} without[\w ]{0,40}"
    r"(?:permission|consent|authori[sz]ation)"
    r"|(?:free|only|solely|available|licen[cs]ed?|permitted) for (?:non ?commercial|academic|personal"
    r"|educational|research)"
    r"|for (?:non ?commercial|academic|personal|educational|research)[\w ]{0,20} (?:use|purposes?) only"
    r"|(?:requires?|under|purchase) a commercial licen[cs]e|commercial use (?:is )?(?:prohibited"
    r"|not permitted|requires)"
)
SHOUTED = re.compile(
    r"^\W*(?:[\w.]+ ){0,3}(?:CONFIDENTIAL|PROPRIETARY)\b|^\W*Proprietary\W*$", re.MULTILINE
)
# Names of licences that bind further, in whatever language the sentence around them is.
BINDING_NAME = re.compile(
    r"general public licen[cs]e|creative commons(?! zero)|mozilla public licen[cs]e"
    r"|eclipse public licen[cs]e"
    r"|cecill|eupl|business source licen[cs]e|server side public licen[cs]e|elastic licen[cs]e"
    r"|\b(?:under|unter|sous|bajo|secondo|licen[cs]e[ds]?|lizenz|licencia|licenza)\b"
    r"(?: (?:the|a|terms|of|version|conditions|der|den|bedingungen|la|le|los|gnu|is|v?[0-9]+)){0,6}"
    r" (?:a?l?gpl|mpl|cddl|epl|osl|cpal|sspl|busl|cc by)(?:v?[0-9]+)?\b"
)
# Words of other scripts are gone from what `words` makes.
BINDING_ELSEWHERE = re.compile(
    r"(?:лиценз\w*|许可|許可|授权|授權|라이선스)[^\n]{0,30}\b(?:a?l?gpl|mpl|cc[ -]by)"
    r"|\b(?:a?l?gpl|mpl|cc[ -]by)[\w .-]{0,12}(?:лиценз|许可|許可|授权|授權|ライセンス|라이선스)",
    re.IGNORECASE,
)


def licence_of_head(text: str, language: str = "") -> str:
    """What a source file says of its own licence: its SPDX tags, wherever they stand, else what the comments
    in its head grant. Of a file in a known language only comments count.
    """
    if tags := tags_of(text, language):
        # A choice keeps its brackets when another tag stands beside it.
        each = (f"({tag})" if len(tags) > 1 and " OR " in tag else tag for tag in tags)
        return " AND ".join(dict.fromkeys(each))
    head = text[:HEAD_CHARS]
    found: list[str] = []
    blocks = [comment.text for comment in comments(head, language)]
    # A text whose lines have no signs of comments is looked at whole.
    if not language and not (blocks and _of_comment(blocks[0])):
        blocks.append(head)
    for block in blocks:
        licence = _of_comment(block)
        found += [part for part in licence.split(" AND ") if part and part not in found]
    return " AND ".join(found)


def tags_of(text: str, language: str) -> list[str]:
    """The SPDX tags in a file's comments; one that names no licence we know is OTHER."""
    if TAG.lower() not in text.lower():
        return []
    blocks = [comment.text for comment in comments(text, language)] if language else [text]
    tags = []
    for block in blocks:
        for tag in SPDX_TAG.findall(SNIPPET.sub("", block)):
            name = re.split(r"\*/|-->|\*\)|-\}", tag)[0].strip(" \t.;,\"'`")
            tags += [expression(name) or OTHER] if name else []
    return tags


def is_closed(text: str, language: str = "") -> bool:
    """Whether the comments in a file's head say that it is nobody's to copy, or name a licence that binds
    further than a permissive one.
    """
    for comment in comments(text[:HEAD_CHARS], language):
        plain = words(comment.text)
        if CLOSED.search(plain) or SHOUTED.search(comment.text):
            return True
        own = " ".join(_own_sentences(comment.text)) if comment.is_first else ""
        if BINDING_NAME.search(words(own)) or BINDING_ELSEWHERE.search(own):
            return True
    return False


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
