"""Run: all that one phase of training is, as data and rules; trainer/execute.py carries it out."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, NonNegativeInt, PositiveInt

from data_pipeline.batch import fields_of
from data_pipeline.component import FrozenMap, one_of
from data_pipeline.tokenizers.tokenizer import SentencePiece
from model.adapt import Adaptation, Full
from model.api import Model
from model.execution import Execution, Precision
from model.mesh import Mesh
from trainer.checkpoints.retention import Checkpoints
from trainer.cluster.health import HealthChecks
from trainer.guard import Guard
from trainer.heads import TrainedHeads, with_heads
from trainer.identity import run_fingerprint
from trainer.norms import Watch
from trainer.objective import Objective
from trainer.optimizer import Optimizer
from trainer.roles import Role, role_problems


class Run(BaseModel, frozen=True, extra="forbid", strict=True):
    """What is trained (architecture), on what (data), towards what (objective), how (optimizer), and where.

    Attributes:
        start_from: An earlier phase of the job, or the folder of a phase, whose newest checkpoint gives the
            parameters; None = from scratch.
        roles: The other models that the objective reads, such as a teacher.
        batch_ramp: (rows, steps) of the first steps, whose batches are smaller than data.batch_size.
        evals: Measured before and after, and every `evaluate_every` steps if that is not 0.
        tokenizer: A path, relative to the run folder.
    """

    architecture: one_of("model.architectures")
    objective: one_of("trainer.objectives")
    data: one_of("data_pipeline.loader", "trainer.batches")
    optimizer: Optimizer
    steps: PositiveInt
    checkpoint: Checkpoints
    adaptation: one_of("model.adapt") = Full()
    start_from: str | None = None
    roles: FrozenMap[str, Role] = FrozenMap()
    mesh: Mesh = Mesh()
    precision: Precision = Precision()
    execution: Execution = Execution()
    micro_batches: PositiveInt = 1
    batch_ramp: tuple[tuple[PositiveInt, PositiveInt], ...] = ()
    guard: Guard = Guard()
    health: HealthChecks = HealthChecks()
    watch: Watch = Watch()
    evals: tuple[one_of("trainer.evals"), ...] = ()
    evaluate_every: NonNegativeInt = 0
    tokenizer: str = "data/tokenizer.model"
    seed: NonNegativeInt = 0

    def fingerprint(self) -> str:
        """What a finished phase is known by."""
        return run_fingerprint(self.model_dump(mode="json"))

    def problems(self, job: Mapping[str, Any]) -> list[str]:
        """Rules across fields and phases, a sentence each."""
        of_evals = [line for each in self.evals for line in each.problems(self)]
        return [
            *self._size_problems(),
            *role_problems(
                self.roles, self.objective, self.architecture, row_length=self.data.row_length
            ),
            *self.optimizer.problems(self.steps),
            *of_evals,
            *self._job_problems(job),
        ]

    def _size_problems(self) -> list[str]:
        problems = []
        data, context = self.data, self.architecture.context
        if data.row_length > context:
            problems.append(
                f"data.seq_len={data.row_length} exceeds architecture.context={context}; lower it"
            )
        # Every size of the ramp too: a step of any of them is split into micro-batches.
        batch_sizes = [("data.batch_size", data.batch_size)]
        batch_sizes += [("batch_ramp rows", rows) for rows, _ in self.batch_ramp]
        for name, rows in batch_sizes:
            if rows % self.micro_batches:
                rule = f"micro_batches={self.micro_batches} does not divide {name}={rows}"
                problems.append(f"{rule}; choose a divisor")
        saved_every = self.checkpoint.every_steps
        # `best` ranks checkpoints by the numbers saved with them, so each save has to follow an
        # evaluation.
        if self.checkpoint.best and (not self.evaluate_every or self.evaluate_every % saved_every):
            rule = f"evaluate_every={self.evaluate_every} is no multiple of "
            rule += f"checkpoint.every_steps={saved_every}"
            problems.append(f"{rule}, so no checkpoint could be best; make it one")
        # By what the fields are, not by their class: a user's own data may have a type of its
        # own.
        if not gives(data.batch_type, self.objective):
            wanted = self.objective.batch_type.__name__
            rule = f"data.type={type(data).__name__} does not give the {wanted} of the objective"
            problems.append(f"{rule}; choose data that does")
        return problems

    def _job_problems(self, job: Mapping[str, Any]) -> list[str]:
        """Rules between this phase and the others of its job."""
        problems = []
        # A folder outside of the job is looked at when the phase begins.
        parent = job.get(self.start_from) if self.start_from else None
        if isinstance(parent, Run) and parent.architecture != self.architecture:
            rule = f"architecture differs from that of start_from={self.start_from}"
            problems.append(f"{rule}; make them the same")
        # By its type, not by its field: a user's own phase may name its tokenizer as it likes.
        trained = [
            value
            for phase in job.values()
            for _, value in phase
            if isinstance(value, SentencePiece)
        ]
        vocab_size = self.architecture.vocab_size
        if trained and trained[0].vocab_size > vocab_size:
            rule = f"is less than the tokenizer's vocab_size={trained[0].vocab_size}"
            problems.append(f"architecture.vocab_size={vocab_size} {rule}; raise it")
        return problems


def model_of(run: Run) -> Model:
    """The policy of a Run: the one place that builds it, of architecture, dtypes, execution and heads."""
    model = run.architecture.build(run.precision, run.execution)
    width, dtype = run.architecture.width, run.precision.params
    return with_heads(model, run.objective.heads, width=width, dtype=dtype)


def models_of(run: Run) -> dict[str, Model]:
    """The models of all roles of a Run, by role."""
    # Of the policy's dtypes and execution: they read the same batch in the same step.
    others = {name: role.architecture or run.architecture for name, role in run.roles.items()}
    built = {
        name: architecture.build(run.precision, run.execution)
        for name, architecture in others.items()
    }
    return {"policy": model_of(run), **built}


def adaptation_of(run: Run) -> Adaptation:
    """What of the policy is trained: what the adaptation says, and an objective's heads."""
    heads = run.objective.heads
    return TrainedHeads(run.adaptation, heads) if heads else run.adaptation


def gives(batch_type: type, objective: Objective) -> bool:
    """Whether batches of a type have what an objective reads, but for the columns that it computes itself."""
    wanted = list(fields_of(objective.batch_type).items())
    given = list(fields_of(batch_type).items())
    if objective.columns is None:
        return wanted == given
    # the columns come last in `batch_type`
    return wanted[: len(given)] == given
