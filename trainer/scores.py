"""What a model says of the targets of a batch: log-probabilities, and whether it would have chosen them."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from data_pipeline.batch import TokenBatch
from model.api import Model, ModelInputs, ModelOutputs, Params
from model.layers.mtp import ahead, goes_on
from trainer.objective import Policies
from trainer.token_logp import token_logp


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


def nll_ahead(
    models: Policies, batch: TokenBatch, mtp_hidden: tuple[Float[Array, "B L D"], ...]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Negative log-likelihood (nats) of the policy for the tokens 2, 3, … ahead in the same document, and
    how many there are; `mtp_hidden` holds the hidden states that predict them.
    """
    model, params = models["policy"]
    total = jnp.zeros(())
    n = jnp.zeros(())
    for depth, hidden_BLD in enumerate(mtp_hidden, 1):
        # a target further ahead counts where it has a weight and is of the same document
        inside_BL = goes_on(batch.segments_BL, batch.positions_BL, depth)
        weight_BL = ahead(batch.weight_BL, depth) * inside_BL
        logp_BL = scores_of(model, params, hidden_BLD, ahead(batch.targets_BL, depth)).logp_BL
        total = total - jnp.sum(logp_BL * weight_BL)
        n = n + jnp.sum(weight_BL)
    return total, n
