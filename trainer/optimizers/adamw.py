"""AdamW (Loshchilov and Hutter 2019) with clipping by the global gradient norm."""

from typing import Any

import jax
import optax
from pydantic import BaseModel, Field, PositiveFloat

from data_pipeline.component import one_of
from model.sharding import letters_of


class AdamW(BaseModel, frozen=True, extra="forbid", strict=True):
    """Weight decay is decoupled, times the learning rate, and spares norm scales and biases."""

    peak_lr: PositiveFloat
    schedule: one_of("trainer.schedules")
    weight_decay: float = Field(ge=0)
    b1: float = Field(0.9, ge=0, lt=1)
    b2: float = Field(0.95, ge=0, lt=1)
    eps: PositiveFloat = 1e-8
    clip_norm: PositiveFloat = 1.0

    def learning_rate(self, steps: int) -> optax.Schedule:
        """Step number -> learning rate."""
        return self.schedule.of(self.peak_lr, steps)

    def problems(self, steps: int) -> list[str]:
        """Rules between this and the length of the phase."""
        warmup_steps = self.schedule.warmup_steps
        if warmup_steps <= steps:
            return []
        return [f"optimizer.schedule.warmup_steps={warmup_steps} exceeds steps={steps}; lower it or raise steps"]

    def chain(self, steps: int) -> optax.GradientTransformation:
        """The optax transformation for a phase of `steps`."""
        adamw = optax.adamw(self.learning_rate(steps), self.b1, self.b2, self.eps, weight_decay=self.weight_decay, mask=is_matrix)
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), adamw)


def is_matrix(params: Any) -> Any:
    """True for leaves with two or more letters, not counting the layer N of a stack, that are no biases (`bq_NHA`)."""

    def one(path: Any, _: Any) -> bool:
        name = path[-1].key
        return len(letters_of(name).replace("N", "")) > 1 and not name.startswith("b")

    return jax.tree.map_with_path(one, params)
