"""The part of report.html about a corpus: what was kept and dropped and why, signals with their limits,
duplicates, the tokenizer.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

from data_pipeline.documents.drops import NOT_DOCUMENTS
from launch.reporting.charts import histogram
from launch.reporting.page import figure, fold, literal, section, table
from launch.terminal.drop_table import drop_table, sources_of

SIDES = {"kept": "to train on", "held_out": "held out"}  # each with its documents, MB and tokens
CLUSTER_SIZES = {
    "2": (2, 2),
    "3": (3, 3),
    "4 to 9": (4, 9),
    "10 to 99": (10, 99),
    "100 and more": (100, 1 << 62),
}
RATIOS = ("bytes_per_token", "tokens_per_word")
BEYOND = "Documents by what a rule measured; beyond the dashed limits they are dropped. The outermost bars hold what is further out."


def data_section(name: str, result: Mapping[str, Any]) -> str:
    """Everything that results.json of a data phase says."""
    parts = [
        *_amounts(result),
        f'<div class="tables">{"".join(_drops(source, result) for source in sources_of(result))}</div>',
        fold("Examples of what was dropped", _examples(result)),
        *_histograms(result.get("histograms", ())),
        *_clusters(result.get("clusters", {})),
        *_fertility(result.get("fertility", {})),
    ]
    return section(name, name, parts)


def _amounts(result: Mapping[str, Any]) -> list[str]:
    """A row a source: documents read, and what each side has."""
    heads = ("source", "read", *(head for side in SIDES.values() for head in (side, "MB", "tokens")))
    rows = []
    for source in result["kept"]:
        sides = [result.get(side, {}).get(source, {}) for side in SIDES]
        cells = [
            cell
            for side in sides
            for cell in (_count(side.get("documents")), _mb(side.get("bytes")), _count(side.get("tokens")))
        ]
        rows.append((source, _count(result.get("read", {}).get(source)), *cells))
    return ["<h3>Documents read and kept</h3>", table(heads, rows)] if rows else []


def _drops(source: str, result: Mapping[str, Any]) -> str:
    """A row a reason, in the order of the recipe; what counts parts of documents (`_spans`, `_lines`,
    `_bytes`) stands apart.
    """
    counts = {reason: n for reason, n in result["dropped"].get(source, {}).items() if n}
    n_read, sizes = result.get("read", {}).get(source), result.get("dropped_bytes", {}).get(source, {})
    per_token = result.get("fertility", {}).get(source, {}).get("bytes_per_token")
    rows = []
    for reason, n in counts.items():
        if reason.endswith(NOT_DOCUMENTS):
            rows.append((reason, "", "", "", "", _count(n)))
        else:
            share, size = f"{n / n_read:.1%}" if n_read else "", sizes.get(reason)
            tokens = _count(round(size / per_token)) if size and per_token else ""
            rows.append((reason, _count(n), share, _mb(size), tokens, ""))
    heads = ("reason", "documents", "of all", "MB", "tokens, about", "parts cut")
    return f"<div><h3>Dropped of {escape(source)}</h3>{table(heads, rows)}</div>" if rows else ""


def _examples(result: Mapping[str, Any]) -> str:
    examples, (_, rows) = result.get("examples", {}), drop_table(result)
    reasons = [reason for reason, *_ in rows if examples.get(reason)]
    return "".join(f"<h3>{escape(reason)}</h3>{literal('\n\n'.join(examples[reason]))}" for reason in reasons)


def _histograms(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A fold a source."""
    parts = [f'<h3>Signals and limits</h3><p class="soft">{BEYOND}</p>'] if found else []
    for source, of_source in groupby(
        sorted(found, key=lambda each: each["source"]), key=lambda each: each["source"]
    ):
        drawn = [_histogram(each) for each in of_source if sum(each["counts"])]
        parts.append(
            fold(f"{source}: {len(drawn)} signals", f'<div class="charts small">{"".join(drawn)}</div>')
        )
    return parts


def _histogram(found: Mapping[str, Any]) -> str:
    limits = [found[end] for end in ("least", "most") if end in found]
    ends = {"least": found.get("least", -math.inf), "most": found.get("most", math.inf)}
    beyond = f": {found['beyond']:,} beyond" if "beyond" in found else ""
    name = found["signal"] + (f" ({found['language']})" if found.get("language") else "")
    return figure(
        name, found["reason"] + beyond, histogram(found["edges"], found["counts"], limits=limits, **ends), []
    )


def _clusters(found: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A row a rule: how many clusters have how many documents."""
    rows = []
    for reason, sizes in found.items():
        n_of = [
            sum(n for size, n in sizes.items() if low <= int(size) <= high)
            for low, high in CLUSTER_SIZES.values()
        ]
        rows.append((reason, _count(sum(n_of)), *map(_count, n_of), _count(max(map(int, sizes), default=0))))
    title = "<h3>Clusters of duplicates, by their number of documents</h3>"
    return [title, table(("rule", "clusters", *CLUSTER_SIZES, "largest"), rows)] if rows else []


def _fertility(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A row a source."""
    rows = [
        (
            source,
            _mb(row["bytes"]),
            *(_count(row[unit]) for unit in ("words", "tokens")),
            *(f"{row[ratio]:.2f}" for ratio in RATIOS),
        )
        for source, row in found.items()
    ]
    heads = ("source", "MB", "words", "tokens", "bytes a token", "tokens a word")
    return ["<h3>Tokenizer, on held-out text</h3>", table(heads, rows)] if rows else []


def _count(n: int | None) -> str:
    return "" if n is None else f"{n:,}"


def _mb(n_bytes: int | None) -> str:
    return "" if n_bytes is None else f"{n_bytes / 1e6:,.2f}"
