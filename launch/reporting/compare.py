"""The page that compares runs: what differs, how good each became, the same curves of all, speed. Phases
are matched by name.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.ndimage import median_filter

from launch.reporting.charts import COLOURS, Frame, lines, thinned, value_text
from launch.reporting.health import counted, summed, verdict_cell
from launch.reporting.numbers import held_out, hours, less_is_better, recent, speed, tokens
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

Phases = Mapping[str, PhaseRecord]  # name of a run -> its phase


def comparison_page(runs: Sequence[RunRecord]) -> str:
    """The HTML document that compares runs, phase by phase."""
    # resolve: `.` has no name of its own.
    names = names_of([run.folder.resolve().parts for run in runs])

    # phase -> run -> record: a phase is compared between the runs that have it
    phases: dict[str, dict[str, PhaseRecord]] = {}
    for name, run in zip(names, runs, strict=True):
        for phase in run.phases:
            phases.setdefault(phase.name, {})[name] = phase
    trained = {
        phase: {name: each for name, each in found.items() if each.trained}
        for phase, found in phases.items()
    }
    body = [
        _header(names, runs),
        section("job-yaml", "What differs in their configurations", [_differences(names, phases)]),
        *(_phase(phase, names, found) for phase, found in trained.items() if found),
    ]
    return page(f"{' · '.join(names)} · Meshwright", body)


def names_of(folders: Sequence[Sequence[str]]) -> list[str]:
    """The last parts of each path, as many as tell them apart. Raises ValueError when a run is given
    twice.
    """
    # runs/a and runs/b are `a` and `b`; a/tiny and b/tiny keep both parts.
    for n in range(1, max(map(len, folders)) + 1):
        names = ["/".join(parts[-n:]) for parts in folders]
        if len(set(names)) == len(names):
            return names
    raise ValueError("a run is given twice; name every run once")


def _header(names: Sequence[str], runs: Sequence[RunRecord]) -> str:
    """A row a run: how far and how healthy."""
    problems, rows = [], []
    for name, run in zip(names, runs, strict=True):
        problems += [f"{name}: {line}" for line in run.problems]
        states = ", ".join(f"{phase.name} {phase.state}" for phase in run.phases)
        wrong = counted(summed(run.phases))
        rows.append((name, verdict_cell(run.phases), Cell(states, "wrap"), Cell(wrong, "wrap")))
    heads = ("run", "health", Cell("phases", "wrap"), Cell("what went wrong", "wrap"))
    # COLOURS is used again from the start where there are more runs than colours.
    # A run has one colour on the whole page.
    colours = [(name, COLOURS[i % len(COLOURS)]) for i, name in enumerate(names)]
    runs_table = section("all-runs", "Runs", [table(heads, rows, n_text=4)])
    return f"{comparison_header(colours, problems)}\n{runs_table}"


def _phase(phase: str, names: Sequence[str], found: Phases) -> str:
    """One phase in all runs that have it."""
    parts = [
        titled("Held out, at the end or by now (best in bold)", _side_by_side(names, found)),
        titled(
            "Training loss, smoothed",
            grid(_against_all("loss/train", names, found, smooth=_smoothed)),
        ),
        *(
            titled(metric, grid(_against_all(metric, names, found, smooth=_as_it_is)))
            for metric in _eval_losses(found)
        ),
        titled("Speed", _speed(names, found)),
    ]
    return section(phase, phase, parts)


def _side_by_side(names: Sequence[str], found: Phases) -> str:
    numbers = {name: held_out(each) for name, each in found.items()}
    rows = []
    for metric in dict.fromkeys(metric for of_run in numbers.values() for metric in of_run):
        values = [numbers.get(name, {}).get(metric, (None, None))[1] for name in names]
        rows.append(
            (
                metric,
                *_best_marked(
                    values, [value_text(value) for value in values], less_is_better(metric)
                ),
            )
        )
    return table(("metric", *names), rows)


def _best_marked(
    values: Sequence[float | int | None], texts: Sequence[str], less: bool | None
) -> list[str | Cell]:
    """The texts, that of the best value in bold if there is something to choose."""
    # a run that diverged may have no finite value
    known = [value for value in values if value is not None and np.isfinite(value)]
    # Where all are equal, or nobody knows which way is better, nothing is marked.
    if less is None or len(set(known)) < 2:
        return list(texts)
    best = texts[values.index(min(known) if less else max(known))]
    return [Cell(text, "best") if text == best else text for text in texts]


def _eval_losses(found: Phases) -> list[str]:
    """The loss over all held-out sets if there is one, else that of every set."""
    names = dict.fromkeys(
        name
        for each in found.values()
        for name in each.columns
        if name.startswith("eval/") and name.endswith("loss")
    )
    return [name for name in names if name.startswith("eval/macro/")] or list(names)


def _against_all(
    metric: str, names: Sequence[str], found: Phases, *, smooth: Callable[[np.ndarray], np.ndarray]
) -> Iterator[str]:
    """The metric of all runs against steps, tokens and hours."""
    # the same training looks different per step, per token and per hour
    ways: dict[str, Callable[[PhaseRecord], Column | None]] = {
        "steps": _steps,
        "tokens": tokens,
        "hours": hours,
    }
    # Steps favour large batches and hours fast machines: a reader needs all three.
    for unit, way in ways.items():
        curves, colours = {}, []
        for i, name in enumerate(names):
            # the colour of a run is the same in all charts, also where others are missing
            measure = way(found[name]) if name in found and metric in found[name].columns else None
            if measure is not None:
                column = found[name].columns[metric]
                # The metric's steps as tokens or hours, which were written at other steps.
                curves[name] = thinned(np.interp(column.steps, *measure), smooth(column.values))
                colours.append(COLOURS[i % len(COLOURS)])
        if curves:
            keys = [
                (f"{name} {value_text(float(curve.y[-1]))}", colour)
                for (name, curve), colour in zip(curves.items(), colours, strict=True)
            ]
            yield figure(
                f"{metric} against {unit}", "", lines(curves, Frame(crop=True), colours), keys
            )


def _steps(phase: PhaseRecord) -> Column:
    # Two points define the line from step 0 to now: np.interp needs no more.
    return Column(np.array([0, max(phase.step, 1)]), np.array([0.0, max(phase.step, 1)]))


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Medians of the rows around each, which a spike does not bend."""
    rows = np.arange(len(values))
    finite = np.isfinite(values)
    # a median of values with NaN among them would be NaN: they are bridged by straight lines first
    bridged = np.interp(rows, rows[finite], values[finite]) if finite.any() else values
    # "nearest" repeats the end values, so that the curve does not bend there.
    return median_filter(bridged, size=max(1, round(len(values) * WINDOW_FRAC)), mode="nearest")


def _as_it_is(values: np.ndarray) -> np.ndarray:
    return values


def _speed(names: Sequence[str], found: Phases) -> str:
    """A row a measure of speed or length; the best value is marked where more, or less, is better."""
    # The flag says whether less is better; None: neither is.
    measures: dict[
        str, tuple[Callable[[PhaseRecord], float | int | None], Callable[[float], str], bool | None]
    ] = {
        "tokens/s": (speed, value_text, False),
        "MFU": (lambda each: recent(each, "throughput/mfu"), "{:.1%}".format, False),
        "HFU": (lambda each: recent(each, "throughput/hfu"), "{:.1%}".format, None),
        "seconds a step": (lambda each: recent(each, "time/step_s"), value_text, None),
        "goodput": (lambda each: each.last("goodput/frac"), "{:.1%}".format, False),
        "steps": (lambda each: each.step, value_text, None),
        "tokens": (lambda each: _end(tokens(each)), value_text, None),
        "time in steps": (
            lambda each: _end(hours(each)),
            lambda value: duration(3600 * value),
            None,
        ),
        "device memory, GiB": (
            lambda each: each.last("memory/device_bytes"),
            # GiB, as nvidia-smi and TPU data sheets count memory.
            lambda value: value_text(value / 2**30),
            None,
        ),
    }
    rows = []
    for title, (measure, text, less) in measures.items():
        values = [measure(found[name]) if name in found else None for name in names]
        if any(value is not None for value in values):
            rows.append(
                (
                    title,
                    *_best_marked(
                        values, ["–" if value is None else text(value) for value in values], less
                    ),
                )
            )
    return table(("", *names), rows)


def _end(column: Column | None) -> float | None:
    return None if column is None else column.last


def _differences(names: Sequence[str], phases: Mapping[str, Phases]) -> str:
    """A row a field of job.yaml whose value is not the same in all runs that have the phase."""
    rows = []
    for phase, found in phases.items():
        # A field that only one run has differs too, and is shown as a dash in the others.
        fields = {name: dict(flat(each.config)) for name, each in found.items()}
        for field in dict.fromkeys(field for of_run in fields.values() for field in of_run):
            # a field that a run does not have counts as different
            values = [fields[name].get(field, "–") if name in fields else "–" for name in names]
            if len({fields[name].get(field, "–") for name in fields}) > 1:
                rows.append((f"{phase}.{field}", *(Cell(value, "wrap") for value in values)))
    if not rows:
        return paragraph("Nothing.")
    heads = ("field", *(Cell(name, "wrap") for name in names))
    first = table(heads, rows[:FIELDS_SHOWN], n_text=len(heads))
    others = table(heads, rows[FIELDS_SHOWN:], n_text=len(heads))

    return first + fold(f"{len(rows) - FIELDS_SHOWN} more fields", others)


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """`{rule: {type: AdamW}}` as `rule.type`, `AdamW`; a list counts its places."""
    if isinstance(value, Mapping | list) and value:
        for key, each in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from flat(each, f"{prefix}.{key}" if prefix else str(key))
    elif prefix:
        yield prefix, str(value)
