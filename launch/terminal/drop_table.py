"""What a data phase dropped, as tables of documents and of parts of documents: a row a reason, in the order
of the recipe, and a column a source.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from data_pipeline.documents.drops import NOT_DOCUMENTS

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]  # heads and rows


def drop_table(result: Mapping[str, Any]) -> Table:
    """The documents in results.json that were dropped; a cell without drops is empty."""
    return _table(result, parts=False)


def cut_table(result: Mapping[str, Any]) -> Table:
    """The spans, lines and bytes that were cut out of documents which stayed."""
    return _table(result, parts=True)


def _table(result: Mapping[str, Any], *, parts: bool) -> Table:
    dropped = {}
    for source in sources_of(result):
        of_source = result.get("dropped", {}).get(source, {})
        # Spans and documents in one column could not be added up.
        counts = {name: n for name, n in of_source.items() if name.endswith(NOT_DOCUMENTS) == parts}
        if any(counts.values()):
            dropped[source] = counts
    rows = [
        (
            reason,
            *(
                f"{of_source[reason]:,}" if of_source.get(reason) else ""
                for of_source in dropped.values()
            ),
        )
        for reason in in_one_order(dropped.values())
        if any(of_source.get(reason) for of_source in dropped.values())
    ]
    return ("reason", *dropped), rows


def sources_of(result: Mapping[str, Any]) -> list[str]:
    """The sources of a data phase in the order they were read."""
    # dict.fromkeys removes repeats and keeps the order; a source may be in "dropped" alone.
    return list(dict.fromkeys([*result.get("read", {}), *result.get("dropped", {})]))


def in_one_order(lists: Iterable[Iterable[str]]) -> list[str]:
    """Every name once, in an order that each list follows where they agree."""
    merged: list[str] = []
    for names in lists:
        before = len(merged)
        # From the end, so that a new name can be put before the one that follows it.
        for name in reversed(list(names)):
            if name in merged:
                before = merged.index(name)
            else:
                merged.insert(before, name)
    return merged
