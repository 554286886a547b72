"""AdamW (Loshchilov and Hutter 2019, algorithm 2)."""

import optax
from pydantic import BaseModel, PositiveFloat, PositiveInt

from data_pipeline.component import one_of
from trainer.optimizers.common.chain import NonNegative, Pattern, Rate, finished


class AdamW(BaseModel, frozen=True, extra="forbid", strict=True):
    """Each number moves by its mean gradient over the root of its mean squared gradient. State: 8 bytes a
    parameter.
    """

    peak_lr: PositiveFloat
    schedule: one_of("trainer.schedules")
    weight_decay: NonNegative
    b1: Rate = 0.9
    b2: Rate = 0.95
    eps: PositiveFloat = 1e-8
    clip_norm: PositiveFloat | None = 1.0
    clip_each: PositiveFloat | None = None
    no_decay: tuple[Pattern, ...] = ()
    ema_decay: Rate | None = None
    mup_base_width: PositiveInt | None = None

    def learning_rate(self, steps: int) -> optax.Schedule:
        """Step number -> learning rate."""
        return self.schedule.of(self.peak_lr, steps)

    def problems(self, steps: int) -> list[str]:
        """Rules between this and the length of the phase."""
        return self.schedule.problems(steps)

    def chain(self, steps: int) -> optax.GradientTransformation:
        """The optax transformation for a phase of `steps`."""
        return finished(optax.scale_by_adam(self.b1, self.b2, self.eps), self, steps)
