"""Which metrics of a phase share a chart, and how a chart is framed."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from launch.reporting.charts import COLOURS, MAX_POINTS, Frame, lines, stacked, thinned, value_text
from launch.reporting.page import figure
from launch.reporting.record import Column

LEARNING, NORMS, SPEED, OTHER, NOWHERE = (
    "Learning",
    "Norms of the layers",
    "Speed",
    "Other metrics",
    "",
)
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


LOSS, SPREAD, UPWARDS = Frame(crop=True), Frame(log=True, band=True), Frame(zero=True)
PLACES = (  # the first that matches; charts stand in this order
    Place("loss/train", "loss/train", "all", LEARNING, LOSS._replace(band=True)),
    Place("loss/source/(.+)", "loss/train", r"\1", LEARNING, LOSS),
    Place("eval/([^/]+)/(loss)", r"eval: \2", r"\1", LEARNING, LOSS),
    Place("eval/([^/]+)/(bits_per_byte)", r"eval: \2", r"\1", LEARNING, LOSS),
    Place("eval/([^/]+)/(.+)", r"eval: \2", r"\1", LEARNING),
    Place("train/bits_per_byte", "train/bits_per_byte", "", LEARNING, LOSS._replace(band=True)),
    Place("train/(.+)", r"train/\1", "", LEARNING),
    Place("optimizer/learning_rate", "optimizer/learning_rate", "", LEARNING, UPWARDS),
    Place("optimizer/(.+)", r"optimizer/\1", "", LEARNING, SPREAD),
    Place("tokens/source/(.+)", "tokens by source", r"\1", LEARNING, UPWARDS),
    Place("epochs/source/(.+)", "epochs by source", r"\1", LEARNING, UPWARDS),
    Place(
        r"norms/([^/]+)/(.+)/(\d+)/(.+)", r"norms/\1: \2/\4", r"layer \3", NORMS, Frame(log=True)
    ),
    Place("norms/([^/]+)/(.+)", r"norms/\1: the rest", r"\2", NORMS, Frame(log=True)),
    Place(
        "throughput/tokens_per_s", "throughput/tokens_per_s", "", SPEED, UPWARDS._replace(band=True)
    ),
    Place("throughput/(mfu|hfu)", "throughput: share of the peak", r"\1", SPEED, UPWARDS),
    # The lookahead leaves time/step_s to the next line.
    Place("time/(?!step_s).+", "", "", NOWHERE),  # the stacked chart
    Place("time/step_s", "time/step_s", "", SPEED, SPREAD),
    Place("goodput/frac", "goodput/frac", "", SPEED, UPWARDS),
    Place(
        "goodput/.+|time|data/.+|hosts/slowest|checkpoint/failed", "", "", NOWHERE
    ),  # shown as text
    Place("memory/(.+)_bytes", "memory, GiB", r"\1", SPEED, UPWARDS, GIB),
    Place("hosts/(.+)_s", "hosts: seconds a step", r"\1", SPEED, Frame(log=True)),
    Place("checkpoint/(.+)_s", "checkpoint: seconds a save", r"\1", SPEED, UPWARDS),
    Place(
        "checkpoint/peak_host_bytes",
        "checkpoint: peak of host memory, GiB",
        "",
        SPEED,
        UPWARDS,
        GIB,
    ),
    Place("guard/(.+)", "guard: steps", r"\1", LEARNING, UPWARDS),
    Place("(.+)", r"\1", "", OTHER),
)
# Means over sources are drawn in the colour of text, apart from the sources' own colours.
SUMS = {"all": "var(--ink)", "macro": "var(--ink)", "micro": "var(--soft)"}
MANY = 8  # more curves than this are a sequence
PARTS = ("compute", "data_wait", "checkpoint", "evaluate", "restore")  # of the time: time/PART_s


def charts(columns: Mapping[str, Column], heading: str) -> list[str]:
    """The figures under a heading; a metric that was 0 throughout is not drawn."""
    # What was 0 throughout (skipped steps, failed saves) would be a flat line each.
    placed = [
        (*place_of(name), column) for name, column in columns.items() if np.any(column.values != 0)
    ]
    groups: dict[str, tuple[Place, dict[str, Column]]] = {}
    # By place, then by chart and curve: the page has one order, whatever order metrics came in.
    for i, chart, curve, column in sorted(placed, key=lambda each: each[:3]):
        if PLACES[i].heading == heading:
            place, of_chart = groups.setdefault(chart, (PLACES[i], {}))
            of_chart[curve] = Column(column.steps, column.values / place.unit)
    return [_figure(chart, place.frame, of_chart) for chart, (place, of_chart) in groups.items()]


def place_of(name: str) -> tuple[int, str, str]:
    """(number of the place, chart, curve) of a metric: `eval/web/loss` is the curve `web` of the chart
    `eval: loss`.
    """
    # The last pattern matches everything, so there always is one.
    i = next(i for i, place in enumerate(PLACES) if re.fullmatch(place.pattern, name))
    match = re.fullmatch(PLACES[i].pattern, name)
    return i, match.expand(PLACES[i].chart), match.expand(PLACES[i].curve)


def _figure(chart: str, frame: Frame, columns: Mapping[str, Column]) -> str:
    """A chart whose keys hold the newest values; only the first curve has its range behind it."""
    # many curves in one chart: fewer points each keep the page small
    limit = MAX_POINTS if len(columns) <= MANY else MAX_POINTS // 4
    curves = {name: thinned(column.steps, column.values, limit) for name, column in columns.items()}
    curves = {
        # Several bands over one another could not be read.
        name: curve if i == 0 else curve._replace(low=curve.y, high=curve.y)
        for i, (name, curve) in enumerate(curves.items())
    }

    # by name, so that a source has its colour in every chart
    colours = colours_of(list(columns))
    lasts = [value_text(column.last) for column in columns.values()]
    keys = [
        (f"{name} {last}", colour)
        for name, last, colour in zip(columns, lasts, colours, strict=True)
    ]
    # Of thirty layers the first and the last say enough.
    shown = [keys[0], keys[-1]] if _in_sequence(list(columns)) else keys
    return figure(chart, lasts[0] if len(lasts) == 1 else "", lines(curves, frame, colours), shown)


def colours_of(names: Sequence[str]) -> list[str]:
    """A colour a name: the same for the same sources in every chart, a sequence for many layers, the ink
    for what sums up the others.
    """
    if _in_sequence(names):
        return [
            # Mixed towards the card's background: the first layer is pale and the last one
            # strong.
            f"color-mix(in oklab, var(--line-1) {35 + 65 * i // max(len(names) - 1, 1)}%, var(--card))"
            for i in range(len(names))
        ]
    others = [name for name in names if name not in SUMS]
    if len(names) == 1:
        return [COLOURS[0]]
    return [
        SUMS[name] if name in SUMS else COLOURS[others.index(name) % len(COLOURS)] for name in names
    ]


def _in_sequence(names: Sequence[str]) -> bool:
    return len(names) > MANY or bool(re.fullmatch(r"layer \d+", names[-1]))


def time_split(columns: Mapping[str, Column]) -> str:
    """Where the time of a step goes. Neighbouring steps are drawn as one stretch, in which the seconds of a
    part are shared by all of its steps.
    """
    # Seconds of a part are written only at steps where it happened.
    written = {part: columns[f"time/{part}_s"] for part in PARTS if f"time/{part}_s" in columns}
    spent = {part: column for part, column in written.items() if np.nansum(column.values) > 0}
    if "compute" not in spent:
        return ""
    steps = spent["compute"].steps

    # at most 120 stretches: more are narrower than a pixel
    starts = np.linspace(0, len(steps), min(len(steps), 120) + 1).astype(int)[:-1]
    counts = np.diff(np.append(starts, len(steps)))
    layers = {}
    for part, column in spent.items():
        # Evaluations and saves are written at few steps; their seconds go to the stretch around them.
        stretch = np.clip(
            np.searchsorted(steps[starts], column.steps, side="right") - 1, 0, len(starts) - 1
        )
        layers[part] = np.bincount(stretch, np.nan_to_num(column.values), len(starts)) / counts
    ends = steps[np.append(starts[1:], len(steps)) - 1]
    means = [f"{part} {np.average(layer, weights=counts):.3g}" for part, layer in layers.items()]

    return figure(
        "seconds a step, by what they go to",
        "",
        stacked(ends, layers),
        list(zip(means, COLOURS, strict=False)),
    )
