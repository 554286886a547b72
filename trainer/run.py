"""Run: all that one phase of training is, as data; trainer/execute.py carries it out."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, NonNegativeInt, PositiveInt

from data_pipeline.component import FrozenMap, PathText, Seed, one_of
from model.adapt import Full
from model.execution import Execution, Precision
from model.mesh import Mesh
from trainer.checkpoints.retention import Checkpoints
from trainer.cluster.health import HealthChecks
from trainer.guard import Guard
from trainer.identity import run_fingerprint
from trainer.norms import Watch
from trainer.optimizer import Optimizer
from trainer.problems import data_problems, start_problems, vocabulary_problems
from trainer.roles import Role, role_problems


class Run(BaseModel, frozen=True, extra="forbid", strict=True):
    """What is trained (architecture), on what (data), towards what (objective), how (optimizer), and where.

    A field of `one_of(PACKAGE)` holds a component that is defined there; YAML names it by `type: ClassName`.
    """

    architecture: one_of("model.architectures")  # sizes; trainer/models.py builds the model
    objective: one_of("trainer.objectives")  # the loss, and what it reads of a batch
    # Rows of shards, or rows that are made while training, such as rollouts.
    data: one_of("data_pipeline.loader", "trainer.batches")
    optimizer: Optimizer  # a rule such as AdamW or Muon, its schedule, decay and clipping
    steps: PositiveInt
    checkpoint: Checkpoints  # when the state is saved, and which saves are kept
    adaptation: one_of("model.adapt") = Full()  # what is trained: all parameters, some, or LoRA's
    # A phase of the job, or the folder of any: its newest checkpoint gives the parameters; None = none does.
    start_from: PathText | None = None
    roles: FrozenMap[str, Role] = FrozenMap()  # further models that the objective reads: a teacher
    mesh: Mesh = Mesh()  # how many devices divide the batch, the layers, the weights
    precision: Precision = Precision()  # dtypes of parameters and products
    execution: Execution = Execution()  # kernels, recomputation, pipeline, offload to the host
    micro_batches: PositiveInt = 1  # a batch's parts, one after the other, to save memory
    # (rows, steps) of the first steps, whose batches are smaller than data.batch_size.
    batch_ramp: tuple[tuple[PositiveInt, PositiveInt], ...] = ()
    guard: Guard = Guard()  # which steps change nothing, and when to go back to a checkpoint
    health: HealthChecks = HealthChecks()  # limits for hanging steps, tests of devices
    watch: Watch = Watch()  # norms and histograms by layer
    evals: tuple[one_of("trainer.evals"), ...] = ()  # measured before and after training
    evaluate_every: NonNegativeInt = 0  # and every so many steps; 0 = not in between
    tokenizer: PathText = "data/tokenizer.model"  # relative to the run folder
    seed: Seed = 0  # of the parameters and of the order of rows

    def fingerprint(self) -> str:
        """What a finished phase is known by: a hash of all fields that change what is learned."""
        return run_fingerprint(self.model_dump(mode="json"))

    def problems(self, job: Mapping[str, Any]) -> list[str]:
        """Rules across fields, and across the phases of the job, a sentence for each one broken."""
        model = self.architecture
        sizes = {"ramp": self.batch_ramp, "micro_batches": self.micro_batches}
        phases = {name: each.architecture for name, each in job.items() if isinstance(each, Run)}
        return [
            *data_problems(self.data, self.objective, context=model.context, **sizes),
            *self.checkpoint.problems(self.evaluate_every),
            *role_problems(self.roles, self.objective, model, row_length=self.data.row_length),
            *self.optimizer.problems(self.steps),
            *(line for each in self.evals for line in each.problems(self)),
            *start_problems(self.start_from, model, phases),
            *vocabulary_problems(model.vocab_size, job),
        ]
