"""`meshwright data at` and `data seen`: which documents a step reads, past or future, and which steps have
read a document.
"""

import argparse
import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.loader import ShardData
from data_pipeline.rows.provenance import Origin, steps_of
from data_pipeline.rows.sequence import RowSequence
from data_pipeline.tokenizers.tokenizer import Tokenizer
from launch.job.load import import_components, load
from launch.shards.inspect import marked
from launch.terminal.console import Console
from trainer.replay.history import RowHistory, history_of
from trainer.run import Run

N_STEPS = 20  # steps of a document that are printed


class Trained(NamedTuple):
    """A phase that reads shards, and how far it has come."""

    name: str
    run: Run
    rows: RowSequence
    past: RowHistory

    def n_steps(self) -> int | None:
        """How many steps the data is enough for; None: without end, because epochs are repeated."""
        n_rows = self.rows.n_rows
        if n_rows is None:
            return None
        steps = range(1, n_rows + 1)
        # rows_of rises with the step. The index of the first step whose last row is beyond the
        # data is the number of steps before it.
        return bisect_left(steps, n_rows, key=lambda step: self.past.rows_of(step)[-1])


class Span(NamedTuple):
    """A part of a row: where it comes from, and its tokens as the step reads them; no tokens where the
    record is damaged and left out.
    """

    row: int
    origin: Origin
    tokens: list[int]


def at(args: argparse.Namespace) -> None:
    """Print a table of the spans of a step's rows, or their text, or all of it as JSON."""
    phase = opened(run_of(args), *named_phase(args))
    spans = list(spans_of(phase, args.step))
    tokenizer = Tokenizer(run_of(args) / phase.run.tokenizer) if args.text else None
    if args.json:
        record = {
            "phase": phase.name,
            "step": args.step,
            "rows": phase.past.rows_of(args.step),
            "spans": [_described(span, tokenizer) for span in spans],
        }
        print(json.dumps(record), flush=True)
    elif tokenizer:
        for span in spans:
            o = span.origin
            part = f"tokens {o.start} to {o.stop}, epoch {o.epoch + 1}"
            print(f"── row {span.row}, {o.source} document {o.document}, {part}")
            print(marked(span.tokens, tokenizer), flush=True)
    else:
        _table(phase, args.step, spans)


def _described(span: Span, tokenizer: Tokenizer | None) -> dict[str, Any]:
    # A damaged record has a span without tokens.
    fields = {"row": span.row, **span.origin._asdict(), "damaged": not span.tokens}
    return fields | ({"text": marked(span.tokens, tokenizer)} if tokenizer else {})


def _table(phase: Trained, step: int, spans: Sequence[Span]) -> None:
    lines = [
        (
            f"{row}",
            o.source,
            o.document + ("" if tokens else " (damaged, left out)"),
            f"{o.start:,}",
            f"{o.stop:,}",
            f"{o.epoch + 1}",
        )
        for row, o, tokens in spans
    ]
    numbers = phase.past.rows_of(step)
    tense = "read" if step <= phase.past.step else "will read"
    title = f"{phase.name}, step {step} {tense} rows {numbers[0]:,} to {numbers[-1]:,}"
    Console().table(
        title, ("row", "source", "document", "from token", "to", "epoch"), lines, text_columns=3
    )


def spans_of(phase: Trained, step: int) -> Iterator[Span]:
    """The parts of a step's rows, in order.

    Raises:
        ValueError: there is no such step.
    """
    # Step 0 is the state before training.
    if step < 1:
        raise ValueError(f"--step {step}: steps count from 1; give one from there")
    last = phase.n_steps()
    if last is not None and step > last:
        problem = f"{phase.name} ends after {last} steps, its data is used up"
        raise ValueError(f"--step {step}: {problem}; give one up to there")
    for number in phase.past.rows_of(step):
        row = phase.rows[number]
        # Segments count from 1; 0 is padding.
        for segment, origin in enumerate(phase.rows.origins(number), 1):
            # A segment's tokens are its inputs and its last target, which is no input.
            is_inside = row["segments_L"] == segment
            inputs = row["tokens_L"][is_inside]
            last_target = row["targets_L"][is_inside][-1:]
            yield Span(number, origin, np.append(inputs, last_target).tolist())


def seen(args: argparse.Namespace) -> None:
    """Print for each phase and source which steps have read a document, or all of it as JSON.

    Raises:
        ValueError: no phase trains on it.
    """
    run = run_of(args)
    found = []
    phases = dict([named_phase(args)]) if args.phase else reading_phases(run, args.imports)
    for name, each in phases.items():
        phase = opened(run, name, each)
        for source, rows in phase.rows.sources.items():
            if not rows.shards.find(args.document):
                continue
            # ends[-1]: the number of rows that were read by now.
            read = phase.rows.rows_of(source, args.document, phase.past.ends[-1])
            steps = (
                steps_of(read, phase.past.ends[1:], phase.past.skipped) if phase.past.step else []
            )
            made = phase.past.step
            found.append({"phase": name, "source": source, "steps": list(steps), "of_steps": made})
            if not args.json:
                when = when_read(steps, made)
                print(f"{name}: {source} document {args.document} {when}", flush=True)
    if args.json:
        print(json.dumps({"document": args.document, "seen": found}), flush=True)
    if not found:
        problem = f"no such document in what the phases of {run} train on"
        raise ValueError(f"{args.document}: {problem}; `meshwright data at` shows ids")


def when_read(steps: Sequence[int], n_steps: int) -> str:
    """When a document was read, in words."""
    if not steps:
        return f"was in none of the first {n_steps:,} steps"
    more = f" and {len(steps) - N_STEPS:,} more" if len(steps) > N_STEPS else ""
    return (
        f"was in {len(steps):,} of {n_steps:,} steps: "
        + ", ".join(map(str, steps[:N_STEPS]))
        + more
    )


def run_of(args: argparse.Namespace) -> Path:
    """The folder of the run, which may be named with or without `--run`.

    Raises:
        ValueError: it is not named, or named twice.
    """
    if (args.run is None) == (args.run_option is None):
        raise ValueError("give the folder of one run, such as runs/tiny")
    return args.run or args.run_option


def named_phase(args: argparse.Namespace) -> tuple[str, Any]:
    """Name and Run of `--phase`, or of the only one that trains.

    Raises:
        ValueError: there is no such phase, or none is named and there are several.
    """
    run = run_of(args)
    reading = reading_phases(run, args.imports)
    if not reading:
        raise ValueError(f"{run} has no phase that reads shards; give a run that trains on some")
    if not args.phase and len(reading) != 1:
        raise ValueError(
            f"{run} has several phases that read shards; choose one by --phase: {', '.join(reading)}"
        )
    name = args.phase or next(iter(reading))
    if name not in reading:
        raise ValueError(
            f"--phase {name}: {run} has no such phase that reads shards; choose of {', '.join(reading)}"
        )
    return name, reading[name]


def reading_phases(run: Path, imports: Sequence[str]) -> dict[str, Any]:
    """The phases of a run that read shards, by name.

    Raises:
        ValueError: there is no such run.
    """
    for module in imports:
        import_components(module)
    if not (run / "job.yaml").is_file():
        raise ValueError(
            f"{run} is no folder of a run (job.yaml is missing); give one such as runs/tiny"
        )
    phases = load(str(run / "job.yaml")).phases
    return {
        name: phase
        for name, phase in phases.items()
        if isinstance(phase, Run) and isinstance(phase.data, ShardData)
    }


def opened(run_folder: Path, name: str, run: Run) -> Trained:
    """A phase of a run, with its rows."""
    rows = run.data.sequence(run.data.sources(run_folder), run.seed)
    return Trained(name, run, rows, history_of(run_folder / name, run))
