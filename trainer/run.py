"""Run: all that one phase of training is, as data."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, NonNegativeInt, PositiveInt

from data_pipeline.component import one_of
from model.adapt import Full
from model.execution import Execution, Precision
from model.sharding import Mesh
from trainer.checkpoints.retention import Checkpoints
from trainer.execute import execute
from trainer.guard import Guard
from trainer.identity import run_fingerprint
from trainer.norms import Watch
from trainer.optimizer import Optimizer


class Run(BaseModel, frozen=True, extra="forbid", strict=True):
    """A phase as data: what is trained (architecture), on what (data), towards what (objective), how
    (optimizer), where (mesh).

    `start_from` names an earlier phase of the job, or the folder of a phase, whose newest checkpoint gives
    the parameters. `evals` are measured before and after, and every `evaluate_every` steps if that is not
    0.
    """

    architecture: one_of("model.architectures")
    objective: one_of("trainer.objectives")
    data: one_of("data_pipeline.loader")
    optimizer: Optimizer
    steps: PositiveInt
    checkpoint: Checkpoints
    adaptation: one_of("model.adapt") = Full()
    start_from: str | None = None
    mesh: Mesh = Mesh()
    precision: Precision = Precision()
    execution: Execution = Execution()
    micro_batches: PositiveInt = 1
    batch_ramp: tuple[
        tuple[PositiveInt, PositiveInt], ...
    ] = ()  # (rows, steps) of the first steps, before data.batch_size
    guard: Guard = Guard()
    watch: Watch = Watch()
    evals: tuple[one_of("trainer.evals"), ...] = ()
    evaluate_every: NonNegativeInt = 0
    tokenizer: str = "data/tokenizer.model"  # relative to the run folder
    seed: NonNegativeInt = 0

    needs_devices: ClassVar[bool] = True

    def fingerprint(self) -> str:
        """What a finished phase is known by."""
        return run_fingerprint(self.model_dump(mode="json"))

    def problems(self, job: Mapping[str, Any]) -> list[str]:
        """Rules across fields and phases, a sentence each."""
        own = [*self._size_problems(), *self.optimizer.problems(self.steps)]
        of_evals = [line for each in self.evals for line in each.problems(self)]
        return [*own, *of_evals, *self._job_problems(job)]

    def _size_problems(self) -> list[str]:
        found, data = [], self.data
        if data.seq_len > self.architecture.context:
            found.append(
                f"data.seq_len={data.seq_len} exceeds architecture.context={self.architecture.context}; lower it"
            )
        for name, rows in (
            ("data.batch_size", data.batch_size),
            *(("batch_ramp rows", rows) for rows, _ in self.batch_ramp),
        ):
            if rows % self.micro_batches:
                found.append(
                    f"micro_batches={self.micro_batches} does not divide {name}={rows}; choose a divisor"
                )
        best = self.checkpoint.best
        if best and (not self.evaluate_every or self.evaluate_every % self.checkpoint.every_steps):
            every = f"checkpoint.every_steps={self.checkpoint.every_steps}"
            found.append(
                f"evaluate_every={self.evaluate_every} is no multiple of {every}, so no checkpoint could be best; make it one"
            )
        wanted = self.objective.batch_type
        if data.batch_type is not wanted:
            found.append(
                f"data.type={type(data).__name__} does not give the {wanted.__name__} of the objective; choose data that does"
            )
        return found

    def _job_problems(self, job: Mapping[str, Any]) -> list[str]:
        """Rules between this phase and the ones before it."""
        found, a = [], self.architecture
        parent = job.get(self.start_from) if self.start_from else None
        if isinstance(parent, Run) and parent.architecture != a:
            found.append(
                f"architecture differs from that of start_from={self.start_from}; make them the same"
            )
        sizes = [
            phase.tokenizer.vocab_size
            for phase in job.values()
            if hasattr(getattr(phase, "tokenizer", None), "vocab_size")
        ]
        if sizes and sizes[0] > a.vocab_size:
            found.append(
                f"architecture.vocab_size={a.vocab_size} is less than the tokenizer's vocab_size={sizes[0]}; raise it"
            )
        return found

    def execute(
        self,
        folder: Path,
        *,
        job_folder: Path,
        say: Callable[[str], None],
        progress: Callable[..., Any],
        allow_change: Sequence[str] = (),
        started: float | None = None,
        profile: tuple[int, int] | None = None,
    ) -> None:
        """Train to the end, from the newest checkpoint in `folder` if there is one; then write results.json.

        `started` is the Unix time from which on time counts as this phase's; `profile` the first and last
        step of a trace.

        Raises:
            ValueError: the folder holds another run, or sizes do not fit the mesh. Stopped, Diverged: see
            `train`.
        """
        execute(
            self,
            folder,
            job_folder,
            say=say,
            progress=progress,
            allow_change=allow_change,
            started=started,
            profile=profile,
        )
