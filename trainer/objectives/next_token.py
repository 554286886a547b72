"""Next-token prediction: pretraining and SFT."""

from typing import Any, ClassVar

import jax.numpy as jnp
from pydantic import BaseModel

from data_pipeline.batch import TokenBatch
from trainer.objective import Loss, Policies, score


class NextToken(BaseModel, frozen=True, extra="forbid", strict=True):
    """Mean negative log-likelihood (nats) over the tokens that `weight_BL` marks as targets, all of the global batch alike."""

    batch_type: ClassVar[type] = TokenBatch
    reference_columns: ClassVar[tuple[str, ...]] = ()

    def denominators(self, batch: TokenBatch) -> dict[str, Any]:
        """The number of targets."""
        return {"targets": jnp.maximum(jnp.sum(batch.weight_BL), 1.0)}

    def loss(self, models: Policies, batch: TokenBatch, denominators: dict[str, Any], key: Any) -> Loss:
        """Metrics: nll (nats a target), accuracy (share of targets that are the likeliest token)."""
        logp_BL, correct_BL, aux = score(models, "policy", batch)
        nll, n = -jnp.sum(logp_BL * batch.weight_BL), jnp.sum(batch.weight_BL)
        metrics = {"nll": (nll, n), "accuracy": (jnp.sum(correct_BL * batch.weight_BL), n)}
        return Loss(nll / denominators["targets"], metrics, aux)
