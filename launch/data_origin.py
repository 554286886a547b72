"""`meshwright data at` and `data seen`: which documents a step reads, and which steps have read a document."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.streaming.provenance import steps_of
from data_pipeline.streaming.sequence import RowSequence
from launch.console import Console
from launch.job import Job, import_components, load

N_STEPS = 20  # named of a document


class Trained(NamedTuple):
    """A phase that reads shards, and how far it has come.

    Attributes:
        name: Of the phase.
        rows: Its rows.
        batch_size: Rows a step.
        consumed: Rows gone through, as the newest checkpoint says.
        skipped: Windows [first, stop) of rows that were left out, in order.
    """

    name: str
    rows: RowSequence
    batch_size: int
    consumed: int
    skipped: tuple[tuple[int, int], ...]

    def steps_to(self, row: int) -> int:
        """Whole steps that lie before a row, which is behind all skipped ones."""
        return (row - sum(stop - first for first, stop in self.skipped)) // self.batch_size

    def rows_of(self, step: int) -> range:
        """The rows of a step, from 1; the batch size is taken to have been the same all the time, as `steps_of` does."""
        first = (step - 1) * self.batch_size
        for start, stop in self.skipped:
            first += (stop - start) * (start <= first)
        return range(first, first + self.batch_size)


def at(args: argparse.Namespace) -> None:
    """Print a line a piece of a row."""
    if args.step < 1:
        raise ValueError(f"--step {args.step}: steps count from 1; give one from there")
    (phase,) = opened(args.run, [args.phase], args.imports)
    numbers = phase.rows_of(args.step)
    if phase.rows.n_rows is not None and numbers.stop > phase.rows.n_rows:
        last = phase.steps_to(phase.rows.n_rows)
        raise ValueError(f"--step {args.step}: {args.phase} ends after {last} steps, its data is used up; give one up to there")
    found = [(number, origin) for number in numbers for origin in phase.rows.origins(number)]
    rows = [(f"{number}", o.source, o.document, f"{o.start:,}", f"{o.stop:,}", f"{o.epoch + 1}") for number, o in found]
    title = f"{args.run / args.phase}, step {args.step}: rows {numbers.start:,} to {numbers.stop - 1:,}"
    Console().table(title, ("row", "source", "document", "from token", "to", "epoch"), rows, text_columns=3)


def seen(args: argparse.Namespace) -> None:
    """Print a line a phase and source."""
    wanted, known = [args.phase] if args.phase else None, False
    for phase in opened(args.run, wanted, args.imports):
        for source, rows in phase.rows.sources.items():
            if not rows.shards.find(args.document):
                continue
            known = True
            steps = steps_of(phase.rows.rows_of(source, args.document, phase.consumed), phase.batch_size, phase.skipped)
            print(f"{phase.name}: {source} document {args.document} {told(steps, phase.steps_to(phase.consumed))}", flush=True)
    if not known:
        raise ValueError(f"{args.document}: no such document in what the phases of {args.run} train on; `meshwright data at` shows ids")


def told(steps: Sequence[int], n_steps: int) -> str:
    """In words, when a document was read."""
    if not steps:
        return f"was in none of the first {n_steps:,} steps"
    more = f" and {len(steps) - N_STEPS:,} more" if len(steps) > N_STEPS else ""
    return f"was in {len(steps):,} of {n_steps:,} steps: " + ", ".join(map(str, steps[:N_STEPS])) + more


def opened(run: Path, names: Sequence[str] | None, imports: Sequence[str]) -> list[Trained]:
    """The phases `names` of a run, or all that read shards.

    Raises:
        ValueError: there is no such run or phase.
    """
    for module in imports:
        import_components(module)
    if not (run / "job.yaml").is_file():
        raise ValueError(f"{run} is no folder of a run (job.yaml is missing); give one such as runs/tiny")
    job = load(str(run / "job.yaml"))
    reading = [name for name, phase in job.phases.items() if hasattr(getattr(phase, "data", None), "sources")]
    if unknown := [name for name in names or () if name not in reading]:
        raise ValueError(f"--phase {unknown[0]}: {run} has no such phase that reads shards; choose of {', '.join(reading)}")
    return [_opened(run, job, name) for name in names or reading]


def _opened(run: Path, job: Job, name: str) -> Trained:
    phase = job.phases[name]
    data = phase.data
    position = position_of(run / name)
    rows = RowSequence(data.sources(run), data.weights, phase.seed, data.schedule)
    return Trained(name, rows, data.batch_size, position["rows"], tuple((first, stop) for first, stop in position["skipped"]))


def position_of(folder: Path) -> dict[str, Any]:
    """Where a phase stands in its data, as the newest checkpoint says."""
    files = [file for file in folder.glob("checkpoints/*/position/metadata") if file.parents[1].name.isdecimal()]
    newest = max(files, key=lambda file: int(file.parents[1].name), default=None)
    return json.loads(newest.read_bytes()) if newest else {"rows": 0, "skipped": []}
