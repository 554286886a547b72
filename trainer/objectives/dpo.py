"""Direct preference optimisation (Rafailov et al. 2023), with a likelihood term (Pang et al. 2024)."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32
from pydantic import BaseModel, Field, PositiveFloat

from data_pipeline.batch import PreferenceBatch
from trainer.objective import Loss, Policies
from trainer.scores import score


class ReferencedPairs(NamedTuple):
    """A PreferenceBatch with the reference model's summed log-probabilities (nats) of the answers."""

    tokens_BL: Int32[Any, "B L"]
    targets_BL: Int32[Any, "B L"]
    weight_BL: Float32[Any, "B L"]
    positions_BL: Int32[Any, "B L"]
    segments_BL: Int32[Any, "B L"]
    pair_weight_BP: Float32[Any, "B P"]
    reference_chosen_BP: Float32[Any, "B P"]
    reference_rejected_BP: Float32[Any, "B P"]


class DPO(BaseModel, frozen=True, extra="forbid", strict=True):
    """-log sigmoid(beta · (log-ratio of the chosen answer - log-ratio of the rejected one)), eq. 7;
    log-probabilities are sums over tokens.

    The reference is the policy that the phase starts from: its log-probabilities are computed once, so that
    there is no second model in memory.

    The margin can grow while both answers become less likely. `sft_weight` times the negative log-likelihood
    of the chosen answers counteracts that (Pang et al. 2024, eq. 1; `rpo_alpha` in TRL); ours is a mean over
    all their tokens, where the paper takes the mean of each answer.
    """

    beta: PositiveFloat
    sft_weight: float = Field(0.0, ge=0)

    batch_type: ClassVar[type] = ReferencedPairs
    roles: ClassVar[tuple[str, ...]] = ("policy",)
    heads: ClassVar[tuple[str, ...]] = ()

    def columns(self, models: Policies, batch: PreferenceBatch) -> dict[str, Array]:
        """The policy's own log-probabilities of the answers."""
        answers = score_answers(models, batch)[0]
        return {
            "reference_chosen_BP": answers.chosen_BP,
            "reference_rejected_BP": answers.rejected_BP,
        }

    def denominators(self, batch: ReferencedPairs) -> dict[str, Any]:
        """The number of pairs, and of tokens in their chosen answers; at least 1 each."""
        weight_BP = batch.pair_weight_BP
        n_pairs = jnp.sum(weight_BP)
        n_tokens = jnp.sum(jnp.sum(answer_tokens(batch, side=0), 1) * weight_BP)
        return {"pairs": jnp.maximum(n_pairs, 1.0), "chosen_tokens": jnp.maximum(n_tokens, 1.0)}

    def loss(
        self, models: Policies, batch: ReferencedPairs, denominators: dict[str, Any], key: Any
    ) -> Loss:
        """Metrics under TRL's names; accuracies count only strictly larger rewards, so they are 0 while
        policy and reference are the same.

        `ranking_accuracy` is of the policy alone, without the reference: the share of pairs whose chosen
        answer is likelier per token than the rejected one.
        """
        answers, aux = score_answers(models, batch)
        # beta · log-ratio is the implicit reward of an answer, up to a term of the prompt
        # (section 4).
        reward_chosen_BP = self.beta * (answers.chosen_BP - batch.reference_chosen_BP)
        reward_rejected_BP = self.beta * (answers.rejected_BP - batch.reference_rejected_BP)
        margin_BP = reward_chosen_BP - reward_rejected_BP
        # log_sigmoid, not log of sigmoid: a large negative margin would give the log of 0.
        loss_BP = -jax.nn.log_sigmoid(margin_BP)
        values = {
            "dpo_loss": loss_BP,
            "rewards/chosen": reward_chosen_BP,
            "rewards/rejected": reward_rejected_BP,
            "rewards/margins": margin_BP,
            "rewards/accuracies": margin_BP > 0,
            "ranking_accuracy": answers.chosen_mean_BP > answers.rejected_mean_BP,
            "logps/chosen": answers.chosen_BP,
            "logps/rejected": answers.rejected_BP,
        }
        weight_BP = batch.pair_weight_BP  # 0 in empty slots, whose losses are not 0
        n = jnp.sum(weight_BP)
        metrics = {name: (jnp.sum(x_BP * weight_BP), n) for name, x_BP in values.items()}
        total = jnp.sum(loss_BP * weight_BP) / denominators["pairs"]
        # A Python number: at 0 the term and its metric are not compiled at all.
        if self.sft_weight:
            nll = -jnp.sum(answers.chosen_BP * weight_BP)
            total = total + self.sft_weight * nll / denominators["chosen_tokens"]
            metrics["sft_loss"] = (nll, jnp.sum(answers.chosen_tokens_BP * weight_BP))
        return Loss(total, metrics, aux)


class Answers(NamedTuple):
    """Log-probabilities (nats) of the answers of every pair slot, summed over tokens, and their numbers of
    tokens.
    """

    chosen_BP: Float[Array, "B P"]
    rejected_BP: Float[Array, "B P"]
    chosen_tokens_BP: Float[Array, "B P"]
    rejected_tokens_BP: Float[Array, "B P"]

    @property
    def chosen_mean_BP(self) -> Float[Array, "B P"]:
        """A token's log-probability; 0 where the slot is empty."""
        # At least 1: an empty slot has no tokens, and 0 / 0 is NaN.
        return self.chosen_BP / jnp.maximum(self.chosen_tokens_BP, 1.0)

    @property
    def rejected_mean_BP(self) -> Float[Array, "B P"]:
        """A token's log-probability; 0 where the slot is empty."""
        return self.rejected_BP / jnp.maximum(self.rejected_tokens_BP, 1.0)


def score_answers(
    models: Policies, batch: PreferenceBatch | ReferencedPairs
) -> tuple[Answers, dict[str, Any]]:
    """(the answers' scores under the policy, the model's auxiliary sums)."""
    scores, outputs = score(models, "policy", batch)
    sums, counts = [], []
    for side in (0, 1):  # chosen, rejected
        answer_BLP = answer_tokens(batch, side)
        # not an einsum, for which TPUs would round float32 operands to bfloat16
        sums.append(jnp.sum(scores.logp_BL[..., None] * answer_BLP, 1))
        counts.append(jnp.sum(answer_BLP, 1))
    return Answers(*sums, *counts), outputs.aux


def answer_tokens(batch: PreferenceBatch | ReferencedPairs, side: int) -> Float[Array, "B L P"]:
    """1 where a position is a token of the chosen (0) or rejected (1) answer of a pair slot, else 0."""
    return slots_of(batch, side) * batch.weight_BL[..., None]


def slots_of(batch: PreferenceBatch | ReferencedPairs, side: int) -> Array:
    """[B, L, P]: whether a position is in the chosen (0) or rejected (1) sequence of a pair slot."""
    P = batch.pair_weight_BP.shape[1]
    # Slot p holds its chosen sequence as segment 2p + 1 and the rejected one as 2p + 2.
    segments_P = 2 * jnp.arange(P) + 1 + side  # segment 0 is padding
    return batch.segments_BL[..., None] == segments_P
