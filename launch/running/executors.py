"""How each kind of phase is carried out."""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from launch.job.load import Job
from launch.job.phase import Foresees, Phase


class Executor(NamedTuple):
    """What carries a phase out, and whether on all processes, with their devices."""

    call: Callable[..., None]
    needs_devices: bool

    def __call__(self, folder: Path, **offered: Any) -> None:
        """Carry the phase out, with those of the keywords that it takes."""
        # Only what the phase names, so that a new keyword here breaks no phase of a user.
        taken = inspect.signature(self.call).parameters
        self.call(folder, **{name: value for name, value in offered.items() if name in taken})


def executor_of(phase: Phase) -> Executor:
    """The executor of a phase: the trainer's for a Run, for all others their own `execute`."""
    from trainer.run import Run  # with jax, which `--help` and configurations do not wait for

    if isinstance(phase, Run):
        from trainer.execute import execute

        return Executor(partial(execute, phase), needs_devices=True)
    # Whatever else is in a job is Executable, as launch/job/load.py has checked.
    return Executor(phase.execute, needs_devices=phase.needs_devices())


def foreseen(
    job: Job,
    name: str,
    folder: Path,
    *,
    n_devices: int | None,
    allow_change: tuple[str, ...],
    anew: bool,
) -> list[str]:
    """What would end a phase of the job later, a sentence each; n_devices None = not known yet."""
    from trainer.run import Run

    phase = job.phases[name]
    names = list(job.phases)
    before = {each: job.phases[each] for each in names[: names.index(name)]}
    if isinstance(phase, Run):
        from trainer.foresee import Place
        from trainer.foresee import foreseen as foreseen_of_run

        return foreseen_of_run(phase, Place(folder, before, n_devices, allow_change, anew))
    # A user's own phase need not foresee anything.
    if isinstance(phase, Foresees):
        return [f"{name}.{line}" for line in phase.foreseen(folder, list(before))]
    return []
