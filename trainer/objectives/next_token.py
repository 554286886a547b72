"""Next-token prediction: pretraining and SFT."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array
from pydantic import BaseModel, Field

from data_pipeline.batch import TokenBatch
from model.api import ModelOutputs
from model.layers.mtp import ahead, goes_on
from trainer.objective import Loss, PerTarget, Policies, score, scores_of


class NextToken(BaseModel, frozen=True, extra="forbid", strict=True):
    """Mean negative log-likelihood (nats) over the tokens that `weight_BL` marks as targets, all of the
    global batch alike.

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
        """The numbers of targets and of tokens."""
        n_targets = jnp.sum(batch.weight_BL)
        # Router losses count every token, also prompts, which are no targets.
        n_tokens = jnp.sum(batch.segments_BL > 0).astype(jnp.float32)
        return {"targets": jnp.maximum(n_targets, 1.0), "tokens": jnp.maximum(n_tokens, 1.0)}

    def loss(
        self, models: Policies, batch: TokenBatch, denominators: dict[str, Any], key: Any
    ) -> Loss:
        """Metrics: nll (nats a target), accuracy (share of targets that are the likeliest token), and what
        else is in the loss.
        """
        # Sums, divided by what the whole global batch has: a mean of means would weigh short rows more.
        scores, outputs = score(models, "policy", batch)
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
            nll_ahead, n_ahead = self._ahead(models, batch, outputs)
            weight = self.mtp_weight / len(outputs.mtp_hidden)
            total = total + weight * nll_ahead / denominators["targets"]
            metrics["nll_further"] = nll_ahead, n_ahead
        # Router losses come as sums over tokens, padding apart, times their coefficients.
        if "penalty" in outputs.aux:
            penalty = outputs.aux["penalty"]
            total = total + penalty / denominators["tokens"]
            metrics["router_loss"] = penalty, jnp.sum(batch.segments_BL > 0).astype(jnp.float32)
        return Loss(total, metrics, outputs.aux, PerTarget(-scores.logp_BL, weight_BL))

    def _ahead(
        self, models: Policies, batch: TokenBatch, outputs: ModelOutputs
    ) -> tuple[Array, Array]:
        """Negative log-likelihood of the tokens 2, 3, … ahead in the same segment, and how many there are."""
        model, params = models["policy"]
        total = jnp.zeros(())
        n = jnp.zeros(())
        for depth, hidden_BLD in enumerate(outputs.mtp_hidden, 1):
            # a target further ahead counts where it has a weight and is of the same document
            inside_BL = goes_on(batch.segments_BL, batch.positions_BL, depth)
            weight_BL = ahead(batch.weight_BL, depth) * inside_BL
            logp_BL = scores_of(model, params, hidden_BLD, ahead(batch.targets_BL, depth)).logp_BL
            total = total - jnp.sum(logp_BL * weight_BL)
            n = n + jnp.sum(weight_BL)
        return total, n
