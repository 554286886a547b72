"""The rows that a phase trains on."""

from collections.abc import Callable

from data_pipeline.rows.sequence import RowSequence
from trainer.batches.position import rows_until
from trainer.batches.reference import add_reference
from trainer.batches.source import ShardSource
from trainer.phase import Phase


def source_of(phase: Phase, *, alive: Callable[[], None] = lambda: None) -> ShardSource:
    """The phase's batches, with what its first policy has to say of them; `alive` is called while it says
    it.
    """
    run, sources = phase.run, phase.run.data.sources(phase.job_folder)
    for rows in sources.values():
        where = {"folder": phase.folder / "reference", "resumed": phase.resumed, "alive": alive}
        add_reference(rows, run.objective, phase.layout, phase.model, phase.first_policy, **where)
    rows = RowSequence(sources, run.data.weights, run.seed, run.data.schedule)
    needed = rows_until(run.steps, run.data.batch_size, run.batch_ramp)
    if rows.n_rows is not None and rows.n_rows < needed:
        wanted = f"steps={run.steps} of batch_size={run.data.batch_size} need {needed} rows"
        raise ValueError(f"{wanted}, data.schedule.max_epochs allows {rows.n_rows}; lower steps or raise it")
    source = ShardSource(rows, phase.layout, processes=run.data.processes, ramp=run.batch_ramp)
    if phase.resumed:
        source.set_state(phase.checkpointer.read_json(phase.checkpointer.latest(), "position"))
    return source
