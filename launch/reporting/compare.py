"""The page that compares runs: what differs in their configurations, held-out metrics, the same curves of
all, speed. Phases are matched by name.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from data_pipeline.settings import flat
from launch.reporting.charts import COLOURS, Curve, Frame, lines, thinned, tick_text, value_text
from launch.reporting.curves import unit_of
from launch.reporting.health import counted, summed, verdict_cell
from launch.reporting.numbers import (
    held_out,
    hours,
    hours_so_far,
    less_is_better,
    recent,
    speed,
    throughput,
    tokens,
)
from launch.reporting.page import (
    Cell,
    comparison_header,
    figure,
    fold,
    grid,
    page,
    paragraph,
    section,
    table,
    titled,
)
from launch.reporting.record import Column, PhaseRecord, RunRecord
from launch.terminal.console import duration

WINDOW_FRAC = 0.02  # of the rows of a phase: what a training loss is smoothed over
FIELDS_SHOWN = 12  # before the others are folded away
MISSING = "–"

Phases = Mapping[str, PhaseRecord]  # name of a run -> its phase
Number = float | int


class Measure(NamedTuple):
    """A row of the table of speeds."""

    title: str
    of: Callable[[PhaseRecord], Number | None]
    text: Callable[[Number], str]
    less_is_better: bool | None  # None: neither more nor less is better


def comparison_page(runs: Sequence[RunRecord]) -> str:
    """The HTML document that compares runs, phase by phase."""
    # resolve: `.` has no name of its own.
    names = names_of([run.folder.resolve().parts for run in runs])
    phases = _by_phase(names, runs)
    differences = _differences(names, phases)
    body = [
        _header(names, runs),
        section("job-yaml", "What differs in their configurations", [differences]),
    ]
    for phase, of_runs in phases.items():
        trained = {name: each for name, each in of_runs.items() if each.trained}
        if trained:
            body.append(_phase(phase, names, trained))
    return page(f"{' · '.join(names)} · Meshwright", body)


def names_of(folders: Sequence[Sequence[str]]) -> list[str]:
    """The last parts of each path, as many as tell them apart. Raises ValueError when a run is given
    twice.
    """
    # runs/a and runs/b are `a` and `b`; a/tiny and b/tiny keep both parts.
    longest = max(map(len, folders))
    for n in range(1, longest + 1):
        names = ["/".join(parts[-n:]) for parts in folders]
        if len(set(names)) == len(names):
            return names
    raise ValueError("a run is given twice; name every run once")


def _by_phase(names: Sequence[str], runs: Sequence[RunRecord]) -> dict[str, dict[str, PhaseRecord]]:
    """Phase → run → record: a phase is compared between the runs that have it."""
    phases: dict[str, dict[str, PhaseRecord]] = {}
    for name, run in zip(names, runs, strict=True):
        for phase in run.phases:
            phases.setdefault(phase.name, {})[name] = phase
    return phases


def _colour(i: int) -> str:
    """Of run i, on the whole page; the colours begin again where there are more runs."""
    return COLOURS[i % len(COLOURS)]


def _header(names: Sequence[str], runs: Sequence[RunRecord]) -> str:
    """A row for each run: its health, its phases, and what went wrong."""
    problems: list[str] = []
    rows = []
    for name, run in zip(names, runs, strict=True):
        problems += [f"{name}: {line}" for line in run.problems]
        states = ", ".join(f"{phase.name} {phase.state}" for phase in run.phases)
        wrong = counted(summed(run.phases))
        health = verdict_cell(run.phases)
        rows.append((name, health, Cell(states, "wrap"), Cell(wrong, "wrap")))

    heads = ("run", "health", Cell("phases", "wrap"), Cell("what went wrong", "wrap"))
    runs_table = section("all-runs", "Runs", [table(heads, rows, n_text=4)])
    colours = [(name, _colour(i)) for i, name in enumerate(names)]
    return f"{comparison_header(colours, problems)}\n{runs_table}"


def _phase(phase: str, names: Sequence[str], of_runs: Phases) -> str:
    """One phase in all runs that have it."""
    numbers = _side_by_side(names, of_runs)
    training = _against_all("loss/train", names, of_runs, smooth=_smoothed)
    parts = [
        titled("Held out, at the end or by now (best in bold)", numbers),
        titled("Training loss, smoothed", grid(training)),
    ]
    for metric in _eval_losses(of_runs):
        curves = _against_all(metric, names, of_runs, smooth=_as_it_is)
        parts.append(titled(metric, grid(curves)))
    parts.append(titled("Speed", _speed(names, of_runs)))
    return section(phase, phase, parts)


def _side_by_side(names: Sequence[str], of_runs: Phases) -> str:
    numbers = {name: held_out(each) for name, each in of_runs.items()}
    # A dict keeps the order in which metrics were first seen, and each only once.
    metrics = dict.fromkeys(metric for of_run in numbers.values() for metric in of_run)
    rows = []
    for metric in metrics:
        values = []
        for name in names:
            _, now = numbers.get(name, {}).get(metric, (None, None))
            values.append(now)
        texts = [value_text(value) for value in values]
        rows.append((metric, *_best_marked(values, texts, less_is_better(metric))))
    return table(("metric", *names), rows)


def _best_marked(
    values: Sequence[Number | None], texts: Sequence[str], less: bool | None
) -> list[str | Cell]:
    """The texts, that of the best value in bold if there is something to choose."""
    # a run that diverged may have no finite value
    known = [value for value in values if value is not None and np.isfinite(value)]
    # Where all are equal, or nobody knows which way is better, nothing is marked.
    if less is None or len(set(known)) < 2:
        return list(texts)
    best_value = min(known) if less else max(known)
    best = texts[values.index(best_value)]
    return [Cell(text, "best") if text == best else text for text in texts]


def _eval_losses(of_runs: Phases) -> list[str]:
    """The loss over all held-out sets if there is one, else that of every set."""
    # A dict keeps the order in which metrics were first seen, and each only once.
    losses = dict.fromkeys(
        name
        for each in of_runs.values()
        for name in each.columns
        if name.startswith("eval/") and name.endswith("loss")
    )
    over_all_sets = [name for name in losses if name.startswith("eval/macro/")]
    return over_all_sets or list(losses)


def _against_all(
    metric: str,
    names: Sequence[str],
    of_runs: Phases,
    *,
    smooth: Callable[[np.ndarray], np.ndarray],
) -> Iterator[str]:
    """The metric of all runs against steps, tokens and hours."""
    # Steps favour large batches and hours fast machines: a reader needs all three.
    ways: dict[str, Callable[[PhaseRecord], Column | None]] = {
        "steps": _steps,
        "tokens": tokens,
        "hours": hours,
    }
    for unit, way in ways.items():
        curves: dict[str, Curve] = {}
        colours = []
        for i, name in enumerate(names):
            phase = of_runs.get(name)
            if phase is None or metric not in phase.columns:
                continue
            scale = way(phase)
            if scale is None:
                continue
            column = phase.columns[metric]
            # Interpolated, because tokens and hours were written at other steps than the metric.
            x = np.interp(column.steps, *scale)
            curves[name] = thinned(x, smooth(column.values))
            colours.append(_colour(i))
        if curves:
            # Of a loss, whose unit is that of all charts of the page.
            frame = Frame(crop=True, unit=unit_of(metric)[0], along=unit)
            yield _curves_figure(f"{metric} against {unit}", curves, colours, frame)


def _curves_figure(
    caption: str, curves: Mapping[str, Curve], colours: Sequence[str], frame: Frame
) -> str:
    """A chart of a curve a run; the key holds the newest value of each."""
    keys = []
    for (name, curve), colour in zip(curves.items(), colours, strict=True):
        last = value_text(float(curve.y[-1]))
        keys.append((f"{name} {last}", colour))
    return figure(caption, "", lines(curves, frame, colours), keys)


def _steps(phase: PhaseRecord) -> Column:
    # Two points define the line from step 0 to now: np.interp needs no more.
    end = max(phase.step, 1)
    return Column(np.array([0, end]), np.array([0.0, end]))


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Medians of the rows around each, which a spike does not bend."""
    # here, not above: its import takes a second, and every start of a run imports this module
    from scipy.ndimage import median_filter

    rows = np.arange(len(values))
    finite = np.isfinite(values)
    # NaN would spread to the medians around it, so it is bridged by straight lines first.
    bridged = np.interp(rows, rows[finite], values[finite]) if finite.any() else values
    window = max(1, round(len(values) * WINDOW_FRAC))
    # "nearest" repeats the end values, so that the curve does not bend there.
    return median_filter(bridged, size=window, mode="nearest")


def _as_it_is(values: np.ndarray) -> np.ndarray:
    return values


def _tokens_so_far(phase: PhaseRecord) -> float | None:
    column = tokens(phase)
    return None if column is None else column.last


def _goodput(phase: PhaseRecord) -> float | None:
    return phase.last("goodput/frac")


def _device_bytes(phase: PhaseRecord) -> float | None:
    return phase.last("memory/device_bytes")


def _step(phase: PhaseRecord) -> int:
    return phase.step


def _gib(n_bytes: Number) -> str:
    # GiB, as nvidia-smi and TPU data sheets count memory.
    return value_text(n_bytes / 2**30)


def _time(n_hours: Number) -> str:
    return duration(3600 * n_hours)


_percent = "{:.1%}".format
_mfu = partial(throughput, name="mfu")
_hfu = partial(throughput, name="hfu")
_flops_per_s = partial(throughput, name="flops_per_s")
_step_s = partial(recent, name="time/step_s")

# HFU counts recomputed products too, so more of it is no gain; a step may be long because it has many tokens.
MEASURES = (
    Measure("tokens/s", speed, value_text, less_is_better=False),
    Measure("FLOP/s", _flops_per_s, tick_text, less_is_better=False),
    Measure("MFU", _mfu, _percent, less_is_better=False),
    Measure("HFU", _hfu, _percent, less_is_better=None),
    Measure("seconds a step", _step_s, value_text, less_is_better=None),
    Measure("goodput", _goodput, _percent, less_is_better=False),
    Measure("steps", _step, value_text, less_is_better=None),
    Measure("tokens", _tokens_so_far, value_text, less_is_better=None),
    Measure("time in steps", hours_so_far, _time, less_is_better=None),
    Measure("device memory, GiB", _device_bytes, _gib, less_is_better=None),
)


def _speed(names: Sequence[str], of_runs: Phases) -> str:
    """A row a measure of speed or length; the best value is marked where more, or less, is better."""
    rows = []
    for measure in MEASURES:
        values = [measure.of(of_runs[name]) if name in of_runs else None for name in names]
        if all(value is None for value in values):
            continue
        texts = [MISSING if value is None else measure.text(value) for value in values]
        cells = _best_marked(values, texts, measure.less_is_better)
        rows.append((measure.title, *cells))
    return table(("", *names), rows)


def _differences(names: Sequence[str], phases: Mapping[str, Phases]) -> str:
    """A row a field of job.yaml whose value is not the same in all runs that have the phase."""
    rows = []
    for phase, of_runs in phases.items():
        fields = {name: flat(each.config) for name, each in of_runs.items()}
        # A dict keeps the order of the fields, and each only once.
        for field in dict.fromkeys(field for of_run in fields.values() for field in of_run):
            # A field that only one run has differs too, and is a dash in the others.
            values = {name: str(of_run.get(field, MISSING)) for name, of_run in fields.items()}
            if len(set(values.values())) > 1:
                # A run without this phase has a dash too, which is no difference of its own.
                cells = [Cell(values.get(name, MISSING), "wrap") for name in names]
                rows.append((f"{phase}.{field}", *cells))
    if not rows:
        return paragraph("Nothing.")

    heads = ("field", *(Cell(name, "wrap") for name in names))
    first = table(heads, rows[:FIELDS_SHOWN], n_text=len(heads))
    others = table(heads, rows[FIELDS_SHOWN:], n_text=len(heads))
    return first + fold(f"{len(rows) - FIELDS_SHOWN} more fields", others)
