"""Models beside the policy that an objective reads, such as a teacher."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from data_pipeline.component import PathText, one_of
from trainer.objective import Objective


class Role(BaseModel, frozen=True, extra="forbid", strict=True):
    """A model that the objective reads and that is not trained.

    Attributes:
        start_from: An earlier phase of the job, or the folder of a phase, whose newest checkpoint gives the
            parameters.
        architecture: None = that of the policy.
    """

    start_from: PathText
    architecture: one_of("model.architectures") | None = None


def role_problems(
    roles: Mapping[str, Role], objective: Objective, architecture: Any, *, row_length: int
) -> list[str]:
    """What does not fit between an objective's roles and the models given for them, a sentence each;
    `architecture` is the policy's.
    """
    kind = type(objective).__name__
    wanted = [role for role in objective.roles if role != "policy"]
    missing = [role for role in wanted if role not in roles]
    problems = [
        f"roles.{role} is missing, which objective.type={kind} reads; give it" for role in missing
    ]
    for name, role in roles.items():
        # None means the policy's, as in `Role`.
        own = role.architecture or architecture
        if name not in wanted:
            known = ", ".join(wanted) or "none"
            problems.append(
                f"roles.{name} is none that objective.type={kind} reads ({known}); take it out"
            )
        # Distributions over different vocabularies cannot be compared.
        if own.vocab_size != architecture.vocab_size:
            rule = f"is not architecture.vocab_size={architecture.vocab_size}"
            where = f"roles.{name}.architecture.vocab_size={own.vocab_size}"
            problems.append(f"{where} {rule}; choose a model over the same vocabulary")
        # Every role reads the policy's rows, so each context must hold them.
        if row_length > own.context:
            rule = f"is less than data.seq_len={row_length}"
            where = f"roles.{name}.architecture.context={own.context}"
            problems.append(f"{where} {rule}; lower seq_len")
    return problems
