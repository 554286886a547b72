"""Keys, tokens and passwords in code and text, replaced by a placeholder.

detect-secrets knows these and a few more forms, at 0.09 MB/s a core; here only long runs of letters and
digits are looked at.
"""

import re
from collections.abc import Callable, Iterator
from typing import ClassVar, NamedTuple

import numpy as np
from pydantic import BaseModel

from data_pipeline.clean.replace import (
    Span,
    bytes_of,
    line_before,
    matches_near,
    positions_of,
    replace_spans,
)
from data_pipeline.clean.rule import Limit, Signals
from data_pipeline.clean.secret_patterns import (
    ABOUT,
    ASSIGNMENT,
    BASIC,
    BEARER,
    CLIENT,
    DJANGO,
    HEROKU,
    HUGGING_FACE,
    LARAVEL,
    MIN_BITS,
    MYSQL,
    NET_RC,
    NPM_RC,
    P_PASSWORD,
    PASSWORD_IN_QUOTES,
    PASSWORD_IN_SETTINGS,
    PG_PASS,
    PRIVATE_KEY,
    SALTS,
    TOKENS,
    URL_PASSWORD,
    USER_PASSWORD,
    bits_per_char,
    is_hash,
    is_login,
    is_opaque,
    is_password,
    is_placeholder,
    is_token,
    looks_random,
)
from data_pipeline.documents.document import Document

KEY, PASSWORD = "<KEY>", "<PASSWORD>"  # StarCoder's placeholders (Li et al. 2023, 4.2)
MIN_RUN_CHARS = (
    16  # the shortest part of a token that has no dot in it: what follows AKIA, ya29., sk_live_
)


class Secrets(BaseModel, frozen=True, extra="forbid", strict=True):
    """Replaces keys of known forms, private key blocks, random values of names such as `api_key`, and
    passwords in URLs.

    Attributes:
        sources: The sources it applies to.
        max_hits: Documents with more are dropped; None drops none.
    """

    VERSION: ClassVar[int] = 3
    LATE: ClassVar[frozenset[str]] = frozenset({"max_hits"})
    EDITS: ClassVar[bool] = True

    sources: tuple[str, ...]
    max_hits: int | None = None

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """Signals: `secret_key_spans`, `secret_password_spans`, and their sum `secret_hits`."""
        documents, counts = replace_spans(documents, ("key", "password"), secrets_in)
        spans = {f"secret_{kind}_spans": values for kind, values in counts.items()}
        return documents, {
            **spans,
            "secret_hits": spans["secret_key_spans"] + spans["secret_password_spans"],
        }

    def limits(self) -> tuple[Limit, ...]:
        """At most `max_hits` replaced secrets a document, or no limit."""
        return (
            () if self.max_hits is None else (Limit("secrets", "secret_hits", most=self.max_hits),)
        )


def secrets_in(text: str) -> Iterator[Span]:
    """Every secret, with its placeholder."""
    # Tokens and random values hold a long run with a digit: regular expressions run only around those.
    start, end = long_runs(bytes_of(text))
    for match in matches_near(text, TOKENS, start, end, before=24, after=8):
        if is_token(match):
            yield Span(*match.span(), "key", KEY)
    # 80 characters before: room for a long name, quotes and an operator.
    for match in matches_near(text, ASSIGNMENT, start, end, before=80, after=8):
        about = ABOUT.search(match["tail"]) is not None
        if not about and looks_random(match["value"]) and not is_hash(match):
            yield Span(*match.span("value"), "key", KEY)
    # These need no digit run: a key block begins with words, and a hub token seldom has a digit.
    for literal, pattern in (("PRIVATE KEY", PRIVATE_KEY), ("hf_", HUGGING_FACE)):
        yield from (
            Span(*match.span(), "key", KEY)
            for match in (pattern.finditer(text) if literal in text else ())
        )
    yield from named_secrets(text)
    yield from passwords(text)


class Named(NamedTuple):
    """A secret known by the word before it, which need not have a long run of letters and digits.

    Attributes:
        literal: Without it the text has none.
        pattern: Its group `value` is what goes.
        kind, placeholder: What takes its place.
        is_secret: match → whether it is one.
    """

    literal: re.Pattern
    pattern: re.Pattern
    kind: str
    placeholder: str
    is_secret: Callable[[re.Match], bool]


def is_drawn(match: re.Match) -> bool:
    """Whether signs and digits were drawn: a sentence or a name in snake case has hardly any digit."""
    n_digits = len(re.findall("[0-9]", match["value"]))
    return n_digits >= 2 and bits_per_char(match["value"]) >= MIN_BITS


def is_filled_in(match: re.Match) -> bool:
    """Whether the value does more than say that one goes here."""
    return not is_placeholder(match["value"])


def is_of(program: re.Pattern) -> Callable[[re.Match], bool]:
    """Whether that program stands before the match on its line, and the value is no placeholder."""

    def test(match: re.Match) -> bool:
        return program.search(line_before(match, 300)) is not None and is_filled_in(match)

    return test


# Literals are looked for first, which costs a tenth of the patterns.
NAMED = (
    Named(re.compile("SECRET_KEY"), DJANGO, "key", KEY, is_drawn),
    Named(re.compile("define"), SALTS, "key", KEY, is_drawn),
    Named(
        re.compile("[Bb]earer |BEARER |[Aa]uthorization"),
        BEARER,
        "key",
        KEY,
        lambda match: is_opaque(match["value"]),
    ),
    Named(
        re.compile("asic |auth"),
        BASIC,
        "password",
        PASSWORD,
        lambda match: is_login(match["value"]),
    ),
    Named(re.compile(":_"), NPM_RC, "key", KEY, is_filled_in),
    Named(re.compile("APP_KEY=base64"), LARAVEL, "key", KEY, is_drawn),
    Named(re.compile("HEROKU_"), HEROKU, "key", KEY, is_drawn),
    Named(re.compile("login"), NET_RC, "password", PASSWORD, is_filled_in),
    Named(re.compile(":[0-9*]{1,5}:"), PG_PASS, "password", PASSWORD, is_filled_in),
    Named(re.compile("-u"), USER_PASSWORD, "password", PASSWORD, is_of(CLIENT)),
    Named(re.compile("mysql|mariadb|sshpass"), P_PASSWORD, "password", PASSWORD, is_of(MYSQL)),
)


def named_secrets(text: str) -> Iterator[Span]:
    """Secrets known by the word before them."""
    for named in NAMED:
        for match in named.pattern.finditer(text) if named.literal.search(text) else ():
            if named.is_secret(match):
                yield Span(*match.span("value"), named.kind, named.placeholder)


PASSWORD_NAME = re.compile("pass|pwd", re.IGNORECASE)


def passwords(text: str) -> Iterator[Span]:
    """Passwords in URLs, and short ones that their names tell."""
    at = positions_of(text, "://") if "@" in text else np.zeros(0, np.int64)
    for match in matches_near(text, URL_PASSWORD, at, at, before=0, after=200):
        if is_filled_in(match):
            yield Span(*match.span("value"), "password", PASSWORD)
    at = np.fromiter((match.start() for match in PASSWORD_NAME.finditer(text)), np.int64)
    for pattern in (PASSWORD_IN_QUOTES, PASSWORD_IN_SETTINGS):
        for match in matches_near(text, pattern, at, at, before=0, after=120):
            if is_password(match):
                yield Span(*match.span("value"), "password", PASSWORD)


def long_runs(chars: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and end of runs of at least `MIN_RUN_CHARS` letters, digits and `_-+/` that hold a digit."""
    # The zeros that follow the last character are breaks too.
    breaks = np.concatenate([[-1], np.flatnonzero(~RUN[chars])])
    long = np.flatnonzero(np.diff(breaks) > MIN_RUN_CHARS)
    start, end = breaks[long] + 1, breaks[long + 1]
    # Bytes wrap round below zero, so one comparison tests both ends of the range.
    digits = np.flatnonzero(chars - np.uint8(ord("0")) < 10)
    with_digit = np.searchsorted(digits, start) < np.searchsorted(digits, end)
    return start[with_digit], end[with_digit]


# A table over bytes: characters that a token may have.
RUN = np.zeros(256, bool)
RUN[[*b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+/"]] = True
