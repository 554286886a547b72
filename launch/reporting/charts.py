"""Charts as SVG inside the page, in the colours of its light and dark themes: lines, a stacked area,
histograms.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

Number = int | float

# Colours are CSS variables of page.css, so that the dark theme changes them without new SVG.
COLOURS = tuple(f"var(--line-{i})" for i in range(1, 7))
WIDTH, HEIGHT = 330, 176  # units of a chart, near the pixels it gets
LEFT, RIGHT, TOP, BOTTOM = 46, 6, 8, 20  # around its frame
WIDE, HIGH = 220, 56  # units of a histogram
MAX_POINTS = 240  # wider than the chart has pixels to tell apart
CROPPED = (
    0.05  # of the way, where a loss falls so steeply that nothing else could be seen beside it
)
LOG_FROM = 50.0  # a range of more than this factor is drawn on a logarithmic scale
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


class Curve(NamedTuple):
    """Points whose x rises, a y may be NaN; `low` and `high` are the least and the greatest of what a point
    stands for.
    """

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Frame(NamedTuple):
    """What a chart shows of its curves: from zero up, on a logarithmic scale where the range asks for it,
    without the first steep part.
    """

    zero: bool = False
    log: bool = False
    crop: bool = False
    band: bool = False  # the range behind each mean, as a pale area


class Axis(NamedTuple):
    """One direction of a chart."""

    low: float
    high: float
    log: bool = False

    def at(self, values: np.ndarray) -> np.ndarray:
        """Values as shares of the way: 0 at the low end, 1 at the high end."""
        if not self.log:
            return (values - self.low) / (self.high - self.low)
        # A logarithm of 0 or less does not exist: NaN leaves a gap in the line.
        logs = np.log(np.where(values > 0, values, np.nan))
        return (logs - math.log(self.low)) / (math.log(self.high) - math.log(self.low))

    def ticks(self, n: int) -> list[float]:
        """About `n` round values within the ends."""
        # Powers of ten need a range of at least one decade; below it round steps are better.
        if self.log and self.high / self.low > 10:
            first = math.ceil(math.log10(self.low) - 1e-9)
            last = math.floor(math.log10(self.high) + 1e-9)
            every = math.ceil((last - first + 1) / n) or 1
            return [10.0**power for power in range(first, last + 1, every)]

        # the round number nearest to the step that n ticks would need
        raw = (self.high - self.low) / n
        power = 10.0 ** math.floor(math.log10(raw))
        step = min(
            (power * digit for digit in (1, 2, 2.5, 5, 10)), key=lambda size: abs(size - raw)
        )

        # the small numbers keep an end that is a tick itself, whatever the rounding of the division
        first_i = math.ceil(self.low / step - 1e-9)
        last_i = math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first_i, last_i + 1)]


def thinned(x: np.ndarray, y: np.ndarray, limit: int = MAX_POINTS) -> Curve:
    """At most `limit` points, means of equally many neighbours; values that are not finite are left out of
    a mean.
    """
    # neighbours are averaged, so no curve has more points than pixels
    size = math.ceil(len(x) / limit) or 1
    starts = np.arange(0, len(x), size)
    finite = np.isfinite(y)
    # reduceat sums from each start to the next one.
    counts = np.add.reduceat(finite, starts, dtype=np.int64)
    with np.errstate(invalid="ignore"):  # 0 / 0: nothing finite to take the mean of
        mean = np.add.reduceat(np.where(finite, y, 0.0), starts) / counts
    low = np.where(counts, np.minimum.reduceat(np.where(finite, y, np.inf), starts), np.nan)
    high = np.where(counts, np.maximum.reduceat(np.where(finite, y, -np.inf), starts), np.nan)
    # The last x of each group: a curve then ends at the newest step.
    return Curve(x[np.append(starts[1:], len(x)) - 1], mean, low, high)


def lines(curves: Mapping[str, Curve], frame: Frame, colours: Sequence[str]) -> str:
    """One `<svg>` with all curves, a colour each; the pointer over it shows the values."""
    across, up = _axes(list(curves.values()), frame)
    body = ""
    for curve, colour in zip(curves.values(), colours, strict=True):
        x = _place(across, curve.x)
        has_range = np.any(curve.high > curve.low)
        if frame.band and has_range:
            body += _area(x, _height(up, curve.low), _height(up, curve.high), colour, 0.16)
        body += _line(x, _height(up, curve.y), colour)
    return _svg(across, up, body, _readings(across, curves))


def stacked(x: np.ndarray, layers: Mapping[str, np.ndarray]) -> str:
    """One `<svg>` with areas on top of each other, in COLOURS."""
    sums = np.cumsum([np.nan_to_num(layer) for layer in layers.values()], axis=0)
    levels = np.vstack([np.zeros(len(x)), sums])  # level i is the lower edge of layer i
    across = Axis(*_ends(x, 0.0))
    # 5 % of room above; 1.0 where all is zero, since an axis needs a length.
    up = Axis(0.0, float(levels.max()) * 1.05 or 1.0)
    heights = _height(up, levels)
    x_drawn = _place(across, x)
    areas = [
        _area(x_drawn, heights[i], heights[i + 1], COLOURS[i], 0.8) for i in range(len(layers))
    ]
    curves = {name: Curve(x, layer, layer, layer) for name, layer in layers.items()}
    return _svg(across, up, "".join(areas), _readings(across, curves))


def value_text(value: Number | None) -> str:
    """A number for a person: four digits that count, thousands in groups."""
    # An en dash for a missing number; NaN is written out, since it is a finding.
    if value is None or not math.isfinite(value):
        return "–" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 10_000 or value == int(value) else f"{value:.4g}"


def tick_text(value: Number) -> str:
    """A number for a scale: `250k`, `2e-4`."""
    for unit, letter in UNITS:
        if abs(value) >= unit:
            return f"{value / unit:.5g}{letter}"
    if 0 < abs(value) < 1e-3:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:.5g}"


def _axes(curves: Sequence[Curve], frame: Frame) -> tuple[Axis, Axis]:
    """Both directions, so that every curve is inside."""
    across = Axis(*_ends(np.concatenate([curve.x for curve in curves]), 0.0))
    start = across.low
    if frame.crop:
        late = across.low + (across.high - across.low) * CROPPED
        # More than three points: a short run would be cropped to nothing.
        if max(np.count_nonzero(curve.x >= late) for curve in curves) > 3:
            start = late
    inside: list[np.ndarray] = []  # the values that decide the height of the frame
    for curve in curves:
        shown = curve.x >= min(start, curve.x[-1])  # of a curve that ends early, its last point
        sides = (curve.low, curve.high) if frame.band else (curve.y,)
        inside += [side[shown] for side in sides]
    values = np.concatenate(inside)
    values = values[np.isfinite(values)]
    # > 0: a logarithmic axis cannot hold zero or less.
    if frame.log and len(values) and values.max() > LOG_FROM * values.min() > 0:
        return across, Axis(float(values.min()) / 1.1, float(values.max()) * 1.1, log=True)
    if frame.zero or not len(values):
        values = np.append(values, 0.0)

    return across, Axis(*_ends(values, 0.04))


def _ends(values: np.ndarray, margin: float) -> tuple[float, float]:
    """Least and greatest with a margin; never the same."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        # A constant curve would divide by a range of zero.
        return low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    space = (high - low) * margin
    return (low if low == 0 else low - space), high + space


def _place(across: Axis, values: np.ndarray) -> np.ndarray:
    return LEFT + across.at(values) * (WIDTH - LEFT - RIGHT)


def _height(up: Axis, values: np.ndarray) -> np.ndarray:
    # SVG's y grows downwards, so the height is taken from the bottom edge.
    return HEIGHT - BOTTOM - up.at(values) * (HEIGHT - TOP - BOTTOM)


def _line(x: np.ndarray, y: np.ndarray, colour: str) -> str:
    """A line with gaps where a value is not finite; points are marked when they are few, or alone between
    gaps.
    """
    known = np.isfinite(y)
    # A change between finite and not ends a stretch.
    runs = np.split(np.arange(len(x)), np.flatnonzero(np.diff(known)) + 1)
    runs = [run for run in runs if known[run[0]]]

    # M starts a stretch, L goes on to the next point
    # One decimal is a tenth of a pixel, and keeps the page small.
    path = "".join("M" + "L".join(f"{x[i]:.1f} {y[i]:.1f}" for i in run) for run in runs)
    dots = np.flatnonzero(known) if len(x) < 12 else [run[0] for run in runs if len(run) == 1]
    marks = "".join(
        f'<circle cx="{x[i]:.1f}" cy="{y[i]:.1f}" r="2.2" fill="{colour}" stroke="none"/>'
        for i in dots
    )
    style = f'fill="none" stroke="{colour}" stroke-width="1.6" stroke-linejoin="round"'
    return f'<g {style}><path d="{path}"/>{marks}</g>'


def _area(x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str, opacity: float) -> str:
    known = np.isfinite(low) & np.isfinite(high)
    if not known.any():
        return ""
    # along the upper edge from left to right, and back along the lower one
    upper = [f"{a:.1f} {b:.1f}" for a, b in zip(x[known], high[known], strict=True)]
    lower = [f"{a:.1f} {b:.1f}" for a, b in zip(x[known][::-1], low[known][::-1], strict=True)]
    return f'<path fill="{colour}" fill-opacity="{opacity}" d="M{"L".join(upper + lower)}z"/>'


def _svg(across: Axis, up: Axis, body: str, readings: str) -> str:
    """Grid and scales around the curves, which are clipped to the frame by an inner `<svg>`."""
    grid, texts = "", ""
    for value, y in zip(up.ticks(4), _height(up, np.array(up.ticks(4))), strict=True):
        grid += f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}"
        texts += (
            f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{tick_text(value)}</text>'
        )
    for value, x in zip(across.ticks(5), _place(across, np.array(across.ticks(5))), strict=True):
        # the last text would stand out of the chart
        anchor = "end" if x > WIDTH - 24 else "middle"
        texts += (
            f'<text x="{x:.1f}" y="{HEIGHT - 5}" text-anchor="{anchor}">{tick_text(value)}</text>'
        )

    # the inner svg clips what a cropped frame leaves outside
    inner = f'x="{LEFT}" y="0" width="{WIDTH - LEFT}" height="{HEIGHT - BOTTOM + 2}"'
    view = f'viewBox="{LEFT} 0 {WIDTH - LEFT} {HEIGHT - BOTTOM + 2}"'
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}"><path class="grid" d="{grid}"/>'
        f'<path class="grid" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/><g class="scale">{texts}</g>'
        f"<svg {inner} {view}>{body}{readings}</svg></svg>"
    )


def _readings(across: Axis, curves: Mapping[str, Curve], n: int = 40) -> str:
    """Transparent vertical strips whose titles are the values there: browsers show them under the pointer,
    without a script.
    """
    width = (WIDTH - LEFT - RIGHT) / n
    # The middle of each strip, in units of the x axis.
    middles = across.low + (np.arange(n) + 0.5) / n * (across.high - across.low)
    shown = dict(list(curves.items())[:8])  # a longer title does not fit on a screen
    strips = ""
    for i, middle in enumerate(middles):
        values, where = [], ""
        for name, curve in shown.items():
            # The curve's first point at or after the middle.
            nearest = min(int(np.searchsorted(curve.x, middle)), len(curve.x) - 1)
            values.append(f"{name} {value_text(float(curve.y[nearest]))}".lstrip())
            where = where or value_text(float(curve.x[nearest]))
        title = escape(f"{where}: {', '.join(values)}")
        box = f'x="{LEFT + i * width:.1f}" width="{width:.1f}" height="{HEIGHT}"'
        strips += f"<rect {box}><title>{title}</title></rect>"
    return f'<g fill="transparent">{strips}</g>'


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
    kept_bars, dropped_bars = "", ""
    # edges has one more entry than counts.
    for i, (n, left, right) in enumerate(zip(counts, edges, edges[1:], strict=False)):
        bar = _bar(i * width, n / tallest, width) if n else ""
        if left <= most and right > least:
            kept_bars += bar
        else:
            dropped_bars += bar
    lines = "".join(f"M{_at(x, edges):.1f} 0V{HIGH}" for x in limits)

    def is_free(x: Number) -> bool:
        """Whether a label at x would stand clear of those of the limits."""
        # A sixth of the width holds a label of four digits.
        return all(abs(_at(x, edges) - _at(limit, edges)) > WIDE / 6 for limit in limits)

    ends = [x for x in (edges[0], edges[-1]) if is_free(x)]
    labels = "".join(_label(x, edges) for x in (*limits, *ends))
    body = (
        f'<path fill="var(--line-1)" d="{kept_bars}"/><path fill="var(--line-5)" d="{dropped_bars}"/>'
        f'<path stroke="currentColor" stroke-dasharray="3 2" d="{lines}"/>'
        f'<g font-size="9" fill="currentColor">{labels}</g>'
    )

    return f'<svg viewBox="0 0 {WIDE} {HIGH + 14}">{body}</svg>'


def _bar(x: float, share: float, width: float) -> str:
    """Part of a path; the rarest value can still be seen."""
    # At least 1.5 units tall, or a count of 1 in 10,000 could not be seen.
    tall = max(1.5, share * (HIGH - 2))
    return f"M{x:.1f} {HIGH}v{-tall:.1f}h{width * 0.85:.1f}v{tall:.1f}z"


def _at(x: Number, edges: Sequence[Number]) -> float:
    return (x - edges[0]) / (edges[-1] - edges[0]) * WIDE


def _label(x: Number, edges: Sequence[Number]) -> str:
    place = _at(x, edges)
    # At the edges a centred label would be cut by the SVG's own frame.
    anchor = "start" if place < WIDE / 20 else "end" if place > WIDE * 0.95 else "middle"
    return f'<text x="{place:.1f}" y="{HIGH + 11}" text-anchor="{anchor}">{x:,.4g}</text>'
