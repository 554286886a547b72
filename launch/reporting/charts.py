"""Charts as SVG inside the page, in the colours of its light and dark themes: lines and a stacked area."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

Number = int | float

# Colours are CSS variables of page.css, so that the dark theme changes them without new SVG.
COLOURS = tuple(f"var(--line-{i})" for i in range(1, 7))
# Units of a chart, about as many as the pixels it gets.
WIDTH = 330
HEIGHT = 196
# Around its frame: room for the scale on the left, its unit above, the steps and their name below.
LEFT = 46
RIGHT = 6
TOP = 20
BOTTOM = 32
MAX_POINTS = 240  # of a curve: more could not be told apart in so few pixels
# The share of the x axis that a cropped chart leaves out: a loss falls so steeply there that the rest of
# the curve would be flat.
CROPPED = 0.05
LOG_FROM = 50.0  # a range of more than this factor is drawn on a logarithmic scale
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
# The digits of round steps, and the power of ten above them.
ROUND = (1, 2, 2.5, 5, 10)


class Curve(NamedTuple):
    """Points whose x rises; a y may be NaN. A point is the mean of values, of which `low` is the least and
    `high` the greatest.
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
    unit: str = ""  # of the values, above their scale
    most: float = math.inf  # the quantity cannot be greater: 1 of a share
    along: str = "step"  # what the x axis counts


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
        positive = np.where(values > 0, values, np.nan)
        low = math.log(self.low)
        high = math.log(self.high)
        return (np.log(positive) - low) / (high - low)

    def ticks(self, n: int) -> list[float]:
        """About `n` round values within the ends."""
        # Powers of ten need a range of at least one decade; below it round steps are better.
        if self.log and self.high / self.low > 10:
            return self._powers_of_ten(n)

        # the round number nearest to the step that n ticks would need
        exact = (self.high - self.low) / n
        power = 10.0 ** math.floor(math.log10(exact))
        steps = [power * digit for digit in ROUND]
        step = min(steps, key=lambda size: abs(size - exact))

        # 1e-9: an end that is a tick itself must not be lost by rounding.
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]

    def _powers_of_ten(self, n: int) -> list[float]:
        """About `n` powers of ten within the ends, or all of them."""
        first = math.ceil(math.log10(self.low) - 1e-9)
        last = math.floor(math.log10(self.high) + 1e-9)
        n_powers = last - first + 1
        every = math.ceil(n_powers / n) or 1
        return [10.0**power for power in range(first, last + 1, every)]


def thinned(x: np.ndarray, y: np.ndarray, limit: int = MAX_POINTS) -> Curve:
    """At most `limit` points, means of equally many neighbours; values that are not finite are left out of
    a mean.
    """
    size = math.ceil(len(x) / limit) or 1
    starts = np.arange(0, len(x), size)
    finite = np.isfinite(y)
    # reduceat sums from each start to the next one.
    counts = np.add.reduceat(finite, starts, dtype=np.int64)
    sums = np.add.reduceat(np.where(finite, y, 0.0), starts)
    with np.errstate(invalid="ignore"):  # 0 / 0: nothing finite to take the mean of
        mean = sums / counts

    # Values that are not finite become ±inf, so that they are never the least or the greatest.
    least = np.minimum.reduceat(np.where(finite, y, np.inf), starts)
    greatest = np.maximum.reduceat(np.where(finite, y, -np.inf), starts)
    low = np.where(counts, least, np.nan)
    high = np.where(counts, greatest, np.nan)

    # The last x of each group: a curve then ends at the newest step.
    lasts = np.append(starts[1:], len(x)) - 1
    return Curve(x[lasts], mean, low, high)


def lines(curves: Mapping[str, Curve], frame: Frame, colours: Sequence[str]) -> str:
    """One `<svg>` with all curves, a colour each; the pointer over it shows the values."""
    across, up = _axes(list(curves.values()), frame)
    body = ""
    for curve, colour in zip(curves.values(), colours, strict=True):
        x = _place(across, curve.x)
        has_range = np.any(curve.high > curve.low)
        # The band comes first: SVG draws in order, and the line must lie on top.
        if frame.band and has_range:
            low = _height(up, curve.low)
            high = _height(up, curve.high)
            body += _area(x, low, high, colour, opacity=0.16)
        body += _line(x, _height(up, curve.y), colour)
    return _svg(across, up, body + _readings(across, curves), frame)


def stacked(x: np.ndarray, layers: Mapping[str, np.ndarray], frame: Frame) -> str:
    """One `<svg>` with areas on top of each other, in COLOURS."""
    thicknesses = [np.nan_to_num(layer) for layer in layers.values()]
    sums = np.cumsum(thicknesses, axis=0)
    levels = np.vstack([np.zeros(len(x)), sums])  # level i is the lower edge of layer i

    across = Axis(*_ends(x, margin=0.0))
    # 5 % of room above; 1.0 where all is zero, since an axis needs a length.
    up = Axis(0.0, float(levels.max()) * 1.05 or 1.0)

    heights = _height(up, levels)
    x_drawn = _place(across, x)
    body = ""
    for i in range(len(layers)):
        body += _area(x_drawn, heights[i], heights[i + 1], COLOURS[i], opacity=0.8)

    # The pointer shows the layers themselves, not the sums below them.
    curves = {name: Curve(x, layer, layer, layer) for name, layer in layers.items()}
    return _svg(across, up, body + _readings(across, curves), frame)


def value_text(value: Number | None) -> str:
    """A number for a person: four digits that count, thousands in groups."""
    if value is None:
        return "–"
    # NaN is written out, since it is a finding.
    if not math.isfinite(value):
        return str(value)
    is_whole = value == int(value)
    # From 999.95 on, four digits are a whole number.
    if is_whole or abs(value) >= 999.95:
        return f"{value:,.0f}"
    # "#" keeps zeros at the end: 1.270 beside 3.411 shows that both were measured as closely.
    return f"{value:#.4g}"


def tick_text(value: Number) -> str:
    """A number for a scale: `250k`, `2e-4`."""
    for unit, letter in UNITS:
        if abs(value) >= unit:
            return f"{value / unit:.4g}{letter}"
    if 0 < abs(value) < 1e-3:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:.5g}"


def _axes(curves: Sequence[Curve], frame: Frame) -> tuple[Axis, Axis]:
    """Both directions, so that every curve is inside."""
    all_x = np.concatenate([curve.x for curve in curves])
    across = Axis(*_ends(all_x, margin=0.0))
    start = _first_shown(curves, across) if frame.crop else across.low

    inside: list[np.ndarray] = []  # the values that decide the height of the frame
    for curve in curves:
        # Of a curve that ends before the start, its last point.
        shown = curve.x >= min(start, curve.x[-1])
        if frame.band:
            inside += [curve.low[shown], curve.high[shown]]
        else:
            inside.append(curve.y[shown])
    values = np.concatenate(inside)
    values = values[np.isfinite(values)]
    return across, _upwards(values, frame)


def _first_shown(curves: Sequence[Curve], across: Axis) -> float:
    """The x from which a cropped frame has to hold the curves."""
    late = across.low + (across.high - across.low) * CROPPED
    n_left = max(np.count_nonzero(curve.x >= late) for curve in curves)
    # More than three points: a short run would be cropped to nothing.
    return late if n_left > 3 else across.low


def _upwards(values: np.ndarray, frame: Frame) -> Axis:
    """The axis on which finite values stand."""
    if frame.log and len(values):
        low = float(values.min())
        high = float(values.max())
        # > 0: a logarithmic axis cannot hold zero or less.
        if high > LOG_FROM * low > 0:
            return Axis(low / 1.1, high * 1.1, log=True)
    # An axis needs an end, also where no value is finite.
    if frame.zero or not len(values):
        values = np.append(values, 0.0)
    low, high = _ends(values, margin=0.04)
    # A value beyond what the quantity can be is a finding, and stays inside.
    ends_at_most = values.max() <= frame.most < high and low < frame.most
    return Axis(low, frame.most if ends_at_most else high)


def _ends(values: np.ndarray, *, margin: float) -> tuple[float, float]:
    """Least and greatest with a margin; never the same."""
    low = float(values.min())
    high = float(values.max())
    # A constant curve would divide by a range of zero.
    space = (high - low) * margin if low < high else abs(low) * 0.1 or 0.5
    # No margin below zero where nothing is negative: a scale would show values that cannot be.
    lowest = max(low - space, 0.0) if low >= 0 else low - space
    return lowest, high + space


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
    changes = np.flatnonzero(np.diff(known)) + 1
    stretches = np.split(np.arange(len(x)), changes)
    stretches = [points for points in stretches if known[points[0]]]

    path = "".join(_polyline(x[points], y[points]) for points in stretches)
    alone = [points[0] for points in stretches if len(points) == 1]
    dots = np.flatnonzero(known) if len(x) < 12 else alone
    marks = ""
    for i in dots:
        centre = f'cx="{x[i]:.1f}" cy="{y[i]:.1f}"'
        marks += f'<circle {centre} r="2.2" fill="{colour}" stroke="none"/>'
    style = f'fill="none" stroke="{colour}" stroke-width="1.6" stroke-linejoin="round"'
    return f'<g {style}><path d="{path}"/>{marks}</g>'


def _polyline(x: np.ndarray, y: np.ndarray) -> str:
    """Part of a path through these points."""
    # M starts a stretch, L draws to the next point. One decimal is a tenth of a pixel, and keeps
    # the page small.
    points = [f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True)]
    return "M" + "L".join(points)


def _area(x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str, *, opacity: float) -> str:
    known = np.isfinite(low) & np.isfinite(high)
    if not known.any():
        return ""
    x = x[known]
    # along the upper edge from left to right, and back along the lower one
    around_x = np.concatenate([x, x[::-1]])
    around_y = np.concatenate([high[known], low[known][::-1]])
    outline = _polyline(around_x, around_y)
    return f'<path fill="{colour}" fill-opacity="{opacity}" d="{outline}z"/>'


def _svg(across: Axis, up: Axis, body: str, frame: Frame) -> str:
    """Grid, scales and what they measure around the curves, which an inner `<svg>` clips to the frame."""
    grid = ""
    texts = _axis_names(up, frame)
    levels = up.ticks(4)
    for value, y in zip(levels, _height(up, np.array(levels)), strict=True):
        grid += f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}"
        # y is the base line of a text: 3.5 lower, its middle is at the grid's line.
        texts += text_at(tick_text(value), x=f"{LEFT - 6}", y=f"{y + 3.5:.1f}", anchor="end")
    places = across.ticks(5)
    for value, x in zip(places, _place(across, np.array(places)), strict=True):
        # A centred text at the right end would be cut off.
        anchor = "end" if x > WIDTH - 24 else "middle"
        texts += text_at(tick_text(value), x=f"{x:.1f}", y=f"{HEIGHT - BOTTOM + 13}", anchor=anchor)

    # The inner svg clips what is outside of a cropped frame. Two units more, for lines on its edges.
    y = TOP - 2
    width = WIDTH - LEFT
    height = HEIGHT - BOTTOM + 2 - y
    inner = (
        f'x="{LEFT}" y="{y}" width="{width}" height="{height}" '
        f'viewBox="{LEFT} {y} {width} {height}"'
    )
    bottom = f"M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}">'
        f'<path class="grid" d="{grid}"/>'
        f'<path class="grid" d="{bottom}"/>'
        f'<g class="scale">{texts}</g>'
        f"<svg {inner}>{body}</svg>"
        "</svg>"
    )


def _axis_names(up: Axis, frame: Frame) -> str:
    """What the scales measure: the unit above the left one, the name of the x axis below."""
    notes = [frame.unit, "log scale" if up.log else ""]
    unit = ", ".join(note for note in notes if note)
    above = text_at(escape(unit), x="2", y="10", anchor="start") if unit else ""
    middle = (LEFT + WIDTH - RIGHT) / 2
    return above + text_at(frame.along, x=f"{middle:.0f}", y=f"{HEIGHT - 4}", anchor="middle")


def text_at(text: str, *, x: str, y: str, anchor: str) -> str:
    """A text of a scale at a point of the chart; it must be escaped."""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>'


def _readings(across: Axis, curves: Mapping[str, Curve], n: int = 40) -> str:
    """Transparent vertical strips whose titles are the values there: browsers show them under the pointer,
    without a script.
    """
    width = (WIDTH - LEFT - RIGHT) / n
    # The middle of each strip, in units of the x axis.
    middles = across.low + (np.arange(n) + 0.5) / n * (across.high - across.low)
    shown = list(curves.items())[:8]  # a longer title does not fit on a screen
    strips = ""
    for i, middle in enumerate(middles):
        values = []
        where = ""
        for name, curve in shown:
            # The curve's first point at or after the middle.
            first = int(np.searchsorted(curve.x, middle))
            nearest = min(first, len(curve.x) - 1)
            value = value_text(float(curve.y[nearest]))
            # A chart of one curve has no name for it, and so no space before the value.
            values.append(f"{name} {value}".lstrip())
            where = where or value_text(float(curve.x[nearest]))
        title = escape(f"{where}: {', '.join(values)}")
        box = f'x="{LEFT + i * width:.1f}" width="{width:.1f}" height="{HEIGHT}"'
        strips += f"<rect {box}><title>{title}</title></rect>"
    return f'<g fill="transparent">{strips}</g>'
