"""Run: all that one phase of training is. `execute` builds the parts on the devices and calls the loop."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
from pydantic import BaseModel, NonNegativeInt, PositiveInt

from data_pipeline.component import one_of
from model.adapt import Full
from model.execution import Execution, Precision
from model.sharding import Mesh
from trainer.checkpoint import Checkpoints
from trainer.identity import run_fingerprint
from trainer.loop import train
from trainer.measure import Measures
from trainer.parts import parts_of, write_results
from trainer.phase import Phase


class Run(BaseModel, frozen=True, extra="forbid", strict=True):
    """A phase as data: what is trained (architecture), on what (data), towards what (objective), how (optimizer), where (mesh).

    `start_from` names an earlier phase of the job, or the folder of a phase, whose newest checkpoint gives the parameters.
    `evals` are measured before and after, and every `evaluate_every` steps if that is not 0.
    """

    architecture: one_of("model.architectures")
    objective: one_of("trainer.objectives")
    data: one_of("data_pipeline.loader")
    optimizer: one_of("trainer.optimizers")
    steps: PositiveInt
    checkpoint: Checkpoints
    adaptation: one_of("model.adapt") = Full()
    start_from: str | None = None
    mesh: Mesh = Mesh()
    precision: Precision = Precision()
    execution: Execution = Execution()
    micro_batches: PositiveInt = 1
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
            found.append(f"data.seq_len={data.seq_len} exceeds architecture.context={self.architecture.context}; lower it")
        if data.batch_size % self.micro_batches:
            found.append(f"micro_batches={self.micro_batches} does not divide data.batch_size={data.batch_size}; choose a divisor")
        wanted = self.objective.batch_type
        if data.batch_type is not wanted:
            found.append(f"data.type={type(data).__name__} does not give the {wanted.__name__} of the objective; choose data that does")
        return found

    def _job_problems(self, job: Mapping[str, Any]) -> list[str]:
        """Rules between this phase and the ones before it."""
        found, a = [], self.architecture
        parent = job.get(self.start_from) if self.start_from else None
        if isinstance(parent, Run) and parent.architecture != a:
            found.append(f"architecture differs from that of start_from={self.start_from}; make them the same")
        sizes = [phase.tokenizer.vocab_size for phase in job.values() if hasattr(getattr(phase, "tokenizer", None), "vocab_size")]
        if sizes and sizes[0] > a.vocab_size:
            found.append(f"architecture.vocab_size={a.vocab_size} is less than the tokenizer's vocab_size={sizes[0]}; raise it")
        return found

    def execute(
        self,
        folder: Path,
        *,
        job_folder: Path,
        say: Callable[[str], None],
        progress: Callable[..., Any],
        allow_change: Sequence[str] = (),
    ) -> None:
        """Train to the end, from the newest checkpoint in `folder` if there is one; then write results.json.

        Raises:
            ValueError: the folder holds another run, or sizes do not fit the mesh. Stopped, Diverged: see `train`.
        """
        mesh = self.mesh.make()
        with jax.set_mesh(mesh):
            phase = Phase(self, folder, job_folder, mesh)
            for change in phase.check_identity(allow_change):
                say(f"  changed since the checkpoint: {change}")
            say(f"  {phase.describe()}")
            state, measures = phase.state(), Measures(phase)
            before, first = measures.before(state), int(state.step)
            parts = parts_of(phase, measures, first)
            try:
                if first == 0:
                    parts.metrics.write(0, {f"eval/{name}": value for name, value in before.items()})
                with progress(f"  {folder.name}", self.steps, unit="steps", done=first) as advance:
                    state = train(parts, state, steps=self.steps, advance=advance)
                write_results(phase, parts, before=before, after=measures(state))
            finally:
                parts.metrics.close()
