"""How a phase's data becomes a source of batches."""

from collections.abc import Callable

from data_pipeline.loader import ShardData
from data_pipeline.rows.sequence import RowSequence
from trainer.batches.columns import add_columns
from trainer.batches.layout import Layout
from trainer.batches.position import rows_until
from trainer.batches.shards import ShardSource
from trainer.batches.source import BatchSource
from trainer.phase import Phase


def open_source(phase: Phase, *, alive: Callable[[], None] = lambda: None) -> BatchSource:
    """Open the phase's data at the position of its newest checkpoint; `alive` is called now and then.

    This may run the first policy over the whole data set, where the objective wants columns of it.

    Raises:
        ValueError: the data has fewer rows than the steps need, or is not what a checkpoint was trained on.
    """
    data = phase.run.data
    # Other data components, such as rollouts, make their batches themselves.
    source = open_shards(phase, alive) if isinstance(data, ShardData) else data.open(phase)
    # Also for a component of a user: every source resumes from the JSON that it gave.
    if phase.resumes():
        source.set_state(
            phase.checkpointer.read_json(phase.checkpointer.verify_latest(), "position")
        )
    return source


def open_shards(phase: Phase, alive: Callable[[], None] = lambda: None) -> ShardSource:
    """The rows of a phase's shards, from the first one on."""
    run = phase.run
    rows = open_rows(phase, alive)
    # Known before the first step, not when the rows end in the middle of the run.
    needed = rows_until(run.steps, run.data.batch_size, run.batch_ramp)
    if rows.n_rows is not None and rows.n_rows < needed:
        wanted = f"steps={run.steps} of batch_size={run.data.batch_size} need {needed} rows"
        raise ValueError(
            f"{wanted}, data.schedule.max_epochs allows {rows.n_rows}; lower steps or raise it"
        )
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
