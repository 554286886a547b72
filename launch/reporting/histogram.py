"""Histograms as SVG inside the page: how many documents have which value, and which of them a rule drops."""

from collections.abc import Sequence

from launch.reporting.charts import Number, text_at

# Units of a histogram.
WIDE = 220
HIGH = 56


def histogram(
    edges: Sequence[Number],
    counts: Sequence[int],
    *,
    limits: Sequence[Number],
    least: Number,
    most: Number,
) -> str:
    """One small `<svg>`: bars that lie wholly beyond `least` or `most` in another colour, `limits` as
    dashed lines.
    """
    width = WIDE / len(counts)
    tallest = max(counts, default=0) or 1
    kept_bars = ""
    dropped_bars = ""
    # edges has one more entry than counts.
    for i, n in enumerate(counts):
        if not n:
            continue
        bar = _bar(i * width, n / tallest, width)
        if edges[i] <= most and edges[i + 1] > least:
            kept_bars += bar
        else:
            dropped_bars += bar
    dashes = "".join(f"M{_at(x, edges):.1f} 0V{HIGH}" for x in limits)

    # The limits have labels, and the ends where they have room beside those.
    labelled = list(limits)
    for end in (edges[0], edges[-1]):
        # A sixth of the width holds a label of four digits.
        if all(abs(_at(end, edges) - _at(limit, edges)) > WIDE / 6 for limit in limits):
            labelled.append(end)
    labels = "".join(_label(x, edges) for x in labelled)

    return (
        f'<svg viewBox="0 0 {WIDE} {HIGH + 14}">'
        f'<path fill="var(--line-1)" d="{kept_bars}"/>'
        f'<path fill="var(--line-5)" d="{dropped_bars}"/>'
        f'<path stroke="currentColor" stroke-dasharray="3 2" d="{dashes}"/>'
        f'<g font-size="9" fill="currentColor">{labels}</g>'
        "</svg>"
    )


def _bar(x: float, share: float, width: float) -> str:
    """Part of a path; the rarest value can still be seen."""
    # At least 1.5 units tall, or a count of 1 in 10,000 could not be seen.
    tall = max(1.5, share * (HIGH - 2))
    return f"M{x:.1f} {HIGH}v{-tall:.1f}h{width * 0.85:.1f}v{tall:.1f}z"


def _at(x: Number, edges: Sequence[Number]) -> float:
    return (x - edges[0]) / (edges[-1] - edges[0]) * WIDE


def _label(x: Number, edges: Sequence[Number]) -> str:
    place = _at(x, edges)
    anchor = "middle"
    # At the edges a centred label would be cut by the SVG's own frame.
    if place < WIDE / 20:
        anchor = "start"
    elif place > WIDE * 0.95:
        anchor = "end"
    return text_at(f"{x:,.4g}", x=f"{place:.1f}", y=f"{HIGH + 11}", anchor=anchor)
