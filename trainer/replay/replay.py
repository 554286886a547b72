"""Replay one step of a phase, from the nearest checkpoint before it and on the rows that it read."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from data_pipeline.rows.sequence import RowSequence
from data_pipeline.temporary import temporary_folder
from trainer.assemble import step_of
from trainer.batches.open import open_rows
from trainer.checkpoints.stored import steps_in
from trainer.phase import Phase
from trainer.records.recorder import quotients
from trainer.replay.history import history_of, logged_row
from trainer.run import Run


class Replayed(NamedTuple):
    """The metrics of a step as logged and as replayed; `first` is the step of the checkpoint that the replay
    started from (0: none).
    """

    logged: dict[str, float]
    now: dict[str, float]
    first: int


def replay(
    run: Run,
    folder: Path,
    job_folder: Path,
    step: int,
    *,
    say: Callable[[str], None],
    progress: Callable[..., Any],
) -> Replayed:
    """Compute step `step` of the phase in `folder` again, with the steps between it and the last checkpoint
    before it. Call under `jax.set_mesh`.

    Nothing in the folder changes: the phase is opened in a temporary folder, which links to the earlier
    checkpoints.

    Raises:
        ValueError: the step is not in the log.
    """
    logged = logged_row(folder, step)
    history = history_of(folder, run)
    # Without local copies, which may be newer than the step.
    durable = run.checkpoint.model_copy(update={"local": None, "local_every_steps": None})
    run = run.model_copy(update={"checkpoint": durable})
    with _folder_before(folder, step) as earlier:
        phase = Phase(run, earlier, job_folder, jax.sharding.get_mesh(), say, progress)
        state = phase.state()
        first = int(state.step)
        rows = open_rows(phase)
        # The same compiled step as in training: another program could round differently.
        train_step = step_of(phase)
        n_steps = step - first
        start = f"the checkpoint of step {first}" if first else "the beginning: none is older"
        say(f"  {n_steps} steps to make again, from {start}; compiling the step")
        with progress(f"  replay {folder.name}", n_steps, unit="steps") as advance:
            for number in range(first + 1, step + 1):
                state, metrics = train_step(state, _batch(phase, rows, history.rows_of(number)))
                # Waits, or the bar would run ahead of the devices.
                metrics["loss/train"][0].block_until_ready()
                advance()
        # Popped: norms are arrays by layer, while all other metrics are (sum, weight).
        norms, _ = run.watch.rows(step, metrics.pop("watch", {}))
        return Replayed(logged, norms | quotients(jax.device_get(metrics)), first)


@contextmanager
def _folder_before(folder: Path, step: int) -> Iterator[Path]:
    """A temporary folder with the columns of `folder` and links to its checkpoints before `step`."""
    with temporary_folder() as temporary:
        earlier = temporary / folder.name
        (earlier / "checkpoints").mkdir(parents=True)
        for saved in steps_in(folder / "checkpoints"):
            # not `<=`: the checkpoint of the step itself holds its result, not what it started from
            if saved < step:
                # absolute: a relative link would be resolved in the temporary folder
                checkpoint = (folder / "checkpoints" / str(saved)).resolve()
                (earlier / "checkpoints" / str(saved)).symlink_to(checkpoint)
        if (folder / "columns").is_dir():
            # a copy, not a link: columns that are missing there would be written through a link
            shutil.copytree(folder / "columns", earlier / "columns")
        yield earlier


def _batch(phase: Phase, rows: RowSequence, numbers: list[int]) -> Any:
    """The batch of these rows, as the training step reads it."""
    layout = phase.layout.of_rows(len(numbers))
    host_rows = rows.read([numbers[offset] for offset in layout.offsets], layout.positions)
    return layout.place({name: np.stack([row[name] for row in host_rows]) for name in host_rows[0]})
