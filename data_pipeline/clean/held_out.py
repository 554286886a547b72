"""The held-out split and the guarantee behind it: what is set aside shares no text with what is trained
on.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

from pydantic import BaseModel

from data_pipeline.clean.overlap import HeldOutIndex, Ngrams, held_out_texts
from data_pipeline.clean.spans import Span, cut, is_python, line_spans, parse, spans_of, words_of
from data_pipeline.documents.document import Document
from data_pipeline.documents.drops import Drops

# modules whose text is another's: `_` before the name is handled by rule, these are not regular
TWINS = {
    "posixpath": "os.path",
    "ntpath": "os.path",
    "genericpath": "os.path",
    "posix": "os",
    "nt": "os",
    "cProfile": "profile",
    "sre_compile": "re",
    "sre_constants": "re",
    "sre_parse": "re",
    "_thread": "threading",
    "_threading_local": "threading",
    "_collections_abc": "collections",
    "_compat_pickle": "pickle",
    "_pydecimal": "decimal",
    "_pydatetime": "datetime",
    "_pyio": "io",
    "_pylong": "int",
    "_strptime": "time",
    "_weakrefset": "weakref",
    "nturl2path": "urllib",
}
MAX_ROUNDS = 3  # cutting joins what stood apart, which may make another run of 13 words


def canonical(group: str) -> str:
    """One name for a module and its twins (`_pydecimal` → `decimal`, `ntpath` → `os.path`, `_bisect` →
    `bisect`).
    """
    return TWINS.get(group) or group.lstrip("_") or group


def split_groups(groups: Mapping[str, Iterable[str]], *, frac: float, seed: int) -> frozenset[str]:
    """Groups to set aside: units (a group with its twins) in an order keyed by `seed`, until each source
    has ≥ `frac` of its units.

    Args:
        groups: Source → the groups of its documents. A group on the held-out side is there in every source.
        frac: Of a source's units, in (0, 1); at least one unit a source.
        seed: Of the order.

    Raises:
        ValueError: `frac` is not a fraction, or a source has only one unit, so that nothing would be left
        to train on.
    """
    if not 0 < frac < 1:
        raise ValueError(
            f"held_out_frac={frac} must lie between 0 and 1; 0.05 sets aside a twentieth"
        )
    names = {source: frozenset(members) for source, members in groups.items()}
    taken: set[str] = set()
    for source, members in sorted(names.items()):
        # A group and its twins are one unit, else `pydecimal` could be trained on while `decimal` is held
        # out.
        units = sorted(
            {canonical(name) for name in members}, key=lambda unit: order_key(unit, seed)
        )
        if len(units) < 2:
            raise ValueError(
                f"source {source!r} has {len(units)} group(s) and a held-out split needs 2; "
                "add documents or leave it out"
            )
        # -int(-x // 1) rounds up; at least one unit is held out, and at least one is left to train on.
        wanted = min(len(units) - 1, max(1, -int(-frac * len(units) // 1)))
        for unit in units:
            # Units taken for another source count here as well: they are held out in every source.
            if len(taken & set(units)) >= wanted:
                break
            taken.add(unit)
    return frozenset(
        name for members in names.values() for name in members if canonical(name) in taken
    )


def order_key(unit: str, seed: int) -> bytes:
    """A unit's place in the order of `seed`; it does not depend on which other units there are."""
    return hashlib.sha256(f"held out/{seed}/{unit}".encode()).digest()


class HeldOutFilter(BaseModel, frozen=True, extra="forbid", strict=True):
    """Makes two sides share no text.

    A training docstring or paragraph that repeats a held-out one (`HeldOutIndex`) is cut out, then every
    docstring or line in which a run of 13 held-out words is left; code that still has one (in a comment, a
    string) is dropped. Held-out words are those of docstrings, and all of pages and books. A held-out text
    that training documents of `common_groups` or more groups repeat is common language ("Return
    repr(self).", a licence): cutting it from half the corpus would remove nothing that is theirs, so it is
    cut out of the held-out document instead. Either way no text is on both sides.

    Attributes:
        jaccard: Similarity from which two texts are near-duplicates.
        common_groups: From how many training groups on a text is common language.
    """

    VERSION: ClassVar[int] = 1

    jaccard: float
    common_groups: int

    def common(self, repeats: Iterable["Found"]) -> set[int]:
        """The held-out texts that are common language: `common_groups` groups of training documents repeat
        them.
        """
        groups: dict[int, set[str]] = defaultdict(set)
        for each in repeats:
            # Groups, not documents: a licence in twenty files of one package is still that package's own
            # text.
            for number in set(each.anywhere).union(*each.spans.values()):
                groups[number].add(each.group)
        return {number for number, names in groups.items() if len(names) >= self.common_groups}


class Found(NamedTuple):
    """What a training document repeats; plain data, since it is kept on disk.

    Attributes:
        group: Of the document, canonical.
        spans: Place in `spans_of` → numbers of the held-out texts that the span repeats.
        anywhere: Numbers of those that it shares a run of 13 words with.
    """

    group: str
    spans: dict[int, list[int]]
    anywhere: list[int]


def find(document: Document, index: HeldOutIndex) -> Found | None:
    """What the document repeats of held-out texts; None = nothing."""
    # The whole document first: where it shares no run, no span can.
    anywhere = index.containing(words_of(document.text))
    spans = {}
    for place, span in enumerate(spans_of(document)):
        numbers: set[int] = set()
        for unit in span.units:
            words = words_of(unit)
            # Near-duplicates are asked for even then: a short text is alike without a run of 13 words.
            numbers |= index.near(words) | (index.containing(words) if anywhere else set())
        if numbers:
            spans[place] = sorted(numbers)
    return Found(canonical(document.group), spans, sorted(anywhere)) if spans or anywhere else None


def without_common(
    document: Document, index: HeldOutIndex, common: set[int], drops: Drops
) -> Document | None:
    """A held-out document without the texts that are common language."""
    spans = [
        span
        for span in spans_of(document)
        if any(index.number[words] in common for words in held_out_texts(span))
    ]
    return cut_out(document, spans, "held_out_common", drops)


def runs_of(held_out: Iterable[Document]) -> Ngrams:
    """The runs of 13 words of what is held out: of docstrings in code, anywhere in other text."""
    runs = Ngrams()
    for document in held_out:
        for text in (
            (span.units[0] for span in spans_of(document))
            if is_python(document)
            else (document.text,)
        ):
            runs.add(words_of(text))
    return runs


def without_held_out(
    document: Document, found: Found | None, common: set[int], runs: Ngrams, drops: Drops
) -> Document | None:
    """A training document without what repeats held-out text; None when that cannot be cut out."""
    remaining = document
    if found is not None and found.spans:
        spans = spans_of(document)
        repeating = [
            spans[place] for place, numbers in found.spans.items() if set(numbers) - common
        ]
        remaining = cut_out(document, repeating, "held_out_near_duplicate", drops)
    # Cutting may join two stretches into a new held-out run, so it is looked again; what still repeats then
    # is dropped.
    for _ in range(MAX_ROUNDS):
        left = runs.ranges(remaining.text) if remaining is not None else []
        if not left:
            return remaining
        parts = spans_of(remaining) if is_python(remaining) else line_spans(remaining.text)
        remaining = cut_out(
            remaining,
            [part for part in parts if any(touches(part, place) for place in left)],
            "held_out_ngram",
            drops,
        )
    return (
        remaining
        if remaining is None or not runs.ranges(remaining.text)
        else drops.add(document.source, "held_out_overlap", document.path)
    )


def touches(span: Span, place: tuple[int, int]) -> bool:
    """Whether a span and a range of characters overlap."""
    return span.start < place[1] and place[0] < span.end


def cut_out(document: Document, spans: list[Span], reason: str, drops: Drops) -> Document | None:
    """The document without `spans`; None when nothing is left, or when code would no longer be code."""
    if not spans:
        return document
    text = cut(document, spans)
    # Half a program teaches nothing, so code that no longer parses is dropped whole.
    if not words_of(text) or (is_python(document) and parse(text) is None):
        return drops.add(document.source, f"{reason}_documents", document.path)
    for span in spans:
        drops.add(document.source, f"{reason}_spans", f"{document.path}: {span.units[0]}")
    return document._replace(text=text)
