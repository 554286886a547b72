"""Curves as SVG inside the page: drawn by matplotlib, coloured by the page, so that they follow its light and dark themes."""

import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence

Curve = Sequence[tuple[int, float]]  # (step, value), steps rising; a value may be NaN

INK = "#010203"  # becomes the colour of the text around the chart
COLOURS = tuple(f"#a1b2c{i}" for i in range(1, 7))  # become the page's --line-1 … --line-6
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
