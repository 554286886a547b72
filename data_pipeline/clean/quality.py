"""Text worth learning from: Gopher's (Rae et al. 2021, A1.1), C4's (Raffel et al. 2020), StarCoder's (Li et al. 2023)."""

import re

from pydantic import BaseModel

from data_pipeline.clean.normalise import retext
from data_pipeline.clean.rule import Check
from data_pipeline.document import Document
from data_pipeline.drops import Drops

STOP_WORDS = frozenset("the be to of and that have with".split())
BULLETS = ("•", "-", "*")
ELLIPSES = ("...", "…")
WIKI_MARK = re.compile(r"\[(?:\d*|edit|citation needed)\]")
POLICY = re.compile(r"terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies|enable javascript", re.IGNORECASE)
MAX_WORD_CHARS = 1_000  # C4


class TooShort(BaseModel, frozen=True, extra="forbid", strict=True):
    """Drops documents of fewer than `min_words` words."""

    sources: tuple[str, ...]
    min_words: int

    def start(self, drops: Drops) -> Check:
        """The check."""

        def check(document: Document) -> Document | None:
            if len(document.text.split()) >= self.min_words:
                return document
            return drops.add(document.source, "too_short", document.text)

        return check


class WebLines(BaseModel, frozen=True, extra="forbid", strict=True):
    """C4's line and page rules that hold for any page: wiki marks cut, lines of cookie and policy notices or with a word of more than
    1,000 characters cut, pages with placeholder text dropped. Its rule of end punctuation is left out, as FineWeb does."""

    sources: tuple[str, ...]

    def start(self, drops: Drops) -> Check:
        """The check."""

        def check(document: Document) -> Document | None:
            if "lorem ipsum" in document.text.lower():
                return drops.add(document.source, "lorem_ipsum", document.path)
            lines = WIKI_MARK.sub("", document.text).split("\n")
            kept = [line for line in lines if not is_bad_line(line)]
            if len(kept) < len(lines):
                drops.add(document.source, "policy_lines", next(filter(is_bad_line, lines)), len(lines) - len(kept))
            text = "\n".join(kept)
            return retext(document, text) if text.strip() else drops.add(document.source, "empty", document.path)

        return check


def is_bad_line(line: str) -> bool:
    """Whether C4 would cut the line, end punctuation apart."""
    short_notice = len(line) < 300 and POLICY.search(line) is not None
    return short_notice or (len(line) > MAX_WORD_CHARS and max(map(len, line.split()), default=0) > MAX_WORD_CHARS)


class GopherQuality(BaseModel, frozen=True, extra="forbid", strict=True):
    """Gopher's page rules, a limit each field; a word is a token with a letter or digit, as in datatrove."""

    sources: tuple[str, ...]
    max_words: int
    min_mean_word_chars: float
    max_mean_word_chars: float
    max_symbol_word_ratio: float
    max_bullet_line_frac: float
    max_ellipsis_line_frac: float
    min_alphabetic_word_frac: float
    min_stop_words: int

    def start(self, drops: Drops) -> Check:
        """The check; the reason is the first limit that the document breaks."""

        def check(document: Document) -> Document | None:
            broken = self.first_broken(document.text)
            return document if broken is None else drops.add(document.source, f"gopher_{broken}", document.text)

        return check

    def first_broken(self, text: str) -> str | None:
        """Name of the first limit that `text` breaks; None when it keeps all."""
        tokens, lines = text.split(), [line.strip() for line in text.split("\n") if line.strip()]
        words = [token for token in tokens if any(map(str.isalnum, token))]
        n_words, n_lines = max(1, len(words)), max(1, len(lines))
        mean_chars = sum(map(len, words)) / n_words
        symbols = max(text.count("#"), sum(map(text.count, ELLIPSES)))
        kept = {
            "words": len(words) <= self.max_words,
            "word_length": self.min_mean_word_chars <= mean_chars <= self.max_mean_word_chars,
            "symbols": symbols / n_words <= self.max_symbol_word_ratio,
            "bullets": sum(line.startswith(BULLETS) for line in lines) / n_lines <= self.max_bullet_line_frac,
            "ellipses": sum(line.endswith(ELLIPSES) for line in lines) / n_lines <= self.max_ellipsis_line_frac,
            "alphabetic": sum(any(map(str.isalpha, token)) for token in tokens) / max(1, len(tokens)) >= self.min_alphabetic_word_frac,
            "stop_words": len(STOP_WORDS & {word.lower() for word in words}) >= self.min_stop_words,
        }
        return next((name for name, holds in kept.items() if not holds), None)


class CodeQuality(BaseModel, frozen=True, extra="forbid", strict=True):
    """StarCoder's file rules: limits on the longest and the mean line (characters) and on the fraction of letters and digits."""

    sources: tuple[str, ...]
    max_line_chars: int
    max_mean_line_chars: float
    min_alphanumeric_frac: float

    def start(self, drops: Drops) -> Check:
        """The check; the reason is the first limit that the file breaks."""

        def check(document: Document) -> Document | None:
            lengths = [len(line) for line in document.text.splitlines()] or [0]
            alphanumeric_frac = sum(map(str.isalnum, document.text)) / max(1, len(document.text))
            broken = {
                "code_long_line": max(lengths) > self.max_line_chars,
                "code_mean_line": sum(lengths) / len(lengths) > self.max_mean_line_chars,
                "code_alphanumeric": alphanumeric_frac < self.min_alphanumeric_frac,
            }
            reason = next((name for name, breaks in broken.items() if breaks), None)
            return document if reason is None else drops.add(document.source, reason, f"{document.path}: {document.text[:200]}")

        return check
