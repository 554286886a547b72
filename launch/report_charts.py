"""Curves and histograms as SVG inside the page, in the colours of its light and dark themes; curves are drawn by matplotlib."""

import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence

Number = int | float
Curve = Sequence[tuple[int, float]]  # (step, value), steps rising; a value may be NaN

INK = "#010203"  # becomes the colour of the text around the chart
COLOURS = tuple(f"#a1b2c{i}" for i in range(1, 7))  # become the page's --line-1 … --line-6
WIDE, HIGH = 220, 56  # units of a histogram
MAX_POINTS = 240  # wider than the chart has pixels to tell apart


def chart(curves: Mapping[str, Curve], *, salt: str) -> str:
    """One `<svg>` with all curves over the step; `salt` keeps its ids apart from those of other charts of the page."""
    import matplotlib
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": salt, "axes.spines.top": False, "axes.spines.right": False, "font.size": 9}
    ink = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), INK)
    with matplotlib.rc_context({**style, **ink}):
        figure = Figure(figsize=(4.6, 2.4), layout="constrained")
        axes = figure.add_subplot()
        for colour, (name, curve) in zip(itertools.cycle(COLOURS), curves.items(), strict=False):
            _draw(axes, thinned(curve), colour, name)
        axes.grid(alpha=0.15, linewidth=0.6)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 5))
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
        svg = io.StringIO()
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_page(svg.getvalue())


def _draw(axes, curve: Curve, colour: str, name: str) -> None:
    steps, values = zip(*curve, strict=True) if curve else ((), ())
    axes.plot(steps, values, color=colour, linewidth=1.6, marker="o" if len(curve) < 12 else "", markersize=3, label=name)


def thinned(curve: Curve, limit: int = MAX_POINTS) -> list[tuple[int, float]]:
    """At most `limit` points, means of equally many neighbours; values that are not finite are left out of a mean."""
    size = math.ceil(len(curve) / limit) or 1
    return [_mean(curve[i : i + size]) for i in range(0, len(curve), size)]


def _mean(points: Curve) -> tuple[int, float]:
    finite = [value for _, value in points if math.isfinite(value)]
    return points[-1][0], sum(finite) / len(finite) if finite else math.nan


def _for_page(svg: str) -> str:
    """Without the XML prologue and fixed size, in the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1)
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL).replace(INK, "currentColor")
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # `axes_1` and such stand in every chart; ids that are referred to are salted
    for i, colour in enumerate(COLOURS, 1):
        svg = svg.replace(colour, f"var(--line-{i})")
    return svg


def histogram(edges: Sequence[Number], counts: Sequence[int], *, limits: Sequence[Number], least: Number, most: Number) -> str:
    """One small `<svg>`: bars that lie wholly beyond `least` or `most` in another colour, `limits` as dashed lines."""
    width, tallest = WIDE / len(counts), max(counts, default=0) or 1
    bars = {True: "", False: ""}
    for i, (n, left, right) in enumerate(zip(counts, edges, edges[1:], strict=False)):
        bars[left <= most and right > least] += _bar(i * width, n / tallest, width) if n else ""
    lines = "".join(f"M{_at(x, edges):.1f} 0V{HIGH}" for x in limits)
    ends = [x for x in (edges[0], edges[-1]) if all(abs(_at(x, edges) - _at(limit, edges)) > WIDE / 6 for limit in limits)]
    labels = "".join(_label(x, edges) for x in (*limits, *ends))
    body = f'<path fill="var(--line-1)" d="{bars[True]}"/><path fill="var(--line-5)" d="{bars[False]}"/>'
    body += f'<path stroke="currentColor" stroke-dasharray="3 2" d="{lines}"/><g font-size="9" fill="currentColor">{labels}</g>'
    return f'<svg viewBox="0 0 {WIDE} {HIGH + 14}">{body}</svg>'


def _bar(x: float, share: float, width: float) -> str:
    """Part of a path; the rarest value can still be seen."""
    tall = max(1.5, share * (HIGH - 2))
    return f"M{x:.1f} {HIGH}v{-tall:.1f}h{width * 0.85:.1f}v{tall:.1f}z"


def _at(x: Number, edges: Sequence[Number]) -> float:
    return (x - edges[0]) / (edges[-1] - edges[0]) * WIDE


def _label(x: Number, edges: Sequence[Number]) -> str:
    place = _at(x, edges)
    anchor = "start" if place < WIDE / 20 else "end" if place > WIDE * 0.95 else "middle"
    return f'<text x="{place:.1f}" y="{HIGH + 11}" text-anchor="{anchor}">{x:,.4g}</text>'
