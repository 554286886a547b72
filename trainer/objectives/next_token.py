"""Next-token prediction: pretraining and SFT."""

from typing import Any, ClassVar

import jax.numpy as jnp
from pydantic import BaseModel, Field

from data_pipeline.batch import TokenBatch
from trainer.objective import Loss, PerTarget, Policies
from trainer.scores import nll_ahead, score


class NextToken(BaseModel, frozen=True, extra="forbid", strict=True):
    """Mean negative log-likelihood (nats) over all targets of the global batch, which `weight_BL` marks.

    `z_loss` times the squared log of the softmax's sum keeps logits small (Chowdhery et al. 2022, §5);
    `mtp_weight` is that of a model's predictions further ahead (DeepSeek-V3, eq. 24-25), their mean over
    depths. What the model itself asks for (router losses) is added.
    """

    z_loss: float = Field(0.0, ge=0)
    mtp_weight: float = Field(0.0, ge=0)

    batch_type: ClassVar[type] = TokenBatch
    roles: ClassVar[tuple[str, ...]] = ("policy",)
    heads: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[None] = None

    def denominators(self, batch: TokenBatch) -> dict[str, Any]:
        """The numbers of targets and of tokens, at least 1: a batch without any divides by no zero."""
        n_targets = jnp.sum(batch.weight_BL)
        # Router losses count every token, also prompts, which are no targets; segment 0 is padding.
        n_tokens = jnp.sum(batch.segments_BL > 0).astype(jnp.float32)
        return {"targets": jnp.maximum(n_targets, 1.0), "tokens": jnp.maximum(n_tokens, 1.0)}

    def loss(
        self, models: Policies, batch: TokenBatch, denominators: dict[str, Any], key: Any
    ) -> Loss:
        """Metrics: nll (nats a target), accuracy (share of targets that are the likeliest token), …"""
        # Of every target: its log-probability, whether it is the likeliest token, the softmax's log sum.
        scores, outputs = score(models, "policy", batch)
        # Sums, divided by what the whole global batch has: a mean of means would weigh short rows more.
        weight_BL = batch.weight_BL
        n = jnp.sum(weight_BL)
        nll = -jnp.sum(scores.logp_BL * weight_BL)
        total = nll / denominators["targets"]
        metrics = {"nll": (nll, n), "accuracy": (jnp.sum(scores.correct_BL * weight_BL), n)}
        if self.z_loss:
            # log Z is 0 where the softmax needs no normalising: its square pulls logits there.
            squares = jnp.sum(scores.lse_BL**2 * weight_BL)
            total = total + self.z_loss * squares / denominators["targets"]
            metrics["z_loss"] = squares, n
        # An architecture without such modules gives no hidden states for them.
        if self.mtp_weight and outputs.mtp_hidden:
            nll_further, n_further = nll_ahead(models, batch, outputs.mtp_hidden)
            weight = self.mtp_weight / len(outputs.mtp_hidden)
            total = total + weight * nll_further / denominators["targets"]
            metrics["nll_further"] = nll_further, n_further
        # Router losses come as sums over tokens, padding apart, times their coefficients.
        if "penalty" in outputs.aux:
            penalty = outputs.aux["penalty"]
            total = total + penalty / denominators["tokens"]
            metrics["router_loss"] = penalty, jnp.sum(batch.segments_BL > 0).astype(jnp.float32)
        return Loss(total, metrics, outputs.aux, PerTarget(-scores.logp_BL, weight_BL))
