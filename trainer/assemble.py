"""What the loop turns, built from a phase."""

from functools import partial
from typing import Any

from data_pipeline.loader import source_names
from trainer.batches.source import BatchSource
from trainer.checkpoints.rollback import Rollbacks
from trainer.evals.measure import Measures
from trainer.inspection import make_inspection
from trainer.loop import Parts
from trainer.phase import Phase
from trainer.records.breakdown import Breakdown
from trainer.records.profiler import Profiler
from trainer.records.recorder import Recorder
from trainer.records.results import write_findings
from trainer.step import make_step


def parts_of(
    phase: Phase,
    source: BatchSource,
    recorder: Recorder,
    measures: Measures,
    profiler: Profiler,
    *,
    first: int,
) -> Parts:
    """All that training goes on with, after `first` steps."""
    run, of = phase.run, (phase.model, phase.run.objective, phase.run.adaptation)
    keep = {
        "checkpointer": phase.checkpointer,
        "source": source,
        "restore": phase.restore,
        "event": phase.event,
    }
    return Parts(
        step=make_step(*of, phase.tx, **step_settings(phase)),
        source=source,
        checkpointer=phase.checkpointer,
        recorder=recorder,
        rollbacks=Rollbacks(run.guard, first=first, **keep),
        profiler=profiler,
        inspect=make_inspection(
            *of, phase.mesh, every=run.guard.sdc_every, micro_batches=run.micro_batches, event=phase.event
        ),
        evaluate=lambda number, state: write_findings(recorder.metrics, number, measures(state)),
        evaluate_every=run.evaluate_every,
        run=phase.serialized,
    )


def step_settings(phase: Phase) -> dict[str, Any]:
    """What the step is told beside its parts."""
    run, execution = phase.run, phase.run.execution
    return {
        "micro_batches": run.micro_batches,
        "offload": execution.offload,
        "guard": run.guard,
        "breakdown": Breakdown(source_names(run.data), phase.tokenizer.byte_lengths),
        "watch": partial(run.watch.arrays, rounds=execution.pipeline.rounds),
    }
