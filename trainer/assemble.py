"""The composition root: the training step, the source, the records and the loop's parts of a phase.

Whoever needs the step that trains (`plan`, `replay`, the benches) asks here, so that all have the same one.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import optax

from model.api import Model
from trainer.batches.source import BatchSource
from trainer.checkpoints.rollback import Rollbacks
from trainer.cluster.coordination import is_first
from trainer.cluster.hosts import Hosts
from trainer.cluster.watchdog import Watchdog
from trainer.evals.measure import Measures
from trainer.inspection import make_inspection
from trainer.loop import LoopParts
from trainer.phase import Phase
from trainer.records.breakdown import Breakdown
from trainer.records.costs import Rates, costs_of
from trainer.records.goodput import Ledger
from trainer.records.metrics import MetricsWriter
from trainer.records.profiler import Profiler
from trainer.records.recorder import Recorder
from trainer.records.results import write_findings
from trainer.run import Run, adaptation_of
from trainer.state import TrainState
from trainer.step import TrainStep, make_step


def training_step(
    run: Run, models: Mapping[str, Model], tx: optax.GradientTransformation, n_bytes_V: np.ndarray
) -> TrainStep:
    """The step that trains `run`; `n_bytes_V` are the UTF-8 bytes of each entry of the tokenizer."""
    return make_step(
        models,
        run.objective,
        adaptation_of(run),
        tx,
        micro_batches=run.micro_batches,
        offload=run.execution.offload,
        guard=run.guard,
        breakdown=Breakdown(run.data.source_names(), n_bytes_V),
        # `rounds`: a pipelined stack stores its layers in the order of the stages' rounds, while
        # the log names them in the order of the model.
        watch=partial(run.watch.arrays, rounds=run.execution.pipeline.rounds),
    )


def step_of(phase: Phase) -> TrainStep:
    """The training step of a phase: (state, batch) -> (state, metrics)."""
    step = training_step(phase.run, phase.models, phase.tx, phase.tokenizer.byte_lengths)
    # an argument and no closure: what a jitted function closes over becomes constants of its program
    return partial(step, others=phase.load_others())


@contextlib.contextmanager
def watching(run: Run, folder: Path) -> Iterator[tuple[Hosts, Watchdog]]:
    """Look after the processes of a phase, from before its state is restored."""
    # Hosts first: the watchdog reports through it, and contexts close in reverse order.
    with Hosts() as hosts, Watchdog(run.health.hang_s, folder=folder, hosts=hosts) as watchdog:
        yield hosts, watchdog


@contextlib.contextmanager
def recording(
    phase: Phase,
    source: BatchSource,
    ledger: Ledger,
    hosts: Hosts,
    watchdog: Watchdog,
    *,
    first: int,
    advance: Callable[..., None],
    profile: tuple[int, int] | None,
) -> Iterator[tuple[Recorder, Profiler]]:
    """The recorder of a phase that resumes after step `first`, and the profiler of the steps `profile`;
    `advance` moves the progress bar.
    """
    run = phase.run
    metrics = MetricsWriter(phase.folder, first, active=is_first())
    profiler = Profiler(phase.folder, profile)
    # The schedule alone, not the optimizer: only the logged rate is wanted on the host.
    rates = Rates(run.optimizer.learning_rate(run.steps))
    try:
        recorder = Recorder(
            metrics,
            ledger,
            watchdog,
            hosts,
            run.watch,
            source=source,
            learning_rate=rates,
            costs=costs_of(phase),
            advance=advance,
        )
        yield recorder, profiler
    finally:
        profiler.close()
        metrics.close()
        ledger.close()


def loop_parts(
    phase: Phase,
    source: BatchSource,
    recorder: Recorder,
    measures: Measures,
    profiler: Profiler,
    *,
    first: int,
) -> LoopParts:
    """The loop's parts for a phase that resumes after step `first`."""
    run = phase.run
    rollbacks = Rollbacks(
        run.guard,
        checkpointer=phase.checkpointer,
        source=source,
        restore=phase.restore,
        event=phase.event,
        first=first,
    )
    inspect = make_inspection(
        phase.models,
        run.objective,
        phase.adaptation,
        phase.mesh,
        every=run.health.sdc_every,
        micro_batches=run.micro_batches,
        others=phase.load_others(),
        event=phase.event,
    )

    def evaluate(step: int, state: TrainState) -> dict[str, float]:
        return write_findings(recorder.metrics, step, measures(state))

    return LoopParts(
        step=step_of(phase),
        policy=phase.merged,
        source=source,
        checkpointer=phase.checkpointer,
        recorder=recorder,
        rollbacks=rollbacks,
        profiler=profiler,
        inspect=inspect,
        evaluate=evaluate,
        evaluate_every=run.evaluate_every,
        # Saved in every checkpoint: a resumed phase is compared with it (identity.py).
        run=phase.serialized,
    )
