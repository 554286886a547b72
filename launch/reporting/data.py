"""The part of report.html about a corpus: what was kept and dropped and why, signals with their limits,
duplicates, the tokenizer.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from data_pipeline.documents.drops import NOT_DOCUMENTS
from launch.reporting.histogram import histogram
from launch.reporting.page import figure, fold, literal, paragraph, section, table, titled
from launch.terminal.drop_table import cut_table, drop_table, sources_of

SIDES = {"kept": "to train on", "held_out": "held out"}  # each with its documents, MB and tokens
# (label: least and greatest size); 2**62 stands for no upper end.
CLUSTER_SIZES = {
    "2": (2, 2),
    "3": (3, 3),
    "4 to 9": (4, 9),
    "10 to 99": (10, 99),
    "100 and more": (100, 1 << 62),
}
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
    heads = ["source", "read"]
    for title in SIDES.values():
        heads += [title, "MB", "tokens"]

    n_read = result.get("read", {})
    rows = []
    for source in result["kept"]:
        cells = [source, _count(n_read.get(source))]
        for side in SIDES:
            # A source may have nothing held out.
            amounts = result.get(side, {}).get(source, {})
            cells.append(_count(amounts.get("documents")))
            cells.append(_mb(amounts.get("bytes")))
            cells.append(_count(amounts.get("tokens")))
        rows.append(cells)
    return [titled("Documents read and kept", table(heads, rows))]


def _drops(source: str, result: Mapping[str, Any]) -> str:
    """Two tables with a row a reason, in the order of the recipe: documents, and what was cut out of others
    (`_spans`, `_lines`, `_bytes`).
    """
    n_read = result.get("read", {}).get(source)
    sizes = result.get("dropped_bytes", {}).get(source, {})
    fertility = result.get("fertility", {}).get(source, {})
    bytes_per_token = fertility.get("bytes_per_token")

    rows = []
    cut_rows = []
    for reason, n in result["dropped"].get(source, {}).items():
        if not n:
            continue  # a rule that dropped nothing has no row
        # Lines, spans and bytes that were cut out of documents which stayed.
        if reason.endswith(NOT_DOCUMENTS):
            cut_rows.append((reason, _count(n)))
            continue
        share = f"{n / n_read:.1%}" if n_read else ""
        size = sizes.get(reason)
        tokens = ""
        # Dropped documents were never tokenized; their tokens are estimated from their bytes, by the
        # tokenizer's rate for this source.
        if size and bytes_per_token:
            tokens = _count(round(size / bytes_per_token))
        rows.append((reason, _count(n), share, _mb(size), tokens))

    heads = ("reason", "documents", "of all", "MB", "tokens, about")
    drops = titled(f"Dropped of {source}", table(heads, rows))
    cuts = titled(f"Cut out of documents of {source}", table(("what", "how many"), cut_rows))
    return f"<div>{drops}{cuts}</div>" if drops or cuts else ""


def _examples(result: Mapping[str, Any]) -> str:
    examples = result.get("examples", {})
    # In the order in which the table of drops has them.
    rows = [*drop_table(result)[1], *cut_table(result)[1]]
    blocks = []
    for reason, *_ in rows:
        if examples.get(reason):
            texts = "\n\n".join(examples[reason])
            blocks.append(titled(reason, literal(texts)))
    return "".join(blocks)


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
    # A rule may have a limit on one side only.
    limits = [signal[end] for end in ("least", "most") if end in signal]
    bars = histogram(
        signal["edges"],
        signal["counts"],
        limits=limits,
        least=signal.get("least", -math.inf),
        most=signal.get("most", math.inf),
    )
    caption = signal["signal"]
    # Some limits hold for one language alone, and such a signal is drawn once a language.
    if signal.get("language"):
        caption += f" ({signal['language']})"
    note = signal["reason"]
    if "beyond" in signal:
        note += f": {signal['beyond']:,} beyond"
    return figure(caption, note, bars, [])


def _clusters(by_rule: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A row a rule: how many clusters have how many documents."""
    rows = []
    for rule, clusters in by_rule.items():
        # JSON has no numbers as keys.
        by_size = {int(size): n for size, n in clusters.items()}
        n_in_range = []
        for least, most in CLUSTER_SIZES.values():
            n_in_range.append(sum(n for size, n in by_size.items() if least <= size <= most))
        total = _count(sum(n_in_range))
        largest = _count(max(by_size, default=0))
        rows.append((rule, total, *map(_count, n_in_range), largest))
    counts = table(("rule", "clusters", *CLUSTER_SIZES, "largest"), rows)
    return [titled("Clusters of duplicates, by their number of documents", counts)]


def _fertility(by_source: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A row a source: how many bytes its tokens hold, and tokens its words."""
    rows = []
    for source, row in by_source.items():
        n_words = _count(row["words"])
        n_tokens = _count(row["tokens"])
        bytes_per_token = f"{row['bytes_per_token']:.2f}"
        tokens_per_word = f"{row['tokens_per_word']:.2f}"
        rows.append(
            (source, _mb(row["bytes"]), n_words, n_tokens, bytes_per_token, tokens_per_word)
        )
    heads = ("source", "MB", "words", "tokens", "bytes a token", "tokens a word")
    return [titled("Tokenizer, on held-out text", table(heads, rows))]


def _count(n: int | None) -> str:
    return "" if n is None else f"{n:,}"


def _mb(n_bytes: int | None) -> str:
    return "" if n_bytes is None else f"{n_bytes / 1e6:,.2f}"
