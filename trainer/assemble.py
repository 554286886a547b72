"""The composition root: the training step, the source, the records and the loop's parts of a phase.

Whoever needs the step that trains (`plan`, `replay`, the benches) asks here, so that all have the same one.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import optax

from data_pipeline.loader import ShardData
from data_pipeline.rows.sequence import RowSequence
from model.api import Model
from trainer.batches.columns import add_columns
from trainer.batches.layout import Layout
from trainer.batches.position import rows_until
from trainer.batches.shards import ShardSource
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
        watch=partial(run.watch.arrays, rounds=run.execution.pipeline.rounds),
    )


def step_of(phase: Phase) -> TrainStep:
    """The training step of a phase: (state, batch) -> (state, metrics)."""
    step = training_step(phase.run, phase.models, phase.tx, phase.tokenizer.byte_lengths)
    # an argument and no closure: what a jitted function closes over becomes constants of its program
    return partial(step, others=phase.load_others())


def open_source(phase: Phase, *, alive: Callable[[], None] = lambda: None) -> BatchSource:
    """Open the phase's data at the position of its newest checkpoint; `alive` is called now and then.

    This may run the first policy over the whole data set, where the objective wants columns of it.

    Raises:
        ValueError: the data has fewer rows than the steps need, or is not what a checkpoint was trained on.
    """
    data = phase.run.data
    # Other data components, such as rollouts, make their batches themselves.
    source = open_shards(phase, alive) if isinstance(data, ShardData) else data.open(phase)
    if phase.resumes():
        source.set_state(phase.checkpointer.read_json(phase.checkpointer.verify_latest(), "position"))
    return source


def open_shards(phase: Phase, alive: Callable[[], None] = lambda: None) -> ShardSource:
    """The rows of a phase's shards, from the first one on."""
    run = phase.run
    rows = open_rows(phase, alive)
    # Known before the first step, not when the rows end in the middle of the run.
    needed = rows_until(run.steps, run.data.batch_size, run.batch_ramp)
    if rows.n_rows is not None and rows.n_rows < needed:
        wanted = f"steps={run.steps} of batch_size={run.data.batch_size} need {needed} rows"
        raise ValueError(f"{wanted}, data.schedule.max_epochs allows {rows.n_rows}; lower steps or raise it")
    ramp, processes = run.batch_ramp, run.data.processes
    return ShardSource(rows, phase.layout, processes=processes, ramp=ramp, event=phase.event)


def open_rows(phase: Phase, alive: Callable[[], None] = lambda: None) -> RowSequence:
    """The rows of a phase's shards in the order of training, with the columns that the objective computes."""
    run = phase.run
    sources = run.data.sources(phase.job_folder)
    # Not `phase.layout`: the batches that the columns are computed from do not have them yet.
    layout = Layout(run.data.batch_type, run.data.sizes(), phase.mesh)
    where = {"folder": phase.folder / "columns", "resumed": phase.resumes(), "alive": alive}
    for rows in sources.values():
        add_columns(rows, run.objective, layout, phase.first_policies, **where)
    return run.data.sequence(sources, run.seed)


@contextlib.contextmanager
def watching(run: Run, folder: Path) -> Iterator[tuple[Hosts, Watchdog]]:
    """Look after the processes of a phase, from before its state is restored."""
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
        run=phase.serialized,
    )
