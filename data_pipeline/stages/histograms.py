"""The account of a part's signals: what the rules cut or replaced, and how the measured values lie around
the limits.
"""

from typing import Any

import numpy as np

from data_pipeline.clean.rule import Limit
from data_pipeline.documents.drops import NOT_DOCUMENTS, Drops
from data_pipeline.stages.across import Judgement, Numbered
from data_pipeline.stages.judge import Verdicts, numbers

N_BINS = 40


def count_edits(part: Numbered, verdicts: Verdicts, drops: Drops) -> None:
    """Add what the rules cut and replaced in the documents that stay."""
    kept = verdicts.kept()
    for number in part.annotated.rules:
        signals = part.annotated.signals(number)
        for name in (name for name in signals.column_names if name.endswith(NOT_DOCUMENTS)):
            if n := int(np.nansum(numbers(signals[name])[kept])):
                drops.add(part.annotated.part.source, name, n=n)


def histograms_of(part: Numbered, judgement: Judgement) -> list[dict[str, Any]]:
    """Of every limit: how the documents that it concerns lie around it; the ends of the bins depend on it
    alone, so that parts add up.
    """
    languages, found = part.languages(), []
    for number in part.annotated.rules:
        limits = judgement.recipe[number].limits()
        for limit in limits:
            own = [
                other.language
                for other in limits
                if other.language and (other.reason, other.signal) == (limit.reason, limit.signal)
            ]
            concerned = languages == limit.language if limit.language else ~np.isin(languages, own)
            values = numbers(part.annotated.signals(number, [limit.signal])[limit.signal])[concerned]
            least = judgement.quantiles.get((number, part.annotated.part.source, limit.reason), limit.least)
            if (values := values[~np.isnan(values)]).size:
                found.append(_histogram(values, limit._replace(least=float(least))))
    return found


def _histogram(values: np.ndarray, limit: Limit) -> dict[str, Any]:
    edges = bins(limit)
    ends = {
        name: value for name, value in (("least", limit.least), ("most", limit.most)) if np.isfinite(value)
    }
    return {
        "reason": limit.reason,
        "signal": limit.signal,
        "language": limit.language,
        "edges": edges.tolist(),
        "counts": np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0].tolist(),
        "beyond": int(((values < limit.least) | (values > limit.most)).sum()),
        **ends,
    }


def bins(limit: Limit) -> np.ndarray:
    """Edges [N_BINS + 1] around what a limit allows; values beyond fall into the outermost bins."""
    if np.isfinite(limit.least) and np.isfinite(limit.most):
        room = (limit.most - limit.least) / 2 or 1.0
        return np.linspace(max(0.0, limit.least - room), limit.most + room, N_BINS + 1)
    end = next((2 * end for end in (limit.most, limit.least) if np.isfinite(end)), 1.0)
    return np.linspace(min(0.0, end), max(0.0, end) or 1.0, N_BINS + 1)
