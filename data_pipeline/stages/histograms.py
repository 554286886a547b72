"""The account of a part's signals: what the rules cut or replaced, and how the measured values lie around
the limits.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipeline.clean.rule import Limit
from data_pipeline.documents.drops import NOT_DOCUMENTS, Drops
from data_pipeline.stages.across import Judgement, Numbered
from data_pipeline.stages.judge import Verdicts, concerned, numbers

N_BINS = 40


def count_edits(part: Numbered, verdicts: Verdicts, drops: Drops) -> None:
    """Add what the rules cut and replaced in the documents that stay."""
    stays = verdicts.stays()
    for number in part.annotated.rules:
        signals = part.annotated.signals(number)
        for name in signals.column_names:
            # Names with these endings count pieces of documents; the others are measurements.
            if name.endswith(NOT_DOCUMENTS):
                n = int(np.nansum(numbers(signals[name])[stays]))
                if n:
                    drops.add(part.annotated.part.source, name, n=n)


def histograms_of(part: Numbered, judgement: Judgement) -> list[dict[str, Any]]:
    """Of every limit: how the documents that it concerns lie around it; the ends of the bins depend on it
    alone, so that parts add up.
    """
    histograms = []
    languages = part.languages()
    source = part.annotated.part.source
    for number in part.annotated.rules:
        limits = judgement.recipe[number].limits()
        for limit in limits:
            signals = part.annotated.signals(number, [limit.signal])
            values = numbers(signals[limit.signal])[_concerned(limit, limits, languages)]
            values = values[~np.isnan(values)]
            if values.size:
                least = judgement.quantiles.get((number, source, limit.reason), limit.least)
                histograms.append(_histogram(values, limit._replace(least=float(least))))
    return histograms


def _concerned(limit: Limit, limits: Sequence[Limit], languages: np.ndarray) -> np.ndarray:
    """Which documents a limit looks at, bool [n]."""
    looked_at = concerned(limit, languages)
    if limit.language:
        return looked_at

    # A limit for any language does not apply to languages with their own limit on the signal.
    for other in limits:
        if other.language and (other.reason, other.signal) == (limit.reason, limit.signal):
            looked_at &= ~concerned(other, languages)
    return looked_at


def _histogram(values: np.ndarray, limit: Limit) -> dict[str, Any]:
    """How values lie around a limit, as JSON."""
    edges = bins(limit)
    # Clipped, so that far outliers are counted in the outermost bins, not lost.
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    histogram = {
        "reason": limit.reason,
        "signal": limit.signal,
        "language": limit.language,
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "beyond": int(((values < limit.least) | (values > limit.most)).sum()),
    }

    # JSON has no infinity, so an open end is left out.
    ends = {"least": limit.least, "most": limit.most}
    return histogram | {name: end for name, end in ends.items() if np.isfinite(end)}


def bins(limit: Limit) -> np.ndarray:
    """Edges [N_BINS + 1] around what a limit allows; values beyond fall into the outermost bins."""
    if np.isfinite(limit.least) and np.isfinite(limit.most):
        room = (limit.most - limit.least) / 2 or 1.0
        return np.linspace(max(0.0, limit.least - room), limit.most + room, N_BINS + 1)

    # With one limit only, it is in the middle, and 0 at one end.
    far_end = next((2 * end for end in (limit.most, limit.least) if np.isfinite(end)), 1.0)
    return np.linspace(min(0.0, far_end), max(0.0, far_end) or 1.0, N_BINS + 1)
