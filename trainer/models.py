"""The models of a Run, and what of the policy is trained.

Phases, `plan` and the benches ask here for the model that a Run trains, so that all have the same one.
"""

from model.adapt import Adaptation
from model.api import Model
from trainer.heads import TrainedHeads, with_heads
from trainer.run import Run


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
