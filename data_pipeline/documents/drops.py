"""What was dropped on the way from raw input to corpus: counts by source and reason, with a few examples."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

NOT_DOCUMENTS = ("_spans", "_lines", "_bytes")  # ends of reasons that count parts of documents
MAX_EXAMPLES = 3
EXAMPLE_CHARS = 200
MAX_REASONS = 3  # that an error names


class Drops:
    """The one tally that readers and cleaning rules write to.

    Attributes:
        counts: source → reason → n. The unit is documents (or files, records) unless the reason ends in
        `_spans`, `_lines` or `_bytes`.
        sizes: source → reason → bytes of the documents that go for it, where they are known.
        examples: reason → up to three short texts, in the order met.
    """

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.sizes: dict[str, Counter[str]] = {}
        self.examples: dict[str, list[str]] = {}

    def add(
        self, source: str, reason: str, example: str = "", n: int = 1, n_bytes: int = 0
    ) -> None:
        """Count `n` for `reason`; `example` is cut to one short line."""
        self.counts.setdefault(source, Counter())[reason] += n
        # what reading drops has no size: the text was never decoded
        if n_bytes:
            self.sizes.setdefault(source, Counter())[reason] += n_bytes
        shown = self.examples.setdefault(reason, [])
        if example and len(shown) < MAX_EXAMPLES:
            # Cut before it is split, because the example may be a document of many megabytes.
            one_line = " ".join(example[: 4 * EXAMPLE_CHARS].split())
            shown.append(one_line[:EXAMPLE_CHARS])

    def as_json(self) -> dict[str, dict]:
        """`{"dropped": {source: {reason: n}}, "dropped_bytes": the same, "examples": {reason: [text]}}`,
        keys sorted.
        """
        shown = {reason: texts for reason, texts in sorted(self.examples.items()) if texts}
        return {
            "dropped": _sorted(self.counts),
            "dropped_bytes": _sorted(self.sizes),
            "examples": shown,
        }


def _sorted(counters: Mapping[str, Counter[str]]) -> dict[str, dict[str, int]]:
    return {source: dict(sorted(counts.items())) for source, counts in sorted(counters.items())}


def merged(reports: Iterable[Mapping[str, Any]]) -> Drops:
    """The sum of several tallies, each as `as_json` wrote it."""
    drops = Drops()
    # In the order of the reports, so that examples do not depend on which process was first.
    for report in reports:
        for source, counts in report["dropped"].items():
            for reason, n in counts.items():
                # Without an example: those are added below, as many as the report has.
                drops.add(source, reason, n=n)
        for source, sizes in report["dropped_bytes"].items():
            drops.sizes.setdefault(source, Counter()).update(sizes)
        for reason, texts in report["examples"].items():
            # of the first parts, as one process would have met them
            shown = drops.examples.setdefault(reason, [])
            shown += texts[: MAX_EXAMPLES - len(shown)]
    return drops


def n_documents_in(counts: Mapping[str, int]) -> int:
    """How many documents the reasons of a source count, spans, lines and bytes apart."""
    return sum(n for reason, n in counts.items() if not reason.endswith(NOT_DOCUMENTS))


def reasons(drops: Drops, source: str) -> str:
    """What cost a source most documents, in words."""
    counts: Counter[str] = Counter()
    for reason, n in drops.counts.get(source, {}).items():
        if not reason.endswith(NOT_DOCUMENTS):
            counts[reason] = n
    most = counts.most_common(MAX_REASONS)
    return ", ".join(f"{reason}: {n}" for reason, n in most) or "nothing was dropped"
