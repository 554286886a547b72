"""results.json: by source what was read, dropped by which rule and kept on each side, with examples,
histograms and clusters.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq

from data_pipeline.documents.drops import merged, n_documents_in
from data_pipeline.stages.chats import KINDS
from data_pipeline.stages.flow import Cleaned
from data_pipeline.stages.text import SIDES

Manifests = Mapping[str, Mapping[str, Any]]  # SIDE/NAME → manifest of its shards
UNITS = ("documents", "bytes", "tokens")


def account_of(
    cleaned: Cleaned, chats: Mapping[str, Mapping[str, int]], manifests: Manifests
) -> dict[str, Any]:
    """The whole account; read = dropped documents + kept on both sides."""
    drops = merged(cleaned.reports)
    read = _read(cleaned)
    for kind in KINDS if chats else ():
        of_kind = [counts for name, counts in chats.items() if name.endswith(f"/{kind}")]
        made, over = (sum(counts[field] for counts in of_kind) for field in ("rows", "over"))
        kept = sum(manifests[f"{side}/{kind}"]["documents"] for side in SIDES)
        read[kind] = made + over
        for reason, n in ((f"over_n_{kind}", over), ("over_max_tokens", made - kept)):
            if n:
                drops.add(kind, reason, n=n)
    amounts = {side: {name: _amounts(manifests[f"{side}/{name}"]) for name in read} for side in SIDES}
    return {
        "read": read,
        "dropped": _in_order(drops.counts, cleaned),
        "dropped_bytes": _in_order(drops.sizes, cleaned),
        **dict(zip(("kept", "held_out"), amounts.values(), strict=True)),
        "examples": {reason: texts for reason, texts in drops.examples.items() if texts},
        "histograms": histograms(cleaned.reports),
        "clusters": clusters(cleaned),
    }


def _read(cleaned: Cleaned) -> dict[str, int]:
    read: Counter[str] = Counter()
    for part in cleaned.read:
        report = part.report()
        read[part.source] += report["documents"] + n_documents_in(report["dropped"].get(part.source, {}))
    return dict(read)


def _amounts(manifest: Mapping[str, Any]) -> dict[str, int]:
    return {unit: manifest[unit] for unit in UNITS}


def _in_order(counts: Mapping[str, Mapping[str, int]], cleaned: Cleaned) -> dict[str, dict[str, int]]:
    """The reasons of each source in the order of the recipe; those of reading before, all others behind."""
    rules = [limit.reason for rule in cleaned.judgement.recipe for limit in rule.limits()]
    place = {reason: number for number, reason in enumerate(dict.fromkeys(rules))}
    reading = {
        reason
        for part in cleaned.read
        for of_source in part.report()["dropped"].values()
        for reason in of_source
    }

    def key(reason: str) -> tuple[int, int, str]:
        return (0 if reason in reading else 1 if reason in place else 2, place.get(reason, 0), reason)

    return {
        source: {reason: of_source[reason] for reason in sorted(of_source, key=key)}
        for source, of_source in sorted(counts.items())
    }


def histograms(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each source and limit: how many documents lie in each bin and beyond the limit, all parts
    together.
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for report in reports:
        for part in report.get("histograms", ()):
            key = (report["source"], part["reason"], part["signal"], part["language"])
            if whole := found.get(key):
                whole["counts"] = [a + b for a, b in zip(whole["counts"], part["counts"], strict=True)]
                whole["beyond"] += part["beyond"]
            else:
                found[key] = {"source": report["source"], **part}
    return list(found.values())


def clusters(cleaned: Cleaned) -> dict[str, dict[str, int]]:
    """Reason of a rule that drops duplicates → size of a cluster → how many clusters have it."""
    found: dict[str, Counter[int]] = {}
    for number, path in cleaned.judgement.found.items():
        if "cluster" in pq.read_schema(path).names:
            table = pq.read_table(path, columns=["cluster", "size"]).to_pydict()
            sizes = dict(zip(table["cluster"], table["size"], strict=True))
            found.setdefault(cleaned.judgement.recipe[number].REASON, Counter()).update(sizes.values())
    return {reason: {str(size): n for size, n in sorted(sizes.items())} for reason, sizes in found.items()}
