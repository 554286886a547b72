"""`meshwright bench data`: every stage of the data phase on real text, beside a bound: the least work that
any program must do there.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from launch.bench.data.end_to_end import Whole, whole
from launch.bench.data.process_tree import cpu_s
from launch.bench.data.raw import raw_stages
from launch.bench.data.rows import row_stages
from launch.bench.data.sample import Sample, Stage, sample
from launch.bench.data.text import mb_of, text_stages
from launch.terminal.console import Console

# What a second worker adds can be seen on any laptop.
WORKERS = (1, 2)
STAGE_HEADS = ("stage", "speed", "from", "to", "unit", "bound", "of it")
RUN_HEADS = ("workers", "raw MB", "seconds", "MB/s", "CPU-seconds", "peak MB")


class Measured(NamedTuple):
    """A stage's speed in each round, in units a CPU-second: other work on the machine costs time, but hardly
    CPU-seconds.
    """

    stage: Stage
    speeds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median speed over the rounds."""
        return statistics.median(self.speeds)


def bench_data(args: argparse.Namespace) -> None:
    """Measure all stages and whole data phases; print tables, or with `args.json` one JSON object.

    Raises:
        ValueError: `args.mb` is not positive.
    """
    if args.mb <= 0:
        raise ValueError(f"--mb {args.mb:g}: must be more than 0; raise it")
    # With --json standard output must hold the JSON alone.
    console = Console(quiet=args.json)
    with tempfile.TemporaryDirectory(prefix="meshwright-bench-") as folder:
        taken = sample(args.web, Path(folder), n_bytes=round(args.mb * 1e6))
        console.say(described(taken))
        stages = [
            *raw_stages(taken, Path(folder) / "work"),
            *text_stages(taken, Path(folder)),
            *row_stages(taken, Path(folder)),
        ]
        measured = measure(stages, n_rounds=args.rounds)
        console.table("Stages, a CPU-second", STAGE_HEADS, rows(measured), text_columns=1)
        # Half of the files and all of them: the cost of starting cancels in the difference.
        runs = [
            whole(taken, Path(folder), workers=workers, n_files=n)
            for workers in WORKERS
            for n in (len(taken.files) // 2, None)
        ]
        console.table("The whole data phase", RUN_HEADS, [run_row(run) for run in runs])
        # runs is in the order (workers 1: half, all; workers 2: half, all).
        for half, full in (runs[:2], runs[2:]):
            rate = f"{beyond_start(half, full):,.0f} CPU-seconds a GB of raw HTML"
            console.say(f"{full.workers} worker(s): {rate} beyond the start")
        # runs[1] read all files; the number of workers does not change what is stored.
        console.say(f"stored, as shares of the raw bytes: {stored(runs[1])}")
    if args.json:
        print(json.dumps(as_json(taken, measured, runs), indent=1))


def described(taken: Sample) -> str:
    """The sample in one sentence."""
    text = f"{len(taken.pages):,} pages, {mb_of(taken.web):.1f} MB of text"
    pages = f"{taken.html_bytes / 1e6:.1f} MB of HTML ({text}) of {taken.origin}"
    code = f"{mb_of(taken.code):.1f} MB of code ({len(taken.code):,} files) of the standard library"
    return f"{pages}; {code}"


def measure(stages: Sequence[Stage], *, n_rounds: int) -> list[Measured]:
    """Every stage once to warm up, then in rounds, so that other work on the machine slows all alike."""
    seconds: dict[str, list[float]] = {stage.name: [] for stage in stages}
    for number in range(n_rounds + 1):
        for stage in stages:
            before = cpu_s()
            stage.work()
            if number:  # round 0 fills caches and imports
                # Not 0: the CPU clock may not have advanced during a stage of microseconds.
                seconds[stage.name].append(max(cpu_s() - before, 1e-9))
    return [
        Measured(stage, tuple(stage.amount / s for s in seconds[stage.name])) for stage in stages
    ]


def rows(measured: Sequence[Measured]) -> list[tuple[str, ...]]:
    """A row a stage: the median, the least and the highest speed, and the share of its bound."""
    medians = {each.stage.name: each.median for each in measured}
    table = []
    for stage, speeds in measured:
        speed = medians[stage.name]
        # A stage that is a bound itself names none, so `bound` is None.
        bound = medians.get(stage.bound)
        share = f"{speed / bound:.1%}" if bound else ""
        shown = [
            f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
            for number in (speed, min(speeds), max(speeds))
        ]
        table.append((stage.name, *shown, stage.unit, stage.bound if bound else stage.note, share))
    return table


def run_row(run: Whole) -> tuple[str, ...]:
    """A row of the table of whole data phases."""
    mb = run.raw_bytes / 1e6
    return (
        f"{run.workers}",
        f"{mb:.1f}",
        f"{run.wall_s:.1f}",
        f"{mb / run.wall_s:.2f}",
        f"{run.cpu_s:.1f}",
        f"{run.peak_bytes / 1e6:,.0f}",
    )


def beyond_start(half: Whole, full: Whole) -> float:
    """CPU-seconds a GB of more input: starting up costs the same for both."""
    return (full.cpu_s - half.cpu_s) / (full.raw_bytes - half.raw_bytes) * 1e9


def stored(run: Whole) -> str:
    """Bytes on disk by stage, as shares of the raw bytes."""
    return ", ".join(f"{name} {n / run.raw_bytes:.3f}" for name, n in run.stored_bytes.items())


def as_json(taken: Sample, measured: Sequence[Measured], runs: Sequence[Whole]) -> dict[str, Any]:
    """All figures with every round's speeds."""
    stages = {
        stage.name: {
            "unit": stage.unit,
            "median": statistics.median(speeds),
            "speeds": speeds,
            "bound": stage.bound,
        }
        for stage, speeds in measured
    }
    return {
        "measured_on": described(taken),
        "stages": stages,
        "whole": [run._asdict() for run in runs],
    }
