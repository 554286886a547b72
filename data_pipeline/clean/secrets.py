"""Keys, tokens and passwords in code and text, replaced by a placeholder.

detect-secrets knows these and a few more forms, at 0.09 MB/s a core; here only long runs of letters and
digits are looked at.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

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
from data_pipeline.documents.document import Document

KEY, PASSWORD = "<KEY>", "<PASSWORD>"  # StarCoder's placeholders (Li et al. 2023, 4.2)
MIN_RUN_CHARS = (
    16  # the shortest part of a token that has no dot in it: what follows AKIA, ya29., sk_live_
)
# Published prefixes, with the length or the alphabet that goes with them
TOKENS = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])"  # AWS
    r"|gh[opsur]_[A-Za-z0-9]{36,}|github_pat_\w{40,}|gl(?:pat|rt|dt)-[\w-]{20,}"
    r"|xox[abeoprs]-[\w-]{16,}|xapp-[\w-]{16,}|hooks\.slack\.com/services/[\w/]{24,}"
    r"|[rs]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/=]{24,}"  # Stripe
    r"|AIza[\w-]{35}|GOCSPX-[\w-]{28}|ya29\.[\w-]{20,}"  # Google
    # OpenAI, Anthropic, OpenRouter
    r"|sk-(?:proj|svcacct|admin|ant-[a-z0-9]+|or-v1)-[\w-]{20,}|sk-[A-Za-z0-9]{48}(?![\w-])"
    r"|npm_[A-Za-z0-9]{36}(?!\w)|pypi-AgE[\w-]{40,}"
    r"|SG\.[\w-]{16,}\.[\w-]{30,}|key-[0-9a-f]{32}(?!\w)|dop_v1_[0-9a-f]{64}"
    r"|shp(?:at|ss|ca|pa)_[0-9a-fA-F]{32}|dckr_pat_[\w-]{27}"
    # Telegram's and Discord's bots
    r"|[0-9]{8,10}:AA[\w-]{33}(?![\w-])|[MNO][\w-]{23,25}\.[\w-]{6}\.[\w-]{27,38}(?![\w.-])"
    r"|eyJ[\w-]{10,}\.eyJ[\w-]{10,}(?:\.[\w-]+)?"  # JSON Web Token
    r")"
)
# A name that says what its value is, then the value
ASSIGNMENT = re.compile(
    r"(?:secret|token|passw(?:or)?d|pwd|api_?-?key|access_?-?key|auth_?-?key|account_?-?key|private_?-?key"
    r"|credential)\w{0,40}[\"']?\s{0,3}(?::=|=>|[:=])\s{0,3}"
    r"(?P<quote>[\"'`]?)(?P<value>[A-Za-z0-9+/_=.~!@%^*-]{16,200})(?P=quote)(?![^\s\"'`;,)}\]])",
    re.IGNORECASE,
)
URL_PASSWORD = re.compile(
    r"://[^\s:/@\"'<>{}$%()]{0,64}:(?P<value>[^\s:/@\"'<>{}$%()]{3,128})@(?=[\w\[])"
)
# Between the marks of a key block: base64, headers, and in code the signs that join lines of strings. Code
# that only names the marks has other characters between them, or no line of base64.
PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
    r"(?=[^\0]{0,400}?[A-Za-z0-9+/=]{16})"
    r"(?:(?:Proc-Type|DEK-Info|Version|Comment)[^\n\\]{0,100}"
    r"|(?!-----)[A-Za-z0-9+/=\s\\\"'`,.:;#*|>&-]){1,20000}?"
    r"-----END [A-Z0-9 ]{1,40}-----"
)
# Django's, which has punctuation among its letters; `django-insecure-` is what startproject writes.
DJANGO = re.compile(
    r"SECRET_KEY[\"']?\s{0,3}[:=]\s{0,3}[rbu]?(?P<quote>[\"'])"
    r"(?P<value>[a-z0-9!@#$%^&*()_=+-]{40,80})(?P=quote)"
)
BEARER = re.compile(r"\b[Bb]earer[ ]{1,2}(?P<value>[A-Za-z0-9._~+/-]{20,500}={0,2})(?![\w.~+/=-])")
# `curl -u name:password`; only where a program that takes it stands before it on the line.
USER_PASSWORD = re.compile(
    r"(?<![\w-])(?:-u|--user)[ =]?(?P<quote>[\"']?)(?P<user>[\w.@+-]{1,64}):"
    r"(?P<value>[^\s\"'$<>{}]{3,128})(?P=quote)"
)
CLIENT = re.compile(r"\b(?:curl|http|https|httpie|wget)\b")
PLACEHOLDER = re.compile(
    r"(?:x+|\*+|\.+|your\w*|my|the|api|user|some)?[-_]?(?:pass\w*|pwd|secret|token|x-oauth-basic|key"
    r"|api_?token)?",
    re.IGNORECASE,
)
HUGGING_FACE = re.compile(r"(?<!\w)hf_[A-Za-z0-9]{34}(?!\w)")  # seldom with a digit
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
HASH = re.compile(
    r"sha\d|sha[-_]|md5|hash|checksum|digest|integrity|etag|commit|revision|fingerprint",
    re.IGNORECASE,
)
# Hexadecimal digits of MD5, SHA-1, Tiger, SHA-224, SHA-256, SHA-384 and SHA-512.
HASH_CHARS = (32, 40, 48, 56, 64, 96, 128)
# Entropy in bits a character from which a value counts as random; detect-secrets has 3.0 for hexadecimal.
MIN_HEX_BITS = 3.0
MIN_BITS = 3.5


class Secrets(BaseModel, frozen=True, extra="forbid", strict=True):
    """Replaces keys of known forms, private key blocks, random values of names such as `api_key`, and
    passwords in URLs.

    Attributes:
        sources: The sources it applies to.
        max_hits: Documents with more are dropped; None drops none.
    """

    VERSION: ClassVar[int] = 2
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
    # All forms below but three hold a long run with a digit: regular expressions run only around those.
    start, end = long_runs(bytes_of(text))
    yield from (
        Span(*match.span(), "key", KEY)
        for match in matches_near(text, TOKENS, start, end, before=12, after=8)
    )
    # 80 characters before: room for a long name, quotes and an operator.
    for match in matches_near(text, ASSIGNMENT, start, end, before=80, after=8):
        if looks_random(match["value"]) and not is_hash(match):
            yield Span(*match.span("value"), "key", KEY)
    # These need no digit run: a key block begins with words, and a hub token seldom has a digit.
    for literal, pattern in (("PRIVATE KEY", PRIVATE_KEY), ("hf_", HUGGING_FACE)):
        yield from (
            Span(*match.span(), "key", KEY)
            for match in (pattern.finditer(text) if literal in text else ())
        )
    yield from named_secrets(text)
    at = positions_of(text, "://") if "@" in text else start[:0]
    yield from (
        Span(*match.span("value"), "password", PASSWORD)
        for match in matches_near(text, URL_PASSWORD, at, at, before=0, after=200)
    )


def named_secrets(text: str) -> Iterator[Span]:
    """Secrets known by the word before them, which need not have a long run of letters and digits."""
    for match in DJANGO.finditer(text) if "SECRET_KEY" in text else ():
        # Random: a sentence or a name in snake case has hardly any digit.
        if (
            len(re.findall("[0-9]", match["value"])) >= 2
            and bits_per_char(match["value"]) >= MIN_BITS
        ):
            yield Span(*match.span("value"), "key", KEY)
    for match in BEARER.finditer(text) if "earer " in text else ():
        value = match["value"]
        if (
            len(re.findall("[0-9]", value)) >= 2
            and bits_per_char(value) >= MIN_BITS
            and looks_mixed(value)
        ):
            yield Span(*match.span("value"), "key", KEY)
    for match in USER_PASSWORD.finditer(text) if "-u" in text else ():
        is_client = CLIENT.search(line_before(match, 300)) is not None
        if is_client and not PLACEHOLDER.fullmatch(match["value"]):
            yield Span(*match.span("value"), "password", PASSWORD)


def looks_mixed(value: str) -> bool:
    """Whether letters and digits alternate, as in no word, name or path."""
    return len(re.findall(r"[0-9]+", value)) >= 2 and re.search("[A-Za-z]", value) is not None


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


def looks_random(value: str) -> bool:
    """Whether it is no word, name, path or UUID, but drawn at random: digits in two places among the
    letters of one part.
    """
    mixed = any(
        len(part) >= 8 and re.search("[0-9][A-Za-z]+[0-9]", part)
        for part in re.split(r"[_.\-/]", value)
    )
    hexadecimal = re.fullmatch(r"[0-9a-fA-F]+", value) is not None
    return (
        mixed
        and not UUID.fullmatch(value)
        and bits_per_char(value) >= (MIN_HEX_BITS if hexadecimal else MIN_BITS)
    )


def bits_per_char(value: str) -> float:
    """Shannon entropy of the characters."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())


def is_hash(match: re.Match) -> bool:
    """Whether the value has the form of a hash and its line, or its name, calls it one."""
    value, named = (
        match["value"],
        line_before(match, 100) + match[0][: match.start("value") - match.start()],
    )
    return (
        len(value) in HASH_CHARS
        and re.fullmatch(r"[0-9a-fA-F]+", value) is not None
        and HASH.search(named) is not None
    )
