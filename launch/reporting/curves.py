"""Which metrics of a phase share a chart, and how a chart is framed."""

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from launch.reporting.charts import COLOURS, MAX_POINTS, Frame, lines, stacked, thinned, value_text
from launch.reporting.page import figure
from launch.reporting.record import Column

# The headings of a phase, in the page's order; NOWHERE is for metrics that are shown as text or in another
# chart.
LEARNING = "Learning"
NORMS = "Norms of the layers"
SPEED = "Speed"
OTHER = "Other metrics"
NOWHERE = ""
GIB = 1 << 30


class Place(NamedTuple):
    """Metrics whose name matches `pattern` are the curve `curve` of the chart `chart` under `heading`;
    values are divided by `unit`.
    """

    pattern: str
    chart: str
    curve: str
    heading: str
    frame: Frame = Frame()
    unit: float = 1.0


LOSS = Frame(crop=True)
LOSS_WITH_BAND = Frame(crop=True, band=True)
SPREAD = Frame(log=True, band=True)
LOG = Frame(log=True)
UPWARDS = Frame(zero=True)
UPWARDS_WITH_BAND = Frame(zero=True, band=True)
PLACES = (  # a metric's place is the first that matches; charts are in this order
    Place("loss/train", "loss/train", "all", LEARNING, LOSS_WITH_BAND),
    Place("loss/source/(.+)", "loss/train", r"\1", LEARNING, LOSS),
    Place("eval/([^/]+)/(loss)", r"eval: \2", r"\1", LEARNING, LOSS),
    Place("eval/([^/]+)/(bits_per_byte)", r"eval: \2", r"\1", LEARNING, LOSS),
    Place("eval/([^/]+)/(.+)", r"eval: \2", r"\1", LEARNING),
    Place("train/bits_per_byte", "train/bits_per_byte", "", LEARNING, LOSS_WITH_BAND),
    Place("train/(.+)", r"train/\1", "", LEARNING),
    Place("optimizer/learning_rate", "optimizer/learning_rate", "", LEARNING, UPWARDS),
    Place("optimizer/(.+)", r"optimizer/\1", "", LEARNING, SPREAD),
    Place("tokens/source/(.+)", "tokens by source", r"\1", LEARNING, UPWARDS),
    Place("epochs/source/(.+)", "epochs by source", r"\1", LEARNING, UPWARDS),
    # Of every parameter that the layers share, one chart with a curve a layer.
    Place(r"norms/([^/]+)/(.+)/(\d+)/(.+)", r"norms/\1: \2/\4", r"layer \3", NORMS, LOG),
    Place("norms/([^/]+)/(.+)", r"norms/\1: the rest", r"\2", NORMS, LOG),
    Place("throughput/tokens_per_s", "throughput/tokens_per_s", "", SPEED, UPWARDS_WITH_BAND),
    Place("throughput/flops_per_s", "throughput/flops_per_s", "", SPEED, UPWARDS_WITH_BAND),
    Place("throughput/(mfu|hfu)", "throughput: share of the peak", r"\1", SPEED, UPWARDS),
    # All but time/step_s, which is the next line's.
    Place("time/(?!step_s).+", "", "", NOWHERE),  # the stacked chart
    Place("time/step_s", "time/step_s", "", SPEED, SPREAD),
    Place("goodput/frac", "goodput/frac", "", SPEED, UPWARDS),
    # shown as text
    Place("goodput/.+|time|data/.+|hosts/slowest|checkpoint/failed", "", "", NOWHERE),
    Place("memory/(.+)_bytes", "memory", r"\1", SPEED, UPWARDS, GIB),
    Place("hosts/(.+)_s", "hosts: time of a step", r"\1", SPEED, LOG),
    Place("checkpoint/(.+)_s", "checkpoint: time of a save", r"\1", SPEED, UPWARDS),
    Place(
        pattern="checkpoint/peak_host_bytes",
        chart="checkpoint: peak of host memory",
        curve="",
        heading=SPEED,
        frame=UPWARDS,
        unit=GIB,
    ),
    Place("guard/(.+)", "guard: steps", r"\1", LEARNING, UPWARDS),
    Place("(.+)", r"\1", "", OTHER),
)
# How a metric's name ends -> (unit of its scale, the most it can be); the first that matches.
UNITS = {
    "(.+_)?loss|loss/train|loss/source/.+|nll": ("nats", math.inf),
    "bits_per_byte": ("bits a byte", math.inf),
    "accuracy|accuracies|frac|mfu|hfu": ("share", 1.0),
    "compression_ratio": ("bytes of text a coded byte", math.inf),
    "logps/.+": ("nats a text", math.inf),
    "tokens_per_s": ("tokens/s", math.inf),
    "flops_per_s": ("FLOP/s", math.inf),
    "tokens/source/.+": ("tokens", math.inf),
    "epochs/source/.+": ("epochs", math.inf),
    "norms/.+|grad_norm": ("Euclidean norm", math.inf),
    ".+_bytes": ("GiB", math.inf),
    ".+_s": ("seconds", math.inf),
    "guard/.+": ("steps", math.inf),
}
# Means over sources are drawn in the colour of text, apart from the sources' own colours.
SUMS = {"all": "var(--ink)", "macro": "var(--ink)", "micro": "var(--soft)"}
MANY = 8  # more curves than this are a sequence
MAX_STRETCHES = 120  # of neighbouring steps in the stacked chart: more are narrower than a pixel
PARTS = ("compute", "data_wait", "checkpoint", "evaluate", "restore")  # of the time: time/PART_s


def charts(columns: Mapping[str, Column], heading: str) -> list[str]:
    """The figures under a heading; a metric that was 0 throughout is not drawn."""
    placed = []
    for name, column in columns.items():
        # What was 0 throughout (skipped steps, failed saves) would be a flat line each.
        if np.any(column.values != 0):
            placed.append((place_of(name), name, column))
    # Sorted, so that the order of the page does not depend on the order of the metrics.
    placed.sort(key=lambda each: each[0])

    groups: dict[str, tuple[Place, dict[str, Column]]] = {}
    for (i, chart, curve), name, column in placed:
        if PLACES[i].heading == heading:
            # The chart's frame and unit are those of the first place that fills it.
            first = PLACES[i]._replace(frame=_with_unit(PLACES[i].frame, name))
            place, of_chart = groups.setdefault(chart, (first, {}))
            of_chart[curve] = Column(column.steps, column.values / place.unit)
    return [_figure(chart, place.frame, of_chart) for chart, (place, of_chart) in groups.items()]


def place_of(name: str) -> tuple[int, str, str]:
    """(number of the place, chart, curve) of a metric: `eval/web/loss` is the curve `web` of the chart
    `eval: loss`.
    """
    for i, place in enumerate(PLACES):
        match = re.fullmatch(place.pattern, name)
        if match:
            return i, match.expand(place.chart), match.expand(place.curve)
    raise AssertionError(f"the last pattern matches everything, and not {name!r}")


@cache
def unit_of(name: str) -> tuple[str, float]:
    """(unit, the most it can be) of a metric's values; no unit for one that is not known."""
    for ending, unit in UNITS.items():
        # What stands before is a group or a held-out set, whose name may have slashes too.
        if re.fullmatch(f"(.*/)?({ending})", name):
            return unit
    return "", math.inf


def _with_unit(frame: Frame, name: str) -> Frame:
    unit, most = unit_of(name)
    return frame._replace(unit=unit, most=most)


def _figure(chart: str, frame: Frame, columns: Mapping[str, Column]) -> str:
    """A chart whose keys hold the newest values; only the first curve has its range behind it."""
    # With many curves in a chart, fewer points for each keep the page small.
    limit = MAX_POINTS if len(columns) <= MANY else MAX_POINTS // 4
    curves = {}
    for i, (name, column) in enumerate(columns.items()):
        curve = thinned(column.steps, column.values, limit)
        # Several bands over one another could not be read.
        curves[name] = curve if i == 0 else curve._replace(low=curve.y, high=curve.y)

    # By name, so that a source has the same colour in every chart.
    names = list(columns)
    colours = colours_of(names)
    lasts = [value_text(column.last) for column in columns.values()]
    keys = []
    for name, last, colour in zip(names, lasts, colours, strict=True):
        keys.append((f"{name} {last}", colour))
    if _in_sequence(names):
        # For a sequence of layers the first and the last are enough.
        keys = [keys[0], keys[-1]]
    note = lasts[0] if len(lasts) == 1 else ""
    return figure(chart, note, lines(curves, frame, colours), keys)


def colours_of(names: Sequence[str]) -> list[str]:
    """A colour a name: the same for the same sources in every chart, a sequence for many layers, the ink
    for what sums up the others.
    """
    if _in_sequence(names):
        return _shades(len(names))
    if len(names) == 1:
        return [COLOURS[0]]
    colours = []
    n_others = 0
    for name in names:
        if name in SUMS:
            colours.append(SUMS[name])
        else:
            colours.append(COLOURS[n_others % len(COLOURS)])
            n_others += 1
    return colours


def _shades(n: int) -> list[str]:
    """Mixtures with the card's background: the first layer is pale and the last one strong."""
    shades = []
    for i in range(n):
        # At least 35 %: paler lines could not be seen on the card.
        percent = 35 + 65 * i // max(n - 1, 1)
        shades.append(f"color-mix(in oklab, var(--line-1) {percent}%, var(--card))")
    return shades


def _in_sequence(names: Sequence[str]) -> bool:
    return len(names) > MANY or bool(re.fullmatch(r"layer \d+", names[-1]))


def time_split(columns: Mapping[str, Column]) -> str:
    """Where the time of a step goes. Neighbouring steps are drawn as one stretch, in which the seconds of a
    part are shared by all of its steps.
    """
    spent = {}
    for part in PARTS:
        # Seconds of a part are written only at steps where it happened.
        column = columns.get(f"time/{part}_s")
        if column is not None and np.nansum(column.values) > 0:
            spent[part] = column
    if "compute" not in spent:
        return ""
    steps = spent["compute"].steps

    n_stretches = min(len(steps), MAX_STRETCHES)
    edges = np.linspace(0, len(steps), n_stretches + 1).astype(int)
    starts = edges[:-1]
    counts = np.diff(edges)
    layers = {}
    for part, column in spent.items():
        # Evaluations and saves are written at few steps; their seconds go to the stretch around them.
        stretch = np.searchsorted(steps[starts], column.steps, side="right") - 1
        stretch = np.clip(stretch, 0, n_stretches - 1)
        seconds = np.bincount(stretch, np.nan_to_num(column.values), n_stretches)
        layers[part] = seconds / counts

    # A stretch is drawn at its last step.
    ends = steps[edges[1:] - 1]
    keys = []
    for (part, layer), colour in zip(layers.items(), COLOURS, strict=False):
        mean_s = np.average(layer, weights=counts)
        keys.append((f"{part} {mean_s:.3g}", colour))
    drawn = stacked(ends, layers, Frame(unit="seconds a step"))
    return figure("time of a step, by what it goes to", "", drawn, keys)
