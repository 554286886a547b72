"""The page of one run: five answers first, then every phase."""

import math
import shlex
import time
from collections.abc import Sequence

from launch.reporting.charts import value_text
from launch.reporting.data import data_section
from launch.reporting.health import clock, counted, incidents, summed, verdict_cell
from launch.reporting.numbers import held_out, hours, less_is_better, recent, speed
from launch.reporting.page import Cell, fold, literal, page, run_header, section, table, tile
from launch.reporting.phase import phase_section
from launch.reporting.record import PhaseRecord, RunRecord
from launch.terminal.console import duration

FIRST = ("bits_per_byte", "loss")  # what a first look asks for


def run_page(run: RunRecord) -> str:
    """The HTML document of one run: the first screen, every phase, the configuration."""
    comparison = section(
        "before-after", "Before and after, on held-out data", [held_out_table(run.phases)]
    )
    # A data phase is known by its results: it says what was kept.
    data = [
        data_section(phase.name, phase.results) for phase in run.phases if "kept" in phase.results
    ]
    phases = [phase_section(phase) for phase in run.phases if "kept" not in phase.results]
    body = [_header(run), _phases(run.phases), comparison, *data, *phases, _configuration(run)]
    return page(f"{run.name} · Meshwright", [part for part in body if part])


def _header(run: RunRecord) -> str:
    argv = run.launch.get("argv", ["run", str(run.folder / "job.yaml")])
    versions = [
        f"{name} {version}" for name, version in run.launch.items() if name not in ("time", "argv")
    ]
    return run_header(
        name=run.name,
        command=shlex.join(["meshwright", *map(str, argv)]),
        made=f"{', '.join(versions)} · page of {clock(time.time())} UTC",
        problems=run.problems,
        phases=[(phase.name, phase.state) for phase in run.phases],
        tiles=_tiles(run.phases),
    )


def _tiles(phases: Sequence[PhaseRecord]) -> list[str]:
    """The first screen: is it healthy and what went wrong, how far, how good, how fast."""
    health = verdict_cell(phases)
    wrong = counted(summed(phases))
    trained = [phase for phase in phases if phase.trained]
    n_done = sum(phase.done for phase in phases)
    far = f"{n_done} of {len(phases)} phases done"
    # A run that has not begun is neither healthy nor ill.
    has_begun = bool(health.mark)
    note = (wrong or "nothing went wrong") if has_begun else ""
    tiles = [tile("Health", health.text, note, health.mark)]
    if not trained:
        return [*tiles, tile("How far", far, "")]
    now = trained[-1]  # the phase under way, or the last one
    value, note = (far, "") if now.done else _progress(now, far)
    tiles.append(tile("How far", value, note))
    tiles.append(tile("How good", *_quality(now)))
    tiles.append(tile("How fast", value_text(speed(now)), f"tokens/s; {_efficiency(now)}"))

    return tiles


def _progress(phase: PhaseRecord, far: str) -> tuple[str, str]:
    """The share of a phase's steps, and the time left at the present speed."""
    steps = phase.config.get("steps")
    step_s = recent(phase, "time/step_s")
    seen = f"{far}; last row at {clock(phase.last('time'))} UTC"
    if not isinstance(steps, int) or steps < 1:
        return f"step {phase.step:,}", f"of {phase.name}; {seen}"
    left = f", about {duration((steps - phase.step) * step_s)} left" if step_s is not None else ""
    return (
        f"{phase.step / steps:.0%}",
        f"step {phase.step:,} of {steps:,} of {phase.name}{left}; {seen}",
    )


def _quality(phase: PhaseRecord) -> tuple[str, str]:
    """The metric that is asked for first: of all sets together, or of the first; then of every set."""
    numbers = {
        tuple(name.split("/", 1)): pair for name, pair in held_out(phase).items()
    }  # (set, metric)
    if not numbers:
        return value_text(
            phase.last("loss/train")
        ), f"loss/train of {phase.name}; no held-out numbers yet"
    metrics = [key[-1] for key in numbers]
    losses = [metric for metric in metrics if metric.endswith("loss")]
    # Bits per byte before loss: it compares runs with different tokenizers.
    # From what a person asks first to whatever there is, so that one always exists.
    wanted = next(metric for metric in (*FIRST, *losses, *metrics) if metric in metrics)
    by_set = {key[0]: pair for key, pair in numbers.items() if key[-1] == wanted}
    first = "macro" if "macro" in by_set else next(iter(by_set))  # macro: the mean over all sets
    before, now = by_set.pop(first)
    others = [f"{name} {value_text(value)}" for name, (_, value) in by_set.items()]
    return value_text(now), ", ".join(
        [f"{first}/{wanted} of {phase.name}, held out; {value_text(before)} before", *others]
    )


def _efficiency(phase: PhaseRecord) -> str:
    shares = {
        "MFU": recent(phase, "throughput/mfu"),
        "HFU": recent(phase, "throughput/hfu"),
        "goodput": phase.last("goodput/frac"),
    }
    shown = [
        f"{name} {share:.1%}"
        for name, share in shares.items()
        if share is not None and math.isfinite(share)
    ]
    return ", ".join([*shown, f"{value_text(recent(phase, 'time/step_s'))} s a step"])


def _phases(phases: Sequence[PhaseRecord]) -> str:
    """A row a phase: health, time, speed, and what went wrong."""
    rows = []
    for phase in phases:
        mfu = recent(phase, "throughput/mfu")
        useful = phase.last("goodput/frac")
        spent = hours(phase)
        rows.append(
            (
                phase.name,
                verdict_cell([phase]),
                phase.state,
                duration(3600 * spent.last) if spent else "",
                value_text(speed(phase)) if phase.trained else "",
                f"{mfu:.1%}" if mfu is not None else "",
                f"{useful:.1%}" if useful is not None else "",
                Cell(counted(incidents(phase)), "wrap"),
            )
        )
    heads = (
        "phase",
        "health",
        "state",
        "time",
        "tokens/s",
        "MFU",
        "goodput",
        Cell("what went wrong", "wrap"),
    )
    return section("all-phases", "Phases", [table(heads, rows, n_text=3)])


def held_out_table(phases: Sequence[PhaseRecord]) -> str:
    """Every held-out metric of every phase; the last cell says by colour whether it became better."""
    rows = [
        (
            phase.name,
            metric,
            value_text(before),
            value_text(now),
            Cell(_change(before, now), _mark(metric, before, now)),
        )
        for phase in phases
        for metric, (before, now) in held_out(phase).items()
    ]
    return table(("phase", "metric", "before", "after", "change"), rows, n_text=2)


def _change(before: float | None, now: float) -> str:
    return "" if before is None else f"{now - before:+.3g}"


def _mark(metric: str, before: float | None, now: float) -> str:
    less = less_is_better(metric)
    if less is None or before is None or now == before:
        return ""
    # Better is lower for a loss and higher for an accuracy.
    return "good" if (now < before) == less else "bad"


def _configuration(run: RunRecord) -> str:
    job = run.folder / "job.yaml"
    if not job.exists():
        return ""
    text = job.read_text(encoding="utf-8", errors="replace")
    return section("job-yaml", "Configuration", [fold("job.yaml", literal(text))])
