"""results.json: by source what was read, dropped by which rule and kept on each side, with examples,
histograms and clusters.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq

from data_pipeline.documents.drops import Drops, merged, n_documents_in
from data_pipeline.stages.chats import KINDS
from data_pipeline.stages.flow import Cleaned
from data_pipeline.stages.text import SIDES

Manifests = Mapping[str, Mapping[str, Any]]  # SIDE/NAME → manifest of its shards
# SIDE/KIND → how many rows there are, and were over the limit
ChatCounts = Mapping[str, Mapping[str, int]]
UNITS = ("documents", "bytes", "tokens")


def account_of(cleaned: Cleaned, chats: ChatCounts, manifests: Manifests) -> dict[str, Any]:
    """The whole account; read = dropped documents + kept on both sides.

    Args:
        cleaned: Text, and the reports of the stages.
        chats: Counts of what was made of docstrings; none where none was.
        manifests: Of all shards.
    """
    drops = merged(cleaned.reports)
    read = _read(cleaned)
    if chats:
        read |= _made_chats(chats, manifests, drops)

    # From the manifests, so that the account cannot differ from the shards.
    amounts = {}
    for side in SIDES:
        amounts[side] = {name: _amounts(manifests[f"{side}/{name}"]) for name in read}
    train, held_out = SIDES
    return {
        "read": read,
        "dropped": _in_order(drops.counts, cleaned),
        "dropped_bytes": _in_order(drops.sizes, cleaned),
        "kept": amounts[train],
        "held_out": amounts[held_out],
        "examples": {reason: texts for reason, texts in drops.examples.items() if texts},
        "histograms": histograms(cleaned.reports),
        "clusters": clusters(cleaned),
    }


def _read(cleaned: Cleaned) -> dict[str, int]:
    """Source → documents in its raw input, those included that reading dropped."""
    read: Counter[str] = Counter()
    for part in cleaned.read:
        report = part.report()

        # Spans and lines that a reader cut are parts of documents that it kept.
        n_dropped = n_documents_in(report["dropped"].get(part.source, {}))
        read[part.source] += report["documents"] + n_dropped
    return dict(read)


def _made_chats(chats: ChatCounts, manifests: Manifests, drops: Drops) -> dict[str, int]:
    """Kind → how many were made; those that were not written are added to `drops`."""
    read = {}
    for kind in KINDS:
        of_kind = [counts for name, counts in chats.items() if name.endswith(f"/{kind}")]
        n_rows = sum(counts["rows"] for counts in of_kind)
        n_over = sum(counts["over"] for counts in of_kind)
        n_kept = sum(manifests[f"{side}/{kind}"]["documents"] for side in SIDES)
        read[kind] = n_rows + n_over
        for reason, n in ((f"over_n_{kind}", n_over), ("over_max_tokens", n_rows - n_kept)):
            if n:
                drops.add(kind, reason, n=n)
    return read


def _amounts(manifest: Mapping[str, Any]) -> dict[str, int]:
    """How much a manifest says was written."""
    return {unit: manifest[unit] for unit in UNITS}


def _in_order(
    counts: Mapping[str, Mapping[str, int]], cleaned: Cleaned
) -> dict[str, dict[str, int]]:
    """The reasons of each source in the order of the recipe; those of reading before, all others behind."""
    # Several limits may have one reason (one for each language): its first place counts.
    limits = [limit.reason for rule in cleaned.judgement.recipe for limit in rule.limits()]
    recipe_order = {reason: number for number, reason in enumerate(dict.fromkeys(limits))}
    of_reading: set[str] = set()
    for part in cleaned.read:
        for reasons in part.report()["dropped"].values():
            of_reading.update(reasons)

    def key(reason: str) -> tuple[int, int, str]:
        if reason in of_reading:
            # 0, 1, 2: as a document meets them, in reading, in the recipe, in later stages.
            return 0, recipe_order.get(reason, 0), reason
        if reason in recipe_order:
            return 1, recipe_order[reason], reason
        return 2, 0, reason

    ordered = {}
    for source, reasons in sorted(counts.items()):
        ordered[source] = {reason: reasons[reason] for reason in sorted(reasons, key=key)}
    return ordered


def histograms(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each source and limit: how many documents lie in each bin and beyond the limit, all parts
    together.
    """
    sums: dict[tuple[str, ...], dict[str, Any]] = {}
    for report in reports:
        for histogram in report.get("histograms", ()):
            key = (
                report["source"],
                histogram["reason"],
                histogram["signal"],
                histogram["language"],
            )
            if key not in sums:
                sums[key] = {"source": report["source"], **histogram}
                continue
            # Bins depend on the limit only, so they are the same in all parts.
            so_far = sums[key]
            so_far["counts"] = [
                a + b for a, b in zip(so_far["counts"], histogram["counts"], strict=True)
            ]
            so_far["beyond"] += histogram["beyond"]
    return list(sums.values())


def clusters(cleaned: Cleaned) -> dict[str, dict[str, int]]:
    """Reason of a rule that drops duplicates → size of a cluster → how many clusters have it."""
    n_by_size: dict[str, Counter[int]] = {}  # several rules may have one reason
    for number, path in cleaned.judgement.found.items():
        if "cluster" not in pq.read_schema(path).names:
            continue  # a rule that cuts lines or spans has none
        table = pq.read_table(path, columns=["cluster", "size"]).to_pydict()

        # a cluster has a row a document: once each
        sizes = dict(zip(table["cluster"], table["size"], strict=True))
        reason = cleaned.judgement.recipe[number].REASON
        n_by_size.setdefault(reason, Counter()).update(sizes.values())
    return {
        reason: {str(size): n for size, n in sorted(sizes.items())}
        for reason, sizes in n_by_size.items()
    }
