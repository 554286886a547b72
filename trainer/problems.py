"""Rules between the fields of a Run, and between the phases of its job.

Each function gives a sentence for every rule that is broken; the launcher prints those of all phases
together, before any device is touched. Rules of one component stand with it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from data_pipeline.batch import fields_of
from data_pipeline.tokenizers.tokenizer import SentencePiece
from trainer.identity import architecture_difference
from trainer.objective import Objective


def data_problems(
    data: Any,
    objective: Objective,
    *,
    context: int,
    ramp: Sequence[tuple[int, int]],
    micro_batches: int,
) -> list[str]:
    """Rules between the data and what reads them: the length of rows, their number, the fields of a batch."""
    problems = []
    if data.row_length > context:
        rule = f"data.seq_len={data.row_length} exceeds architecture.context={context}"
        problems.append(f"{rule}; lower it")
    # Every size of the ramp (rows, steps) too: a step of any of them is split into micro-batches.
    sizes = [("data.batch_size", data.batch_size), *(("batch_ramp rows", rows) for rows, _ in ramp)]
    for name, rows in sizes:
        if rows % micro_batches:
            rule = f"micro_batches={micro_batches} does not divide {name}={rows}"
            problems.append(f"{rule}; choose a divisor")
    # By what the fields are, not by their class: a user's own data may have a type of its own.
    if not gives(data.batch_type, objective):
        wanted = objective.batch_type.__name__
        rule = f"data.type={type(data).__name__} does not give the {wanted} of the objective"
        problems.append(f"{rule}; choose data that does")
    return problems


def gives(batch_type: type, objective: Objective) -> bool:
    """Whether batches of a type have what an objective reads, but for the columns that it computes itself."""
    wanted = list(fields_of(objective.batch_type).items())
    given = list(fields_of(batch_type).items())
    if objective.columns is None:
        return wanted == given
    # the columns come last in `batch_type`
    return wanted[: len(given)] == given


def start_problems(
    start_from: str | None, architecture: Any, architectures: Mapping[str, Any]
) -> list[str]:
    """A phase has the architecture of the one that it starts from; `architectures` are those of the job."""
    # A folder outside of the job is looked at when the phase begins.
    other = architectures.get(start_from, architecture)
    if other == architecture:
        return []
    difference = architecture_difference(other, architecture, f"start_from={start_from}")
    return [f"architecture {difference}; make them the same"]


def vocabulary_problems(vocab_size: int, job: Mapping[str, Any]) -> list[str]:
    """Every token of the tokenizer that the job trains has a row in the embedding."""
    # By its type, not by its field: a user's own phase may name its tokenizer as it likes.
    values = [value for phase in job.values() for _, value in phase]
    trained = [value for value in values if isinstance(value, SentencePiece)]
    if not trained or trained[0].vocab_size <= vocab_size:
        return []
    rule = f"is less than the tokenizer's vocab_size={trained[0].vocab_size}"
    return [f"architecture.vocab_size={vocab_size} {rule}; raise it"]
