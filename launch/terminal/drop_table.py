"""What a data phase dropped, as a table: a row a reason, in the order of the recipe, and a column a
source.
"""

from collections.abc import Iterable, Mapping
from typing import Any


def drop_table(result: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(heads, rows) of the counts in results.json; a cell without drops is empty."""
    counts = result.get("dropped", {})
    dropped = {
        source: counts[source]
        for source in sources_of(result)
        if any(counts.get(source, {}).values())
    }
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
