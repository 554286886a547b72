"""Learning rate over the steps of a phase."""

import optax
from pydantic import BaseModel, Field, NonNegativeInt, PositiveFloat


class WarmupCosine(BaseModel, frozen=True, extra="forbid", strict=True):
    """Linear from 0 to the peak over `warmup_steps`, then a half cosine down to `end_frac` of it when all steps are made."""

    warmup_steps: NonNegativeInt
    end_frac: float = Field(ge=0, le=1)

    def of(self, peak_lr: PositiveFloat, steps: int) -> optax.Schedule:
        """Step number -> learning rate."""
        decay_steps = max(steps, self.warmup_steps + 1)  # optax counts the warmup in
        return optax.warmup_cosine_decay_schedule(0.0, peak_lr, self.warmup_steps, decay_steps, peak_lr * self.end_frac)
