"""What a phase optimises: a loss over a batch, as sums that add over micro-batches and hosts."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float, Key

from model.api import Model, Params

Policies = Mapping[str, tuple[Model, Params]]  # by role: policy, and what is asked for: a teacher
Metrics = dict[str, tuple[Array, Array]]  # name -> (sum, weight); divided once, at the end


class PerTarget(NamedTuple):
    """The loss of every target by itself, for sums by source and by byte."""

    nll_BL: Float[Array, "B L"]  # negative log-likelihood, nats
    weight_BL: Float[Array, "B L"]


class Loss(NamedTuple):
    """The loss of some rows, divided by the global denominators: those of micro-batches simply add."""

    total: Float[Array, ""]
    metrics: Metrics
    aux: dict[str, Any] = {}  # what the model's `after_step` reads
    per_target: PerTarget | None = None  # None where an objective has no single tokens as targets


@runtime_checkable
class Objective(Protocol):
    """A frozen component; its fields are the hyper-parameters.

    Attributes:
        batch_type: What `loss` reads: the fields that the data gives, then those of `columns`.
        roles: The models that `loss` reads. The policy alone is trained; others come from `Run.roles`.
        heads: Parameters that it adds to the policy's, such as `reward_D`.
        columns: Computes further fields of the batch, once, by the policy that the phase starts with; they
            are cached by the content of the data. None = there are none.
    """

    batch_type: type
    roles: tuple[str, ...]
    heads: tuple[str, ...]
    columns: Callable[[Policies, Any], dict[str, Array]] | None

    def denominators(self, batch: Any) -> dict[str, Float[Array, ""]]:
        """Sums over the whole global batch that the loss divides by; from data alone."""

    def loss(
        self, models: Policies, batch: Any, denominators: dict[str, Any], key: Key[Array, ""]
    ) -> Loss:
        """The loss of some rows of the batch."""
