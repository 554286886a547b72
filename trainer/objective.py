"""What a phase optimises: a loss over a batch, as sums that add over micro-batches and hosts."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int, Key

from model.api import Model, ModelInputs, ModelOutputs, Params
from trainer.token_logp import token_logp

# Role -> model: policy, and where an objective asks for it reference, teacher, reward, value.
Policies = Mapping[str, tuple[Model, Params]]
# name -> (sum, weight); the quotient is formed once, at the end, when the weight of all is known
Metrics = dict[str, tuple[Array, Array]]


class PerTarget(NamedTuple):
    """The loss of every target by itself, for sums by source and by byte."""

    nll_BL: Float[Array, "B L"]  # negative log-likelihood, nats
    weight_BL: Float[Array, "B L"]


class Loss(NamedTuple):
    """`total` is already divided by the global denominators, so totals and gradients of micro-batches and
    hosts simply add.
    """

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
        columns: Computes fields of the batch from the data's own, once and by the policy that the phase
            starts with; they are cached by the content of the data. None = there are none.
    """

    batch_type: type
    roles: tuple[str, ...]
    heads: tuple[str, ...]
    columns: Callable[[Policies, Any], dict[str, Array]] | None

    def denominators(self, batch: Any) -> dict[str, Float[Array, ""]]:
        """Sums over the whole global batch that the loss divides by; from data alone."""
        ...

    def loss(
        self, models: Policies, batch: Any, denominators: dict[str, Any], key: Key[Array, ""]
    ) -> Loss:
        """The loss of some rows of the batch."""
        ...


class Scores(NamedTuple):
    """What a model says of every target; padding and other positions without a target hold numbers too."""

    logp_BL: Float[Array, "B L"]  # nats
    correct_BL: Bool[Array, "B L"]  # whether the target is the likeliest token
    lse_BL: Float[Array, "B L"]  # log of the sum over all logits, for z-loss


def hidden_of(models: Policies, role: str, batch: Any) -> ModelOutputs:
    """Run a model over the rows of a batch."""
    model, params = models[role]
    return model.apply(params, ModelInputs(batch.tokens_BL, batch.positions_BL, batch.segments_BL))


def score(models: Policies, role: str, batch: Any) -> tuple[Scores, ModelOutputs]:
    """Score every target of a batch under a model; and all that the model gave."""
    model, params = models[role]
    outputs = hidden_of(models, role, batch)
    return scores_of(model, params, outputs.hidden_BLD, batch.targets_BL), outputs


def scores_of(
    model: Model, params: Params, hidden_BLD: Float[Array, "B L D"], targets_BL: Int[Array, "B L"]
) -> Scores:
    """Score targets under hidden states of a model."""
    # The matrix, not a function of it: `token_logp` needs its gradient by hand.
    unembed_DV = model.unembed(params)
    return Scores(*token_logp(hidden_BLD, unembed_DV, targets_BL, model.vocab_size, model.soft_cap))
