"""How a phase's data becomes a source of batches."""

from collections.abc import Callable

from data_pipeline.loader import ShardData
from data_pipeline.rows.sequence import RowSequence
from trainer.batches.columns import add_columns
from trainer.batches.layout import Layout
from trainer.batches.position import rows_until
from trainer.batches.shards import ShardSource
from trainer.batches.source import BatchSource
from trainer.cluster.agreement import check_alike
from trainer.phase import Phase


def open_source(phase: Phase, *, alive: Callable[[], None] = lambda: None) -> BatchSource:
    """Open the phase's data at the position of its newest checkpoint.

    If the objective has columns that are not cached, this runs the first policy over the whole data set, and
    calls `alive` after every batch.

    Raises:
        ValueError: the data has fewer rows than the steps need, or is not what a checkpoint was trained on.
    """
    data = phase.run.data
    # Other data components, such as rollouts, open a source of their own.
    source = open_shards(phase, alive) if isinstance(data, ShardData) else data.open(phase)
    # Users' own components too: every source resumes from the JSON that its `get_state` gave.
    if phase.resumes():
        source.set_state(
            phase.checkpointer.read_json(phase.checkpointer.verify_latest(), "position")
        )
    return source


def open_shards(phase: Phase, alive: Callable[[], None] = lambda: None) -> ShardSource:
    """The source of a phase's shards, at the first row.

    Raises:
        ValueError: they have fewer rows than the steps need.
    """
    run = phase.run
    rows = open_rows(phase, alive)
    # Checked before the first step, not when the rows run out in the middle of the run.
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
    # A process that reads other shards would train on other rows without a word.
    fingerprints = {f"shards of {name}": rows.fingerprint for name, rows in sources.items()}
    check_alike(fingerprints, remedy="give all processes the same shards")
    # Not `phase.layout`, whose batch type includes the columns that are computed here.
    layout = Layout(run.data.batch_type, run.data.sizes(), phase.mesh)
    for rows in sources.values():
        add_columns(
            rows,
            run.objective,
            layout,
            phase.first_policies,
            folder=phase.folder / "columns",
            made_by=phase.first_policy_digest(),
            resumed=phase.resumes(),
            alive=alive,
            say=phase.say,
            progress=phase.progress,
        )
    return run.data.sequence(sources, run.seed)
