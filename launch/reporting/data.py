"""The part of report.html about a corpus: what was kept and dropped and why, signals with their limits,
duplicates, the tokenizer.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from data_pipeline.documents.drops import NOT_DOCUMENTS
from launch.reporting.charts import histogram
from launch.reporting.page import figure, fold, literal, paragraph, section, table, titled
from launch.terminal.drop_table import drop_table, sources_of

SIDES = {"kept": "to train on", "held_out": "held out"}  # each with its documents, MB and tokens
# (label: least and greatest size); 2**62 stands for no upper end.
CLUSTER_SIZES = {
    "2": (2, 2),
    "3": (3, 3),
    "4 to 9": (4, 9),
    "10 to 99": (10, 99),
    "100 and more": (100, 1 << 62),
}
RATIOS = ("bytes_per_token", "tokens_per_word")
BEYOND = (
    "Documents by what a rule measured; beyond the dashed limits they are dropped. "
    "The outermost bars hold what is further out."
)


def data_section(name: str, result: Mapping[str, Any]) -> str:
    """All that results.json of a data phase holds, as tables and histograms."""
    drops = "".join(_drops(source, result) for source in sources_of(result))
    parts = [
        *_amounts(result),
        f'<div class="tables">{drops}</div>',
        fold("Examples of what was dropped", _examples(result)),
        *_histograms(result.get("histograms", ())),
        *_clusters(result.get("clusters", {})),
        *_fertility(result.get("fertility", {})),
    ]
    return section(name, name, parts)


def _amounts(result: Mapping[str, Any]) -> list[str]:
    """A row a source: documents read, and what each side has."""
    heads = (
        "source",
        "read",
        *(head for side in SIDES.values() for head in (side, "MB", "tokens")),
    )
    rows = []
    for source in result["kept"]:
        sides = [result.get(side, {}).get(source, {}) for side in SIDES]
        cells = [
            cell
            for side in sides
            for cell in (
                _count(side.get("documents")),
                _mb(side.get("bytes")),
                _count(side.get("tokens")),
            )
        ]
        rows.append((source, _count(result.get("read", {}).get(source)), *cells))
    return [titled("Documents read and kept", table(heads, rows))]


def _drops(source: str, result: Mapping[str, Any]) -> str:
    """A row a reason, in the order of the recipe; what counts parts of documents (`_spans`, `_lines`,
    `_bytes`) stands apart.
    """
    # A rule that dropped nothing has no row.
    counts = {reason: n for reason, n in result["dropped"].get(source, {}).items() if n}
    n_read = result.get("read", {}).get(source)
    sizes = result.get("dropped_bytes", {}).get(source, {})

    # tokens of dropped documents were never counted; their bytes were
    per_token = result.get("fertility", {}).get(source, {}).get("bytes_per_token")
    rows = []
    for reason, n in counts.items():
        # Lines, spans and bytes that were cut out of documents which stayed.
        if reason.endswith(NOT_DOCUMENTS):
            rows.append((reason, "", "", "", "", _count(n)))
        else:
            share = f"{n / n_read:.1%}" if n_read else ""
            size = sizes.get(reason)
            # the tokens that these bytes would have been, at the tokenizer's rate for this source
            tokens = _count(round(size / per_token)) if size and per_token else ""
            rows.append((reason, _count(n), share, _mb(size), tokens, ""))
    heads = ("reason", "documents", "of all", "MB", "tokens, about", "parts cut")

    return f"<div>{titled(f'Dropped of {source}', table(heads, rows))}</div>" if rows else ""


def _examples(result: Mapping[str, Any]) -> str:
    examples = result.get("examples", {})
    _, rows = drop_table(result)
    reasons = [reason for reason, *_ in rows if examples.get(reason)]
    return "".join(titled(reason, literal("\n\n".join(examples[reason]))) for reason in reasons)


def _histograms(signals: Sequence[Mapping[str, Any]]) -> list[str]:
    """A fold a source with a histogram for each signal that was measured of its documents."""
    if not signals:
        return []
    parts = [titled("Signals and limits", paragraph(BEYOND))]
    # `groupby` joins neighbours only.
    by_source = sorted(signals, key=itemgetter("source"))
    for source, of_source in groupby(by_source, key=itemgetter("source")):
        drawn = [_histogram(signal) for signal in of_source if sum(signal["counts"])]
        charts = f'<div class="charts small">{"".join(drawn)}</div>'
        parts.append(fold(f"{source}: {len(drawn)} signals", charts))
    return parts


def _histogram(signal: Mapping[str, Any]) -> str:
    # a rule may have a limit on one side alone
    limits = [signal[end] for end in ("least", "most") if end in signal]
    ends = {"least": signal.get("least", -math.inf), "most": signal.get("most", math.inf)}
    bars = histogram(signal["edges"], signal["counts"], limits=limits, **ends)
    beyond = f": {signal['beyond']:,} beyond" if "beyond" in signal else ""
    language = f" ({signal['language']})" if signal.get("language") else ""
    return figure(signal["signal"] + language, signal["reason"] + beyond, bars, [])


def _clusters(by_rule: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A row a rule: how many clusters have how many documents."""
    rows = []
    for rule, sizes in by_rule.items():
        n_of = [
            sum(n for size, n in sizes.items() if low <= int(size) <= high)
            for low, high in CLUSTER_SIZES.values()
        ]
        rows.append(
            (rule, _count(sum(n_of)), *map(_count, n_of), _count(max(map(int, sizes), default=0)))
        )
    counts = table(("rule", "clusters", *CLUSTER_SIZES, "largest"), rows)
    return [titled("Clusters of duplicates, by their number of documents", counts)]


def _fertility(by_source: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A row a source: how many bytes its tokens hold, and tokens its words."""
    rows = [
        (
            source,
            _mb(row["bytes"]),
            *(_count(row[unit]) for unit in ("words", "tokens")),
            *(f"{row[ratio]:.2f}" for ratio in RATIOS),
        )
        for source, row in by_source.items()
    ]
    heads = ("source", "MB", "words", "tokens", "bytes a token", "tokens a word")
    return [titled("Tokenizer, on held-out text", table(heads, rows))]


def _count(n: int | None) -> str:
    return "" if n is None else f"{n:,}"


def _mb(n_bytes: int | None) -> str:
    return "" if n_bytes is None else f"{n_bytes / 1e6:,.2f}"
