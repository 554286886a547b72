"""One step of a phase once more: from the nearest checkpoint before it, on the rows that it read."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from trainer.assemble import step_settings
from trainer.checkpoints.stored import steps_in
from trainer.phase import Phase
from trainer.records.recorder import quotients
from trainer.replay.past import logged_row, past_of
from trainer.rows import source_of
from trainer.step import make_step


class Replayed(NamedTuple):
    """The numbers of a step as they were logged and as they are now; `first` is the step of the checkpoint
    that it began from (0: none).
    """

    logged: dict[str, float]
    now: dict[str, float]
    first: int


def replay(run: Any, folder: Path, job_folder: Path, step: int, *, say: Callable[[str], None]) -> Replayed:
    """Compute step `step` of the phase in `folder`, and those behind the checkpoint before it. Call under
    `jax.set_mesh`.

    Nothing in the folder changes: the phase is opened in a folder of its own that shows the checkpoints
    before the step alone.

    Raises:
        ValueError: the step is not in the log.
    """
    logged, past = logged_row(folder, step), past_of(folder, run)
    with _before(folder, step) as earlier:
        durable = run.checkpoint.model_copy(update={"local": None, "local_every_steps": None})
        phase = Phase(
            run.model_copy(update={"checkpoint": durable}), earlier, job_folder, jax.sharding.get_mesh(), say
        )
        state, rows = phase.state(), source_of(phase).rows
        first = int(state.step)
        compute = make_step(phase.model, run.objective, run.adaptation, phase.tx, **step_settings(phase))
        for number in range(first + 1, step + 1):
            state, metrics = compute(state, _batch(phase, rows, past.rows_of(number)))
        norms, _ = run.watch.rows(step, metrics.pop("watch", {}))
        return Replayed(logged, norms | quotients(jax.device_get(metrics)), first)


@contextmanager
def _before(folder: Path, step: int) -> Iterator[Path]:
    """A folder for a while, with all that lies in `folder` but the checkpoints of `step` and later."""
    with tempfile.TemporaryDirectory() as name:
        earlier = Path(name) / folder.name
        (earlier / "checkpoints").mkdir(parents=True)
        for saved in steps_in(folder / "checkpoints"):
            if saved < step:
                (earlier / "checkpoints" / str(saved)).symlink_to(
                    (folder / "checkpoints" / str(saved)).resolve()
                )
        if (folder / "reference").is_dir():
            shutil.copytree(
                folder / "reference", earlier / "reference"
            )  # what is missing there may be written
        yield earlier


def _batch(phase: Phase, rows: Any, numbers: list[int]) -> Any:
    """These rows as a step reads them."""
    layout = phase.layout.of_rows(len(numbers))
    mine = rows.read([numbers[offset] for offset in layout.offsets], layout.positions)
    return layout.place({name: np.stack([row[name] for row in mine]) for name in mine[0]})
