"""Distillation of a teacher's distributions (Hinton et al. 2015)."""

from typing import Any, ClassVar

import jax.numpy as jnp
from pydantic import BaseModel, Field, PositiveFloat

from data_pipeline.batch import TokenBatch
from trainer.objective import Loss, PerTarget, Policies
from trainer.scores import hidden_of
from trainer.token_logp import Readout, distilled


class Distill(BaseModel, frozen=True, extra="forbid", strict=True):
    """(1 - nll_weight) · T² · KL(teacher || student), both softened by the temperature T, + nll_weight times
    the negative log-likelihood of the data; means over targets, in nats.

    The factor T² keeps the size of the gradient when T changes (section 2 there). The teacher,
    `roles.teacher`, may be of any size and architecture over the same vocabulary.
    """

    temperature: PositiveFloat
    nll_weight: float = Field(ge=0, le=1)

    batch_type: ClassVar[type] = TokenBatch
    roles: ClassVar[tuple[str, ...]] = ("policy", "teacher")
    heads: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[None] = None

    def denominators(self, batch: TokenBatch) -> dict[str, Any]:
        """The sum of the targets' weights, at least 1, so that a batch without targets does not divide by
        0.
        """
        return {"targets": jnp.maximum(jnp.sum(batch.weight_BL), 1.0)}

    def loss(
        self, models: Policies, batch: TokenBatch, denominators: dict[str, Any], key: Any
    ) -> Loss:
        """Metrics: kl (nats per target, at the temperature), nll and accuracy of the student."""
        student, params = models["policy"]
        teacher, teacher_params = models["teacher"]
        outputs = hidden_of(models, "policy", batch)
        teacher_outputs = hidden_of(models, "teacher", batch)
        # Hidden states exist for all positions, the logits of both models for a chunk of them at a time.
        scores = distilled(
            outputs.hidden_BLD,
            student.unembed(params),
            teacher_outputs.hidden_BLD,
            teacher.unembed(teacher_params),
            batch.targets_BL,
            Readout(student.vocab_size, student.soft_cap),
            Readout(teacher.vocab_size, teacher.soft_cap),
            self.temperature,
        )
        weight_BL = batch.weight_BL
        n = jnp.sum(weight_BL)
        kl = jnp.sum(scores.kl_BL * weight_BL)
        nll = -jnp.sum(scores.logp_BL * weight_BL)
        # At nll_weight=1 this is `NextToken`; at 0 the data's own targets do not count.
        kl_weight = (1 - self.nll_weight) * self.temperature**2
        total = kl_weight * kl + self.nll_weight * nll
        accuracy = jnp.sum(scores.correct_BL * weight_BL)
        metrics = {"kl": (kl, n), "nll": (nll, n), "accuracy": (accuracy, n)}
        # of the student, so that bits per byte can be compared with those of other phases
        per_target = PerTarget(-scores.logp_BL, weight_BL)
        return Loss(total / denominators["targets"], metrics, outputs.aux, per_target)
