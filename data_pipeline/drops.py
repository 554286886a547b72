"""What was lost or left out on the way from raw input to corpus: counts by source and reason, with a few examples."""

from collections import Counter

MAX_EXAMPLES = 3
EXAMPLE_CHARS = 200


class Drops:
    """The one tally that readers and cleaning rules write to.

    Attributes:
        counts: source → reason → n. The unit is documents (or files, records) unless the reason ends in `_spans`, `_lines` or `_bytes`.
        examples: reason → up to three short texts, in the order met.
    """

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.examples: dict[str, list[str]] = {}

    def add(self, source: str, reason: str, example: str = "", n: int = 1) -> None:
        """Count `n` for `reason`; `example` is cut to one short line."""
        self.counts.setdefault(source, Counter())[reason] += n
        shown = self.examples.setdefault(reason, [])
        if example and len(shown) < MAX_EXAMPLES:
            shown.append(" ".join(example[: 4 * EXAMPLE_CHARS].split())[:EXAMPLE_CHARS])

    def as_json(self) -> dict[str, dict]:
        """`{"dropped": {source: {reason: n}}, "examples": {reason: [text]}}`, keys sorted."""
        return {
            "dropped": {source: dict(sorted(counts.items())) for source, counts in sorted(self.counts.items())},
            "examples": {reason: texts for reason, texts in sorted(self.examples.items()) if texts},
        }
