"""Direct preference optimisation (Rafailov et al. 2023)."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import BaseModel, PositiveFloat

from data_pipeline.batch import PreferenceBatch
from trainer.objective import Loss, Policies, score

Slots = tuple[Float[Array, "B P"], Float[Array, "B P"], Float[Array, "B P"], Float[Array, "B P"]]


class DPO(BaseModel, frozen=True, extra="forbid", strict=True):
    """-log sigmoid(beta · (log-ratio of the chosen answer - log-ratio of the rejected one)), eq. 7;
    log-probabilities are sums over tokens.

    The reference's log-probabilities come with the batch: they were computed once, by the policy that the
    phase starts from.
    """

    beta: PositiveFloat

    batch_type: ClassVar[type] = PreferenceBatch
    reference_columns: ClassVar[tuple[str, ...]] = ("reference_chosen_P", "reference_rejected_P")

    def denominators(self, batch: PreferenceBatch) -> dict[str, Any]:
        """The number of pairs."""
        return {"pairs": jnp.maximum(jnp.sum(batch.pair_weight_BP), 1.0)}

    def reference(self, models: Policies, batch: PreferenceBatch) -> tuple[Array, ...]:
        """What `reference_columns` hold: the policy's own answer log-probabilities, chosen and rejected."""
        return answer_logp(models, batch)[:2]

    def loss(self, models: Policies, batch: PreferenceBatch, denominators: dict[str, Any], key: Any) -> Loss:
        """Metrics under TRL's names; accuracies are strict, so they are 0 while policy and reference are
        the same.

        `ranking_accuracy` asks the policy alone, without reference: is the chosen answer likelier a token
        than the rejected one?
        """
        chosen_BP, rejected_BP, chosen_mean_BP, rejected_mean_BP, aux = answer_logp(models, batch)
        reward_chosen_BP = self.beta * (chosen_BP - batch.reference_chosen_BP)
        reward_rejected_BP = self.beta * (rejected_BP - batch.reference_rejected_BP)
        margin_BP = reward_chosen_BP - reward_rejected_BP
        weight_BP = batch.pair_weight_BP
        loss_BP = -jax.nn.log_sigmoid(margin_BP)
        values = {
            "dpo_loss": loss_BP,
            "rewards/chosen": reward_chosen_BP,
            "rewards/rejected": reward_rejected_BP,
            "rewards/margins": margin_BP,
            "rewards/accuracies": margin_BP > 0,
            "ranking_accuracy": chosen_mean_BP > rejected_mean_BP,
            "logps/chosen": chosen_BP,
            "logps/rejected": rejected_BP,
        }
        n = jnp.sum(weight_BP)
        return Loss(
            jnp.sum(loss_BP * weight_BP) / denominators["pairs"],
            {k: (jnp.sum(v * weight_BP), n) for k, v in values.items()},
            aux,
        )


def answer_logp(models: Policies, batch: PreferenceBatch) -> tuple[*Slots, dict[str, Any]]:
    """Answer log-probabilities of the policy by pair slot: sums (chosen, rejected), means a token (chosen,
    rejected); then aux.
    """
    scores, outputs = score(models, "policy", batch)
    P = batch.pair_weight_BP.shape[1]
    slots_P = 2 * jnp.arange(P) + 1
    sides = []
    for offset in (0, 1):
        in_slot_BLP = (batch.segments_BL[..., None] == slots_P + offset) * batch.weight_BL[..., None]
        n_BP = jnp.maximum(jnp.sum(in_slot_BLP, 1), 1.0)
        sides.append(
            (jnp.sum(scores.logp_BL[..., None] * in_slot_BLP, 1), n_BP)
        )  # no einsum: TPUs round float32 factors to bfloat16
    (chosen_BP, n_chosen_BP), (rejected_BP, n_rejected_BP) = sides
    return chosen_BP, rejected_BP, chosen_BP / n_chosen_BP, rejected_BP / n_rejected_BP, outputs.aux
