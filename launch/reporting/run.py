"""The page of one run: five answers first, then every phase."""

import math
import shlex
import time
from collections.abc import Sequence

from launch.reporting.charts import tick_text, value_text
from launch.reporting.data import data_section
from launch.reporting.health import clock, counted, incidents, summed, verdict_cell
from launch.reporting.numbers import (
    held_out,
    hours_so_far,
    less_is_better,
    recent,
    speed,
    throughput,
)
from launch.reporting.page import Cell, fold, literal, page, run_header, section, table, tile
from launch.reporting.phase import phase_section
from launch.reporting.record import PhaseRecord, RunRecord
from launch.terminal.console import duration, even
from launch.terminal.summary import before_after

# What a first look asks for. Preferences first: their phases report a loss of text too, which is not what
# they train. Bits per byte before loss, since it compares runs with different tokenizers.
FIRST = ("rewards/accuracies", "bits_per_byte", "accuracy", "loss")


def run_page(run: RunRecord) -> str:
    """The HTML document of one run: the first screen, every phase, the configuration."""
    # Data first: it is what all other phases were trained on.
    data = []
    trained = []
    for phase in run.phases:
        # A data phase is known by its results: it says what was kept.
        if "kept" in phase.results:
            data.append(data_section(phase.name, phase.results))
        else:
            trained.append(phase_section(phase))

    before_after = held_out_table(run.phases)
    body = [
        _header(run),
        _phases(run.phases),
        section("before-after", "Before and after, on held-out data", [before_after]),
        *data,
        *trained,
        _configuration(run),
    ]
    return page(f"{run.name} · Meshwright", [part for part in body if part])


def _header(run: RunRecord) -> str:
    # A run that was started before launches were recorded can be started again from its job.yaml.
    argv = run.launch.get("argv", ["run", str(run.folder / "job.yaml")])
    command = ["meshwright", *map(str, argv)]
    versions = []
    for name, version in run.launch.items():
        # The folder in which the command was typed says nothing to another reader.
        if name not in ("time", "argv", "folder"):
            versions.append(f"{name} {version}")
    return run_header(
        name=run.name,
        command=shlex.join(command),
        made=f"{', '.join(versions)} · page of {clock(time.time())} UTC",
        problems=run.problems,
        phases=[(phase.name, phase.state) for phase in run.phases],
        tiles=_tiles(run.phases),
    )


def _tiles(phases: Sequence[PhaseRecord]) -> list[str]:
    """The first screen: is it healthy and what went wrong, how far, how good, how fast."""
    n_done = sum(phase.done for phase in phases)
    plural = "" if len(phases) == 1 else "s"
    far = f"{n_done} of {len(phases)} phase{plural} done"
    trained = [phase for phase in phases if phase.trained]
    if not trained:
        return [_health_tile(phases), tile("How far", far, "")]

    now = trained[-1]  # the phase under way, or the last one
    progress, progress_note = (far, "") if now.done else _progress(now, far)
    # Of a finished run the phase that took longest: its speed is what decides the whole.
    timed = max(trained, key=lambda phase: hours_so_far(phase) or 0.0) if now.done else now
    rate = value_text(speed(timed))
    return [
        _health_tile(phases),
        tile("How far", progress, progress_note),
        tile("How fast", rate, f"tokens/s in {timed.name}; {_efficiency(timed)}"),
        # Of every phase: the last one may have made worse what an earlier one is for.
        *(_quality_tile(phase) for phase in trained),
    ]


def _health_tile(phases: Sequence[PhaseRecord]) -> str:
    health = verdict_cell(phases)
    note = ""
    # A run that has not begun is neither healthy nor ill.
    has_begun = bool(health.mark)
    if has_begun:
        note = counted(summed(phases)) or "nothing went wrong"
    return tile("Health", health.text, note, health.mark)


def _progress(phase: PhaseRecord, far: str) -> tuple[str, str]:
    """The share of a phase's steps, and the time left at the present speed."""
    steps = phase.config.get("steps")
    last_row = clock(phase.last("time"))
    seen = f"{far}; last row at {last_row} UTC"
    # The configuration is as the user wrote it: it may lack the field, or hold anything in it.
    if not isinstance(steps, int) or steps < 1:
        return f"step {phase.step:,}", f"of {phase.name}; {seen}"

    step_s = recent(phase, "time/step_s")
    left = ""
    if step_s is not None:
        left_s = (steps - phase.step) * step_s
        left = f", about {duration(left_s)} left"
    share = f"{phase.step / steps:.0%}"
    return share, f"step {phase.step:,} of {steps:,} of {phase.name}{left}; {seen}"


def _quality_tile(phase: PhaseRecord) -> str:
    """The held-out metric that is asked for first: of all sets together, or of the first, then of every
    set.
    """
    title = f"How good: {phase.name}"
    numbers = held_out(phase)
    if not numbers:
        loss = value_text(phase.last("loss/train"))
        return tile(title, loss, "training loss; no held-out numbers yet")

    wanted = _main_metric(list(numbers))
    by_set = {name: pair for name, pair in numbers.items() if f"/{name}".endswith(f"/{wanted}")}
    # macro: the mean over all sets
    first = next((name for name in by_set if "macro/" in name), next(iter(by_set)))
    before, now = by_set.pop(first)
    then, value, change = before_after(before, now)
    notes = [f"{first}, held out"]
    if then:
        notes = [f"{first}, held out; {then} before, {change}"]
    others = even(*(value for _, value in by_set.values()))
    for name, text in zip(by_set, others, strict=True):
        # Without the metric, which all of them share.
        notes.append(f"{name.removesuffix(wanted).rstrip('/')} {text}")
    return tile(title, value, ", ".join(notes), _mark(first, before, now))


def _main_metric(names: Sequence[str]) -> str:
    """What a person asks of a phase first, without the name of the set; a name of `names` if none is
    known.
    """
    for wanted in FIRST:
        if any(f"/{name}".endswith(f"/{wanted}") for name in names):
            return wanted
    losses = [name for name in names if name.endswith("loss")]
    return [*losses, *names][0]


def _efficiency(phase: PhaseRecord) -> str:
    shares = {
        "MFU": throughput(phase, "mfu"),
        "HFU": throughput(phase, "hfu"),
        "goodput": phase.last("goodput/frac"),
    }
    flops_per_s = throughput(phase, "flops_per_s")
    shown = []
    if flops_per_s is not None:
        # `28.11G`: the letter belongs to the unit.
        text = tick_text(flops_per_s)
        digits = text.rstrip("kMGTP")
        shown.append(f"{digits}\N{NO-BREAK SPACE}{text.removeprefix(digits)}FLOP/s")
    for name, share in shares.items():
        if share is not None and math.isfinite(share):
            shown.append(f"{name} {share:.1%}")
    step_s = value_text(recent(phase, "time/step_s"))
    return ", ".join([*shown, f"{step_s} s a step"])


def _phases(phases: Sequence[PhaseRecord]) -> str:
    """A row a phase: health, time, speed, and what went wrong."""
    heads = (
        "phase",
        "health",
        "state",
        "time",
        "tokens/s",
        "FLOP/s",
        "MFU",
        "goodput",
        Cell("what went wrong", "wrap"),
    )
    rows = [_phase_row(phase) for phase in phases]
    return section("all-phases", "Phases", [table(heads, rows, n_text=3)])


def _phase_row(phase: PhaseRecord) -> tuple[str | Cell, ...]:
    spent = hours_so_far(phase)
    wrong = counted(incidents(phase))
    mfu = throughput(phase, "mfu")
    flops_per_s = throughput(phase, "flops_per_s")
    useful = phase.last("goodput/frac")
    return (
        phase.name,
        verdict_cell([phase]),
        phase.state,
        "" if spent is None else duration(3600 * spent),
        # A data phase has no speed in tokens.
        value_text(speed(phase)) if phase.trained else "",
        "" if flops_per_s is None else tick_text(flops_per_s),
        _percent(mfu),
        _percent(useful),
        Cell(wrong, "wrap"),
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def held_out_table(phases: Sequence[PhaseRecord]) -> str:
    """Every held-out metric of every phase; the last cell says by colour whether it became better."""
    rows = []
    for phase in phases:
        for metric, (before, now) in held_out(phase).items():
            then, value, change = before_after(before, now)
            marked = Cell(change, _mark(metric, before, now))
            rows.append((phase.name, metric, then, value, marked))
    return table(("phase", "metric", "before", "after", "change"), rows, n_text=2)


def _mark(metric: str, before: float | None, now: float) -> str:
    less = less_is_better(metric)
    if less is None or before is None or now == before:
        return ""
    # Better is lower for a loss and higher for an accuracy.
    became_less = now < before
    return "good" if became_less == less else "bad"


def _configuration(run: RunRecord) -> str:
    job = run.folder / "job.yaml"
    if not job.exists():
        return ""
    # replace: a page is written whatever a user's editor left in the file
    text = job.read_text(encoding="utf-8", errors="replace")
    folded = fold("job.yaml", literal(text))
    return section("job-yaml", "Configuration", [folded])
