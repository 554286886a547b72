"""A reward model of preferences (Bradley and Terry 1952; Stiennon et al. 2020, §3.4)."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import BaseModel, Field

from data_pipeline.batch import PreferenceBatch
from model.sharding import einsum, shard
from trainer.objective import Loss, Policies
from trainer.objectives.dpo import slots_of
from trainer.scores import hidden_of


class Reward(BaseModel, frozen=True, extra="forbid", strict=True):
    """-log sigmoid(reward of the chosen answer - reward of the rejected one).

    A reward is the product of `reward_D` and the hidden state at the last position of an answer, which has
    read all of it but the closing token. `center_rewards_coefficient` times the squared sum of a pair's
    rewards keeps their mean near 0, which the loss of differences does not determine (Eisenstein et al.
    2023, eq. 2).
    """

    center_rewards_coefficient: float = Field(0.0, ge=0)

    batch_type: ClassVar[type] = PreferenceBatch
    roles: ClassVar[tuple[str, ...]] = ("policy",)
    heads: ClassVar[tuple[str, ...]] = ("reward_D",)
    columns: ClassVar[None] = None

    def denominators(self, batch: PreferenceBatch) -> dict[str, Any]:
        """The number of pairs, at least 1, so that a batch without pairs does not divide by 0."""
        return {"pairs": jnp.maximum(jnp.sum(batch.pair_weight_BP), 1.0)}

    def loss(
        self, models: Policies, batch: PreferenceBatch, denominators: dict[str, Any], key: Any
    ) -> Loss:
        """Metrics: reward_loss (nats a pair), accuracy (share of pairs whose chosen answer has the larger
        reward), margin, the rewards of both sides, and where it is in the loss `centering`.
        """
        outputs = hidden_of(models, "policy", batch)
        reward_BL = rewards_of(models["policy"][1]["reward_D"], outputs.hidden_BLD)
        # Side 0 is the chosen answer, side 1 the rejected one.
        chosen_BP = at_answer_ends(reward_BL, batch, side=0)
        rejected_BP = at_answer_ends(reward_BL, batch, side=1)
        margin_BP = chosen_BP - rejected_BP
        loss_BP = -jax.nn.log_sigmoid(margin_BP)
        values = {
            "reward_loss": loss_BP,
            "accuracy": margin_BP > 0,
            "margin": margin_BP,
            "rewards/chosen": chosen_BP,
            "rewards/rejected": rejected_BP,
        }
        if self.center_rewards_coefficient:
            # Adding a constant to all rewards changes no margin, so only this term determines their mean.
            centering_BP = (chosen_BP + rejected_BP) ** 2
            values["centering"] = centering_BP
            loss_BP = loss_BP + self.center_rewards_coefficient * centering_BP

        # Free slots have weight 0.
        weight_BP = batch.pair_weight_BP
        n = jnp.sum(weight_BP)
        metrics = {name: (jnp.sum(x_BP * weight_BP), n) for name, x_BP in values.items()}
        total = jnp.sum(loss_BP * weight_BP) / denominators["pairs"]
        return Loss(total, metrics, outputs.aux)


def rewards_of(
    reward_D: Float[Array, " D"], hidden_BLD: Float[Array, "B L D"]
) -> Float[Array, "B L"]:
    """The reward at every position, that is of every prefix of a row's documents, in float32."""
    # float32: bfloat16 rewards would often be equal, which decides no preference
    in_use_D = shard(reward_D.astype(jnp.float32), "D")
    return einsum("BLD,D->BL", hidden_BLD.astype(jnp.float32), in_use_D)


def at_answer_ends(
    reward_BL: Float[Array, "B L"], batch: PreferenceBatch, side: int
) -> Float[Array, "B P"]:
    """The rewards at the last positions of the chosen (0) or rejected (1) answers; 0 in free slots."""
    in_slot_BLP = slots_of(batch, side)
    positions_BLP = jnp.where(in_slot_BLP, batch.positions_BL[..., None], -1)
    # a maximum instead of comparing with the next position, which may be on another device
    last_BP = jnp.max(positions_BLP, 1, keepdims=True)
    is_last_BLP = in_slot_BLP & (positions_BLP == last_BP)
    return jnp.sum(reward_BL[..., None] * is_last_BLP, 1)
